"""`pairclean plant`: it parses, calls the library, and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pairclean_cli.main import app
from typer.testing import CliRunner


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


def test_what_was_planted_is_told(tmp_path: Path) -> None:
    captions = [f"red {i}, blue {i}" for i in range(9)] + ["red"]
    table = pa.table(
        {"n": [i % 2 for i in range(10)], "jpg": [str(i).encode() for i in range(10)], "caption": captions}
    )
    pq.write_table(table, tmp_path / "s.parquet")
    source, out = tmp_path / "s.parquet", tmp_path / "out"
    code, shown, _ = invoke("plant", source, out, "--rate", 1, "--kind", "partial")
    assert code == 0
    for words in (
        "9 (90.0%) with the caption of another",
        "1 whose captions cannot be split",
        f"{out}.truth.parquet",
    ):
        assert words in shown
    code, shown, _ = invoke(
        "plant", source, tmp_path / "b", "--rate", 0.6, "--kind", "within:n", "--orphans", 1, "--json"
    )
    assert json.loads(shown) == {
        "shards": str(tmp_path / "b"),
        "truth": str(tmp_path / "b.truth.parquet"),
        "pairs": 4,
        "moved": 0,
        "left_out": 6,
        "left_alone": 0,
        "image_root": None,
    }
    assert len(pq.read_table(tmp_path / "b" / "s.parquet")) == 4


def test_where_images_are_files_it_says_where_they_stay(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"a picture")
    pq.write_table(pa.table({"file_name": ["a.png"], "caption": ["x"]}), tmp_path / "in" / "s.parquet")
    _, shown, _ = invoke("plant", tmp_path / "in", tmp_path / "out", "--rate", 0)
    assert f"--image-root {tmp_path / 'in'}" in shown


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    code, shown, error = invoke("plant", tmp_path / "nothing", tmp_path / "out", "--rate", 2)
    assert (code, shown) == (2, "")
    assert error == "error: --rate 2.0: it should be a share between 0 and 1\n"
    assert invoke("plant", tmp_path / "nothing", tmp_path / "out")[0] == 2  # --rate has no default
