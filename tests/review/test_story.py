"""`show`: one pair's story, from whatever a run holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from PIL import Image
from typer.testing import CliRunner, Result

from pairclean.align import Alignment
from pairclean.align.alignment import Head
from pairclean.align.canonical import LinearMap
from pairclean.pairs import UserError
from pairclean.review.story import story, write_picture
from pairclean.run import Run
from pairclean.run.results import open_learned, save_learned

NAN = float("nan")


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    return made_run([{}, {}], [[0.99, 0.2, NAN, None, 0.9, 0.97], [0.99, 0.99, 0.99]])


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["show", *map(str, arguments)], env={"COLUMNS": "120"})


def rewrite(run: Run, shard: str, row: int, **fields: object) -> None:
    path = run.path / "verdicts" / f"{shard}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[row] |= fields
    pq.write_table(table.from_pylist(rows, table.schema), path)


def test_the_nearest_are_those_beside_it(run: Run) -> None:
    told = story(run, "000000005")
    assert told.caption == "a red thing, number 5"
    assert told.why == "Its clean probability is 0.97, so it is kept."
    # Vectors lie on a quarter of a circle in order; row 2 is unreadable, and nobody's neighbour.
    assert [near.pair_id for near in told.captions][:2] in (["000000004", "000010000"], ["000010000", "000000004"])
    assert {near.pair_id for near in told.captions} == {"000000003", "000000004", "000010000", "000010001", "000010002"}
    assert [near.similarity for near in told.captions] == sorted((n.similarity for n in told.captions), reverse=True)
    assert told.images == told.captions  # pictures have the vectors of their captions here
    assert (told.caption_rank, told.caption_count) == (1, 8)
    assert told.source == str(Path(run.manifest["source"]) / "00000.parquet")


@pytest.mark.parametrize(
    ("pair_id", "why"),
    [
        ("000000000", "Its clean probability is 0.99, so it is kept."),
        (
            "000000001",
            "Its clean probability is 0.2, below 0.5, so it is flagged; "
            "it got no other caption because no rematch is sure enough.",
        ),
        ("000000002", "It cannot be read: no rematch is sure enough."),
        ("000000003", "It was not judged: no rematch is sure enough."),
    ],
)
def test_why(run: Run, pair_id: str, why: str) -> None:
    assert story(run, pair_id).why == why


def test_a_pair_that_was_not_judged_has_no_neighbours(run: Run) -> None:
    told = story(run, "000000002")
    assert told.captions == told.images == []
    assert told.caption_rank is None


def test_a_rematched_pair_says_what_it_got(run: Run) -> None:
    rematch = {"rematch_pair_id": "000010002", "rematch_caption": "a blue \x1b[31mthing", "rematch_probability": 0.953}
    rewrite(run, "00000", 1, verdict="rematched", reason=None, **rematch)
    told = story(run, "000000001")
    assert told.why.endswith("so it is flagged; the caption of 000010002 fits it with a probability of 95.3%.")
    shown = invoke(run.path, "000000001").stdout
    assert "rematched to" in shown
    assert "a blue \\x1b[31mthing" in shown  # what would steer a terminal is spelled out
    assert "\x1b" not in shown


def test_an_unknown_id_names_those_like_it(run: Run) -> None:
    with pytest.raises(
        UserError, match=r"has no pair '00000000x'; similar ids are 00000000\d, 00000000\d, 00000000\d$"
    ):
        story(run, "00000000x")
    with pytest.raises(UserError, match=r"has no pair 'something else'$"):
        story(run, "something else")
    result = invoke(run.path, "")
    assert result.exit_code == 2
    assert "has no pair ''" in result.stderr


def test_an_id_that_is_no_text_is_none_there_is(run: Run) -> None:
    with pytest.raises(UserError, match=r"has no pair '\\udcff'$"):
        story(run, b"\xff".decode(errors="surrogateescape"))


def test_neighbours_are_those_of_the_space_that_judged(run: Run) -> None:
    turned = Alignment()
    turned.image = Head(2, LinearMap(np.zeros(2, np.float32), np.array([[0, -1], [-1, 0]], np.float32)))
    save_learned(run, replace(open_learned(run), aligned=[turned] * 5))  # learned, but not used
    assert story(run, "000000005").caption_rank == 1


def test_without_its_source_the_run_still_tells(run: Run) -> None:
    Path(run.manifest["source"]).rename(run.path.parent / "gone")
    told = story(run, "000000001")
    assert told.source is None
    assert len(told.captions) == 5
    with pytest.raises(UserError):
        write_picture(run, told.verdict, run.path.parent)


def test_the_picture_is_written_as_it_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for _ in range(2):  # the same bytes again are no conflict
        found = json.loads(invoke(run.path, "000010001", "--open", "--json").stdout)
    assert found["picture"] == str(here / "000010001.png")
    assert [file.name for file in here.iterdir()] == ["000010001.png"]
    with Image.open(io.BytesIO((here / "000010001.png").read_bytes())) as image:
        assert image.getpixel((0, 0)) == (7, 7, 7)
    (here / "000010001.png").write_bytes(b"mine")
    result = invoke(run.path, "000010001", "--open")
    assert result.exit_code == 2
    assert "already exists with other content" in result.stderr
    assert (here / "000010001.png").read_bytes() == b"mine"


def test_a_name_of_a_file_stays_in_its_folder(run: Run, tmp_path: Path) -> None:
    verdict = story(run, "000010001").verdict | {"pair_id": "../../etc/pass wd:1"}
    assert write_picture(run, verdict, tmp_path) == tmp_path / "etc_pass_wd_1.png"


def test_json_and_the_terminal_say_the_same(run: Run) -> None:
    found = json.loads(invoke(run.path, "000000001", "--json").stdout)
    shown = invoke(run.path, "000000001").stdout
    assert found["verdict"]["clean_probability"] == pytest.approx(0.2)
    assert found["why"].split(";")[0] in " ".join(shown.split())
    for near in found["captions"]:
        assert near["caption"] in shown
    assert f"number {found['caption_rank']} of {found['caption_count']}" in shown
