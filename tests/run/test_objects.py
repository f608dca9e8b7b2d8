"""Sources, encoders and writers that the caller hands in as Python objects."""

from __future__ import annotations

import dataclasses
import io
import runpy
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pairclean
from pairclean.embed.hog_tfidf import HogTfidf
from pairclean.pairs import Roles, Row, Shard, UserError
from pairclean.sources import Source, open_source
from pairclean.synthetic.scenes import draw_scenes

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"method": "canonical", "seed": 0}


class Memory(Source):
    """Pairs in memory, 60 a shard; the third picture is missing."""

    path = "drawn scenes"
    roles = Roles("image", "caption", "name")

    def __init__(self, fingerprint: str = "1") -> None:
        self.pairs = [(scene.image, scene.caption) for scene in draw_scenes(120, seed=0)]
        self.shards = [Shard(f"part-{i}", self.path, 60, fingerprint) for i in range(2)]
        self.read: list[str] = []

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        if images:
            self.read.append(shard.name)
        first = 60 * int(shard.name[-1])
        for row, (image, caption) in enumerate(self.pairs[first : first + shard.rows]):
            lost = row == 2 or image is None
            yield Row(
                row,
                f"pair {first + row}",
                image if images and not lost else None,
                (caption,),
                reason="it is missing" if images and lost else None,
            )


class Encoder(HogTfidf):
    """The built-in encoder under another name."""

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        self.description = {**self.description, "version": version}


class Lines:
    """A writer of one line a pair."""

    def files(self, shard: Shard) -> list[str]:
        return [f"{shard.name}.txt"]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        out.mkdir(exist_ok=True)
        (out / self.files(shard)[0]).write_text("\n".join(kept["pairclean_pair_id"].to_pylist()))

    def finish(self, out: Path) -> None:
        (out / "done").write_text("")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("objects") / "run"
    pairclean.clean(Memory(), home, encoder=Encoder(), **OPTIONS)
    return home


def test_a_run_over_objects(finished: Path) -> None:
    verdicts = pairclean.open_run(finished).verdicts().to_pydict()
    assert verdicts["pair_id"] == [f"pair {number}" for number in range(120)]
    assert [verdicts["reason"][i] for i in (2, 62)] == ["it is missing"] * 2
    left = pa.concat_tables(pq.read_table(finished / "cleaned" / f"part-{i}.parquet") for i in range(2))
    kept = [i for i, verdict in enumerate(verdicts["verdict"]) if verdict in ("clean", "rematched")]
    assert left["name"].to_pylist() == [verdicts["pair_id"][i] for i in kept]
    pairs = Memory().pairs
    assert left["image"].to_pylist() == [pairs[i][0] for i in kept]
    captions = [verdicts["rematch_caption"][i] or pairs[i][1] for i in kept]
    assert left["caption"].to_pylist() == captions


def test_the_same_objects_resume_it(finished: Path) -> None:
    source = Memory()
    run = pairclean.clean(source, finished, encoder=Encoder(), **OPTIONS)
    assert source.read == []
    assert run.report["pairs"] == 120
    with pytest.raises(UserError, match="not the encoder"):
        pairclean.clean(Memory(), finished, encoder=Encoder(2), **OPTIONS)


def test_what_needs_the_objects_says_so(finished: Path) -> None:
    run = pairclean.open_run(finished)
    assert len(run.verdicts()) == 120
    with pytest.raises(UserError, match=r"python:Memory\(drawn scenes\).*pairclean\.clean"):
        pairclean.audit(run, ["topic"])
    with pytest.raises(UserError, match="is a run over python:Memory"):
        pairclean.clean("elsewhere", finished, encoder=Encoder(), **OPTIONS)
    with pytest.raises(UserError, match="python:Encoder"):
        pairclean.clean(Memory("2"), finished, **OPTIONS, model="python:Encoder")
    with pytest.raises(UserError, match="name another directory"):
        pairclean.clean(Memory(), finished, encoder=Encoder(), writer=Lines(), **OPTIONS)


@pytest.mark.slow
def test_a_shard_of_another_fingerprint_is_embedded_again(tmp_path: Path) -> None:
    pairclean.clean(Memory(), tmp_path / "run", encoder=Encoder(), **OPTIONS)
    source = Memory()
    source.shards[1] = dataclasses.replace(source.shards[1], fingerprint="2")
    pairclean.clean(source, tmp_path / "run", encoder=Encoder(), **OPTIONS)
    assert source.read[0] == "part-1"


def test_a_writer(tmp_path: Path) -> None:
    run = pairclean.clean(Memory(), tmp_path / "run", encoder=Encoder(), writer=Lines(), **OPTIONS)
    verdicts = run.verdicts().to_pydict()
    written = [line for i in range(2) for line in (run.path / "cleaned" / f"part-{i}.txt").read_text().split("\n")]
    clean = ("clean", "rematched")
    assert written == [p for p, v in zip(verdicts["pair_id"], verdicts["verdict"], strict=True) if v in clean]
    assert (run.path / "cleaned" / "done").exists()
    with pytest.raises(UserError, match=r"the writer of .* is a Python object"):
        _ = pairclean.open_run(run.path).writer


def test_a_source_of_ones_own_with_captions_in_lists(tmp_path: Path) -> None:
    from pairclean.export.rows import TablesOfRows

    class Two(Memory):
        many = True

        def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
            for row in super().rows(shard, images=images):
                yield dataclasses.replace(row, captions=(*row.captions, "another"), many=True)

    source = Two()
    kept = pa.table({"row": [0, 0, 5], "caption_index": [0, 1, 1], "caption": ["new", None, None]}).cast(
        pa.schema([("row", pa.int64()), ("caption_index", pa.int32()), ("caption", pa.string())])
    )
    TablesOfRows(source).write(source.shards[0], kept, tmp_path)
    written = pq.read_table(tmp_path / "part-0.parquet")
    assert written.to_pydict() == {
        "name": ["pair 0", "pair 5"],
        "image": [source.pairs[0][0], source.pairs[5][0]],
        "caption": [["new", "another"], ["another"]],
    }


def test_the_default_image() -> None:
    source = Memory()
    assert source.image(source.shards[1], 0) == source.pairs[60][0]
    with pytest.raises(UserError, match="it is missing"):
        source.image(source.shards[1], 2)
    with pytest.raises(UserError, match="no such row"):
        source.image(source.shards[1], 99)


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second call resumes what is there
        found = runpy.run_path(str(ROOT / "examples" / "own_source.py"))
        assert sum(found["run"].report["verdicts"].values()) == 600
    source = open_source(tmp_path / "example_source" / "run" / "cleaned")
    picture = next(iter(source.rows(source.shards[0]))).image
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
