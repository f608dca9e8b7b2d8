"""`evaluate` on runs, on a test source, on embeddings and against the truth: the same figures by another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner, Result

import pairclean.pipeline
from pairclean.align import ZeroShot
from pairclean.assess.evaluate import evaluate
from pairclean.embed import Embeddings, write_part
from pairclean.metrics.detection import score_run
from pairclean.metrics.retrieval import retrieval
from pairclean.pairs import PAIR_SCHEMA, UserError
from pairclean.run import Run
from pairclean.run.results import open_learned
from pairclean.synthetic.scenes import draw_scenes, write_shards

HOG = {"model": "hog-tfidf", "method": "canonical"}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """planted/ (with a column `colour`), truth.parquet, run/ over it, and test/ that the run never saw."""
    home = tmp_path_factory.mktemp("home")
    write_shards(draw_scenes(300, seed=0), home / "drawn", shard_size=150)
    pairclean.plant(home / "drawn", home / "planted", rate=0.3, seed=0).truth.rename(home / "truth.parquet")
    write_shards(draw_scenes(100, seed=1), home / "test")
    for folder in ("planted", "test"):
        for file in (home / folder).glob("*.parquet"):
            table = pq.read_table(file)
            colours = [[c for c in ("red", "blue", "green") if c in text] for text in table["caption"].to_pylist()]
            pq.write_table(table.append_column("colour", pa.array(colours, pa.list_(pa.string()))), file)
    pairclean.clean(home / "planted", home / "run", **HOG)
    return home


def test_held_out_is_what_the_run_reported(home: Path) -> None:
    found = evaluate(home / "run")
    reported = Run.open(home / "run").report["retrieval"]
    assert found["on"] == "held-out"
    assert (found["pairs"], found["folds"]) == (reported["pairs"], 5)
    assert found["zero_shot"] is None  # hog-tfidf compares nothing before it has learned
    for name, value in reported["aligned"].items():
        assert found["aligned"][name] == pytest.approx(value), name
        low, high = found["aligned"]["intervals"][name]
        assert low <= value <= high
    assert 1 <= found["aligned"]["i2t_median_rank"] <= found["aligned"]["i2t_mean_rank"]


def test_labels_add_map(home: Path) -> None:
    found = evaluate(home / "run", label_column="colour")["aligned"]
    assert 0.5 < found["i2t_map50"] <= 1  # colours are what is easily seen
    assert found["intervals"]["t2i_map"][0] < found["t2i_map"] < found["intervals"]["t2i_map"][1]
    with pytest.raises(UserError, match="no column"):
        evaluate(home / "run", label_column="nothing")


def test_a_source_is_mapped_by_the_rematcher(home: Path) -> None:
    found = evaluate(home / "run", source=home / "test", label_column="colour")
    (folder,) = (home / "run" / "evaluate").iterdir()
    made = Run.open(folder)
    emb = Embeddings.open(made.embeddings, made.shards)
    model = open_learned(Run.open(home / "run")).aligned[0]
    rows = np.flatnonzero(emb.readable)
    x, y = model.embed_image(emb.image[rows]), model.embed_text(emb.text[rows])
    expected = retrieval(x, y, image_id=emb.image_id[rows], caption_id=emb.caption_id[rows])
    assert found["pairs"] == len(rows)
    assert {name: found["aligned"][name] for name in expected if name != "queries"} == pytest.approx(
        {name: value for name, value in expected.items() if name != "queries"}
    )
    assert "coco_1k" not in found
    assert found["seen_images"] == 0
    before = (folder / "manifest.json").stat().st_mtime_ns, (folder / "embeddings/img_emb").stat().st_mtime_ns
    assert evaluate(home / "run", source=home / "test", label_column="colour") == found
    assert (folder / "embeddings/img_emb").stat().st_mtime_ns == before[1]  # embedded once
    seen = evaluate(home / "run", source=home / "planted")
    assert seen["seen_images"] == seen["images"]


def test_truth_gives_what_was_planted_and_found(home: Path) -> None:
    found = evaluate(home / "run", truth=home / "truth.parquet")
    run = Run.open(home / "run")
    scores = score_run(run.verdicts(), pq.read_table(home / "truth.parquet"))
    assert {name: found[name] for name in scores} == scores
    rate = run.report["mismatch_rate"]
    assert found["mismatch_rate"]["estimate"] == rate["estimate"]
    assert found["mismatch_rate"]["error"] == rate["estimate"] - scores["true_mismatch_rate"]
    assert sum(one["pairs"] for one in found["reliability"]) == 300 - scores["unreadable"]


def test_truth_of_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column caption"):
        evaluate(home / "run", truth=tmp_path / "other.parquet")
    with pytest.raises(UserError, match="cannot read"):
        evaluate(home / "run", truth=tmp_path / "missing.parquet")
    with pytest.raises(UserError, match="leave out --source"):
        evaluate(home / "run", truth=home / "truth.parquet", source=home / "test")
    with pytest.raises(UserError, match="neither a run directory nor"):
        evaluate(home / "test")
    with pytest.raises(UserError, match="need one"):
        evaluate(home / "test", truth=home / "truth.parquet")


def random_embeddings(root: Path, images: int, captions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part with several captions an image: vectors that go together, and which image each row shows."""
    rng = np.random.default_rng(0)
    image = np.repeat(rng.normal(size=(images, 16)), captions, axis=0)
    text = image + 1.5 * rng.normal(size=image.shape)
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text))
    n, owner = len(image), np.repeat(np.arange(images), captions)
    columns: dict[str, Any] = {
        "pair_id": [f"{i:05d}" for i in range(n)],
        "shard": ["all"] * n,
        "row": np.arange(n),
        "caption_index": np.zeros(n, np.int32),
        "caption": [f"caption {i}" for i in range(n)],
        "image_id": owner,
        "caption_id": np.arange(n),
        "reason": pa.nulls(n, pa.string()),
    }
    write_part(root, "all", "made", pa.table(columns, schema=PAIR_SCHEMA), image, text)
    return image.astype(np.float16), text.astype(np.float16), owner


def naive_recalls(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """All similarities at once, in float64: several captions an image, the best of them counts."""
    first = np.unique(owner, return_index=True)[1]
    x, y = (v.astype(float) / np.linalg.norm(v.astype(float), axis=1, keepdims=True) for v in (image[first], text))
    near, mine = x @ y.T, np.unique(owner)[:, None] == owner
    best = np.where(mine, near, -np.inf).max(1)
    i2t = 1 + (np.where(mine, -np.inf, near) > best[:, None]).sum(1)
    t2i = 1 + (near > near[mine.argmax(0), np.arange(len(y))]).sum(0)
    ranks = {"i2t": i2t, "t2i": t2i}
    recalls = {f"{way}_r{k}": 100 * float((rank <= k).mean()) for way, rank in ranks.items() for k in (1, 5, 10)}
    return {**recalls, **{f"{way}_median_rank": float(np.median(rank)) for way, rank in ranks.items()}}


def test_embeddings_of_a_folder(tmp_path: Path) -> None:
    image, text, owner = random_embeddings(tmp_path / "emb", 120, 5)
    found = evaluate(tmp_path / "emb")
    assert (found["on"], found["pairs"], found["images"], found["aligned"]) == ("embeddings", 600, 120, None)
    expected = naive_recalls(image, text, owner)
    assert {name: found["zero_shot"][name] for name in expected} == pytest.approx(expected)
    assert 20 < expected["i2t_r1"] < 95


def test_five_thousand_images_are_measured_by_thousands_too(tmp_path: Path) -> None:
    image, text, owner = random_embeddings(tmp_path / "emb", 5000, 1)
    found = evaluate(tmp_path / "emb")
    parts = [slice(1000 * k, 1000 * k + 1000) for k in range(5)]
    folds = [naive_recalls(image[part], text[part], owner[part]) for part in parts]
    expected = {name: np.mean([fold[name] for fold in folds]) for name in folds[0]}
    measured = found["coco_1k"]["zero_shot"]
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert measured["rsum"] > found["zero_shot"]["rsum"]  # among fewer it is easier


@pytest.mark.filterwarnings("error")
def test_labels_of_any_type_and_shards_of_nothing(home: Path, tmp_path: Path) -> None:
    table = pq.read_table(next((home / "test").glob("*.parquet")))
    colours = table["colour"].to_pylist()
    columns = {
        "struct": pa.array([{"first": c[0]} if c else None for c in colours]),
        "nested": pa.array([[[c] for c in of_row] for of_row in colours]),
        "first": pa.array([c[0] if c else None for c in colours]),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    (tmp_path / "test").mkdir()
    pq.write_table(table, tmp_path / "test" / "0.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "test" / "1.parquet")
    found = {
        name: evaluate(home / "run", source=tmp_path / "test", label_column=name)["aligned"]["i2t_map"]
        for name in (*columns, "colour")
    }
    assert found["struct"] == found["first"]
    assert found["nested"] == found["colour"]


def test_report_and_evaluate_show_what_the_run_uses(tmp_path: Path) -> None:
    random_embeddings(tmp_path / "emb", 120, 5)
    run = pairclean.clean(tmp_path / "emb", tmp_path / "run", method="canonical", score="negclip")
    assert len(open_learned(run).aligned) == 5  # learned, and not what judges
    reported, found = run.report["retrieval"], evaluate(run.path)
    assert (reported["learned"], reported["aligned"]) == (False, reported["zero_shot"])
    assert found["aligned"] is None
    assert found["pairs"] == reported["pairs"]
    assert {name: found["zero_shot"][name] for name in reported["zero_shot"]} == pytest.approx(reported["zero_shot"])
    assert evaluate(run.path, source=tmp_path / "emb")["aligned"] is None
    assert "the run judges by the encoder alone" in invoke("evaluate", run.path).stdout
    assert "(" + f"{found['pairs']} clean pairs, judged by the encoder alone)" in " ".join(
        invoke("clean", tmp_path / "emb", run.path, "--method", "canonical", "--score", "negclip").stdout.split()
    )
    by_first = pairclean.clean(tmp_path / "emb", tmp_path / "auto", method="auto")
    assert by_first.report["method"] == "zero-shot"  # what auto took
    assert by_first.report["retrieval"]["learned"] is False


def test_the_command_prints_tables_and_json(home: Path) -> None:
    shown = invoke("evaluate", home / "run", "-q", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    text = invoke("evaluate", home / "run").stdout
    recall = found["aligned"]["i2t_r1"]
    assert f"image to text, recall@1     {recall:.1f}% (" in text
    assert max(map(len, text.splitlines())) <= 80
    text = invoke("evaluate", home / "run", "--truth", home / "truth.parquet").stdout
    assert "Planted and found: 300 pairs" in text
    assert max(map(len, text.splitlines())) <= 80
    refused = invoke("evaluate", home / "test")
    assert refused.exit_code == 2
    assert "neither a run directory nor a folder of embeddings" in refused.stderr


@pytest.mark.slow
@pytest.mark.data
def test_five_human_captions_a_photo(shared: Path, tmp_path: Path) -> None:
    """A small CLIP on the photos that it never saw, against all similarities at once."""
    import pyarrow.compute as pc

    (tmp_path / "test").mkdir()
    for file in sorted((shared / "data/flickr8k").glob("*.parquet")):
        table = pq.read_table(file)
        pq.write_table(table.filter(pc.equal(table["split"], "test")), tmp_path / "test" / file.name)
    pairclean.pipeline.embed(tmp_path / "test", tmp_path / "run", model=f"local-dir:{shared}/models/tinyclip")
    found = evaluate(tmp_path / "run/embeddings")
    made = Run.open(tmp_path / "run")
    emb = Embeddings.open(made.embeddings, made.shards)
    assert (found["images"], found["pairs"]) == (200, 1000)
    expected = naive_recalls(emb.image[:], emb.text[:], np.repeat(np.arange(200), 5))
    assert {name: found["zero_shot"][name] for name in expected} == pytest.approx(expected)
    x, y = ZeroShot().embed_image(emb.image[:]), ZeroShot().embed_text(emb.text[:])
    assert found["zero_shot"]["rsum"] == pytest.approx(retrieval(x, y, image_id=emb.image_id)["rsum"])
