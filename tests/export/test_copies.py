"""Copies share a group, and `--deduplicate` keeps the pair of each group that is most likely to be right."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean import UserError, clean, clean_vectors
from pairclean.execution import Execution
from pairclean.export import kept_pairs
from pairclean.export.copies import Copies
from pairclean.pairs import VERDICT_SCHEMA
from pairclean.pipeline import redo
from pairclean.report import summarise
from pairclean.run import Run
from pairclean.synthetic.scenes import draw_scenes


def kept(*pairs: tuple[int, int, float]) -> pa.Table:
    """pairs: number, the number of the pair whose caption it has, and the probability that this is right."""
    return pa.table(dict(zip(("pair", "donor", "probability"), map(list, zip(*pairs, strict=True)), strict=True)))


def test_the_likeliest_pair_of_a_group_is_kept() -> None:
    copies = Copies(image=np.array([1, 1, 2, 1, 2, 3]), caption=np.array([5, 6, 5, 5, 7, 5]))
    own = kept((0, 0, 0.7), (1, 1, 0.9), (2, 2, 0.8), (3, 3, 0.95), (4, 4, 0.8), (5, 5, 0.6))
    assert copies.kept_instead(own, "image").tolist() == [3, 3, -1, -1, 2, -1]  # of equal ones, the first
    assert copies.kept_instead(own, "pair").tolist() == [3, -1, -1, -1, -1, -1]


def test_a_rematched_pair_counts_with_its_new_caption() -> None:
    copies = Copies(image=np.array([1, 1, 2, 1]), caption=np.array([5, 6, 6, 7]))
    found = copies.kept_instead(kept((0, 2, 0.9), (1, 1, 0.95), (3, 3, 0.5)), "pair")
    assert found.tolist() == [1, -1, -1, -1]
    assert copies.kept_instead(kept((0, 2, 0.99), (1, 1, 0.95)), "pair").tolist() == [-1, 0, -1, -1]


def test_pairs_that_are_not_kept_count_for_nothing() -> None:
    copies = Copies(image=np.array([1, 1, 1]), caption=np.zeros(3, np.int64))
    assert copies.kept_instead(kept((1, 1, 0.6)), "image").tolist() == [-1, -1, -1]
    assert copies.kept_instead(kept((1, 1, 0.6)).slice(0, 0), "image").tolist() == [-1, -1, -1]


def test_groups_are_of_the_captions_as_they_came() -> None:
    """Where captions are given back before anything is learned, their groups stay with the pairs that had them."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((600, 32))
    text = image + 0.5 * rng.standard_normal((600, 32))
    text[200:400] = np.roll(text[200:400], 1, axis=0)
    captions = [f"caption {i % 590}" for i in range(600)]
    for repair in (False, True):
        table = clean_vectors(image, text, captions=captions, method="zero-shot", repair=repair).verdicts
        groups = table["caption_group"].to_numpy()
        assert (table["verdict"].to_numpy(zero_copy_only=False)[200:400] == "rematched").all() or not repair
        assert [np.flatnonzero(groups == groups[i]).tolist() for i in (5, 250)] == [[5, 595], [250]]
        assert len(np.unique(groups)) == 590
        assert len(np.unique(table["image_group"].to_numpy())) == 600


def jpeg(image: bytes, quality: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


N, COPIES, NEAR = 160, 10, 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """160 pairs, then ten that are copies of the first ten, and ten pictures of the next ten saved again.

    The captions of the last ten say the same in other words.
    """
    home = tmp_path_factory.mktemp("copies")
    scenes = [scene for scene in draw_scenes(2 * N, seed=0) if scene.kind == "plain"][:N]
    pairs = [(jpeg(scene.image, 95), scene.caption) for scene in scenes]
    pairs += pairs[:COPIES]
    pairs += [(jpeg(image, 90), f"look: {text}") for image, text in pairs[COPIES : COPIES + NEAR]]
    pairs += [(b"no picture", "a square")]
    (home / "source").mkdir()
    for i, part in enumerate((pairs[: N // 2], pairs[N // 2 :])):
        images, captions = zip(*part, strict=True)
        pq.write_table(pa.table({"jpg": images, "caption": captions}), home / "source" / f"{i}.parquet")
    return clean(home / "source", home / "run", model="hog-tfidf", method="canonical")


def test_copies_share_groups_and_are_counted(run: Run) -> None:
    table = run.verdicts()
    image, caption = (table[name].to_pylist() for name in ("image_group", "caption_group"))
    assert image[N : N + COPIES + NEAR] == image[: COPIES + NEAR]
    assert caption[N : N + COPIES] == caption[:COPIES]
    assert (image[-1], caption[-1]) == (None, None)  # unreadable
    counts = run.report["copies"]
    assert counts["images"] == {"groups": COPIES + NEAR, "pairs": 2 * (COPIES + NEAR)}
    assert counts["pairs"]["groups"] >= COPIES
    assert counts["left_out"] == 0
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert f'data-path="copies.images.groups">{COPIES + NEAR}</data>' in page


def cleaned_ids(run: Run, to: str) -> set[str]:
    ids = []
    for file in run.path.glob("cleaned/metadata/*.parquet" if to == "embeddings" else "cleaned/*.parquet"):
        ids += pq.read_table(file)["pairclean_pair_id"].to_pylist()
    for file in run.path.glob("cleaned/*.tar"):
        with tarfile.open(file) as tar:
            ids += [json.load(tar.extractfile(m))["pairclean_pair_id"] for m in tar if m.name.endswith(".json")]
    assert len(set(ids)) == len(ids) > 0
    return set(ids)


@pytest.mark.parametrize("to", ["source", "webdataset", "embeddings"])
@pytest.mark.parametrize("one_per", ["image", "pair"])
def test_one_pair_per_group_is_written(run: Run, to: str, one_per: str) -> None:
    redo(run, "export", Execution(), deduplicate="none", to=to)
    before = run.verdicts().to_pandas()
    everything = cleaned_ids(run, to)
    redo(run, "export", Execution(), deduplicate=one_per)
    after = run.verdicts().to_pandas()
    judged = [name for name in before.columns if name not in ("reason", "reason_code")]
    assert after[judged].equals(before[judged])
    left_out = after["reason_code"] == "duplicate"
    assert set(after["pair_id"][~left_out]) & everything == cleaned_ids(run, to)
    assert run.report["copies"]["left_out"] == left_out.sum() > 0
    assert any(f"leaves out {left_out.sum()} pairs" in note for note in run.report["notes"])

    kept = before[before["pair_id"].isin(everything)].set_index("pair_id")
    kept["right"] = kept["rematch_probability"].where(kept["verdict"] == "rematched", kept["clean_probability"])
    kept["text"] = kept["caption_group"].where(kept["verdict"] != "rematched", -1)
    assert (kept["verdict"] == "clean").all()  # none is rematched, so that `text` is what the pairs carry
    best = kept.groupby(["image_group"] if one_per == "image" else ["image_group", "text"])["right"].idxmax()
    assert set(best) == cleaned_ids(run, to)
    reasons = after["reason"][left_out].str.extract("^its picture is that of (.*), which is kept instead$")[0]
    assert set(reasons) <= set(best)
    groups = before.set_index("pair_id")["image_group"]
    assert (groups[reasons].to_numpy() == after["image_group"][left_out].to_numpy()).all()


def test_the_likeliest_caption_of_each_row_comes_first(tmp_path: Path) -> None:
    """`--captions best` chooses before copies are compared."""
    records = [
        (0, 0, 0.9, 1, 5),
        (0, 1, 0.7, 1, 6),
        (1, 0, 0.95, 1, 5),  # the best of its row, and a better copy of the first
        (1, 1, 0.6, 1, 6),
    ]
    rows = [
        {"pair_id": f"{r}:{i}", "shard": "a", "row": r, "caption_index": i, "verdict": "clean", "clean_probability": p}
        | {"image_group": image, "caption_group": caption}
        for r, i, p, image, caption in records
    ]
    table = pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)
    copies = Copies(table["image_group"].to_numpy(), table["caption_group"].to_numpy())
    assert copies.kept_instead(kept_pairs(table), "pair").tolist() == [2, -1, -1, 1]
    assert copies.kept_instead(kept_pairs(table, best=True), "pair").tolist() == [2, -1, -1, -1]
    assert copies.kept_instead(kept_pairs(table, best=True), "image").tolist() == [2, -1, -1, -1]
    codes = pa.array(["duplicate", None, None, "duplicate"])
    table = table.set_column(table.schema.get_field_index("reason_code"), "reason_code", codes)
    assert kept_pairs(table)["pairclean_pair_id"].to_pylist() == ["0:1", "1:0"]


def test_several_captions_of_a_picture_are_no_copies(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(
        [
            {"pair_id": f"{r}:{i}", "shard": "a", "row": r, "caption_index": i, "verdict": "clean"}
            | {"image_group": image, "caption_group": caption}
            for r, i, image, caption in ((0, 0, 1, 5), (0, 1, 1, 6), (1, 0, 2, 5), (1, 1, 2, 7), (2, 0, 2, 7))
        ],
        schema=VERDICT_SCHEMA,
    )
    counts = summarise([table, table.slice(0, 0)], {})["copies"]
    assert counts == {
        "images": {"groups": 1, "pairs": 3},
        "captions": {"groups": 2, "pairs": 4},
        "pairs": {"groups": 1, "pairs": 2},
        "left_out": 0,
    }
    assert summarise([table, table], {})["copies"]["images"] == {"groups": 2, "pairs": 10}  # rows of different shards


def test_a_wrong_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--deduplicate text"):
        clean(tmp_path, tmp_path / "run", deduplicate="text")
