"""Everything that a user can fix gets one sentence on stderr and status 2, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean.synthetic.scenes import draw_scenes, write_shards

HOG = ("--model", "hog-tfidf")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(40, 0), folder, shard_size=20)
    return folder


@pytest.fixture(scope="module")
def embedded(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "embedded"
    assert CliRunner().invoke(app, ["embed", str(shards), str(run), *HOG]).exit_code == 0
    return run


def complaint(*arguments: object) -> str:
    """The one sentence that the command prints where it refuses."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "500"})
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_a_missing_column_is_named_with_those_that_are_there(shards: Path, tmp_path: Path) -> None:
    said = complaint("clean", shards, tmp_path / "run", *HOG, "--caption-column", "title")
    assert "'title'" in said
    assert "caption" in said
    assert not (tmp_path / "run").exists()


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} is empty" in complaint("clean", tmp_path / "empty", tmp_path / "run", *HOG)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_parquet(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    assert "no captions beside them" in complaint("clean", tmp_path / "pictures", tmp_path / "run", *HOG)
    assert not (tmp_path / "run").exists()


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist" in complaint("clean", tmp_path / "nowhere", tmp_path / "deep" / "run", *HOG)
    assert not (tmp_path / "deep" / "run").exists()


def test_a_damaged_shard(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.parquet").write_bytes(b"PAR1 and no more")
    assert "cannot be read as Parquet" in complaint("clean", tmp_path / "shards", tmp_path / "run", *HOG)


def test_only_addresses_and_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.table({"url": ["http://a/b.jpg"], "caption": ["a"]}), tmp_path / "shards" / "0.parquet")
    assert "img2dataset" in complaint("clean", tmp_path / "shards", tmp_path / "run", *HOG)


def test_a_checkpoint_that_does_not_exist(shards: Path, tmp_path: Path) -> None:
    said = complaint("clean", shards, tmp_path / "run", "--model", "ViT-B-32", "--pretrained", tmp_path / "none.pt")
    assert f"{tmp_path / 'none.pt'} does not exist" in said
    assert not (tmp_path / "run").exists()


def test_a_model_folder_that_does_not_exist(shards: Path, tmp_path: Path) -> None:
    said = complaint("clean", shards, tmp_path / "run", "--model", f"local-dir:{tmp_path / 'none'}")
    assert f"{tmp_path / 'none'} does not exist" in said
    assert not (tmp_path / "run").exists()


def test_an_output_below_a_file(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot write to" in complaint("clean", shards, tmp_path / "file" / "run", *HOG)
    assert "is a file" in complaint("clean", shards, tmp_path / "file", *HOG)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no /proc, which nobody can write to")
def test_an_output_where_nobody_can_write(shards: Path) -> None:
    assert "cannot write to /proc/pairclean" in complaint("clean", shards, "/proc/pairclean", *HOG)
    assert "cannot write" in complaint("demo", "/proc/pairclean")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write everywhere")
def test_an_output_without_permission(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in complaint("clean", shards, tmp_path / "locked" / "run", *HOG)


def test_an_output_that_holds_something_else(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert "is not empty and holds no run" in complaint("clean", shards, tmp_path, *HOG)
    assert "is not empty and holds no demo" in complaint("demo", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_source_as_output(shards: Path) -> None:
    assert "is the source itself" in complaint("clean", shards, shards, *HOG)


def test_an_output_of_another_configuration(shards: Path, embedded: Path, tmp_path: Path) -> None:
    before = (embedded / "manifest.json").read_bytes()
    said = complaint("clean", shards, embedded, *HOG, "--limit", 10)
    assert "with no --limit, not with --limit 10" in said
    assert f"`pairclean rematch {embedded} --flag-below 0.3`" in complaint(
        "clean", shards, embedded, *HOG, "--flag-below", 0.3
    )
    assert "not with --model ViT-B-32" in complaint("clean", shards, embedded)
    write_shards(draw_scenes(5, 1), tmp_path / "other")
    assert f"not over {tmp_path / 'other'}" in complaint("clean", tmp_path / "other", embedded, *HOG)
    assert (embedded / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--min-precision", 2), "--min-precision 2.0: input should be less than or equal to 1"),
        (("--flag-below", "nan"), "--flag-below nan"),
        (("--limit", 0), "--limit 0: input should be greater than or equal to 1"),
        (("--workers", 0), "--workers 0: it should be a number from 1 on"),
        (("--method", "zero-shot"), "hog-tfidf cannot compare images with captions untrained"),
        (("--score", "clip"), "hog-tfidf has no similarity of its own"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--device", "tpu"), "There is no device 'tpu'"),
    ],
)
def test_options_that_make_no_sense(shards: Path, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    assert said in complaint("clean", shards, tmp_path / "run", *HOG, *arguments)
    assert not (tmp_path / "run").exists()
    assert said in complaint("clean", shards, tmp_path / "run", *HOG, *arguments, "--dry-run")


def test_a_choice_that_does_not_exist_is_a_usage_error(shards: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["clean", str(shards), str(tmp_path / "run"), "--method", "magic"])
    assert result.exit_code == 2
    assert "zero-shot" in result.stderr


def test_a_stage_before_its_turn(embedded: Path) -> None:
    said = complaint("rematch", embedded, "--flag-below", 0.3)
    assert said.endswith(f"has not been through `align`, which comes first: run `pairclean align {embedded}`")
    assert "run `pairclean clean` to its end" not in said


def test_an_option_is_checked_before_anything_is_thrown_away(embedded: Path) -> None:
    before = (embedded / "manifest.json").read_bytes()
    assert "hog-tfidf cannot compare images" in complaint("align", embedded, "--method", "zero-shot")
    assert (embedded / "manifest.json").read_bytes() == before


def test_a_stage_of_no_run(tmp_path: Path) -> None:
    assert "is no run directory" in complaint("align", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_applying_what_has_judged_nothing(shards: Path, embedded: Path, tmp_path: Path) -> None:
    assert "has judged nothing yet" in complaint("apply", embedded, shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recipes(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    clean = ("clean", shards, tmp_path / "run", "--config", recipe)
    assert "cannot read the recipe" in complaint(*clean)
    recipe.write_text("model = ")
    assert "is not a recipe" in complaint(*clean)
    recipe.write_text("modle = 'x'")
    assert "unknown option modle" in complaint(*clean)
    (tmp_path / "list.json").write_text("[]")
    assert "is not a recipe" in complaint("clean", shards, tmp_path / "run", "--config", tmp_path / "list.json")


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    said = complaint("clean", tmp_path / "\x1b[31m[bold]red\n", tmp_path / "run", *HOG)
    assert "\\x1b[31m[bold]red\\n does not exist" in said
