"""Learning from labels of the source, as the stage does it: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairclean.config import Config
from pairclean.execution import Execution
from pairclean.pairs import PAIR_SCHEMA, UserError
from pairclean.pipeline import advance
from pairclean.review import audit
from pairclean.run import Run
from pairclean.run.embedded import embedded_run as run_over
from pairclean.run.results import open_embeddings, open_judgement, open_learned
from pairclean.stages.labels import read_labels

ENCODER = {"description": {"name": "drawn"}, "comparable": False}
CLASSES = ("cat", "dog", "hen")


def embedded_run(home: Path, labels: dict[str, list[Any]], *, rate: float = 0.0, **options: Any) -> Run:
    """A run over as many pairs as there are labels, in two shards, with vectors that tell the class of each side.

    Captions are moved at `rate`; the image of pair i is of class i % 3, and so is its own caption.
    """
    n, rng = len(next(iter(labels.values()))), np.random.default_rng(0)
    moved = rng.permutation(n)[: round(rate * n)]
    carried = np.arange(n)
    carried[moved] = np.roll(moved, 1)
    latent = 2 * rng.standard_normal((3, 6))[np.arange(n) % 3] + rng.standard_normal((n, 6))
    image, text = (np.tanh(latent @ rng.standard_normal((6, d)) / 3).astype(np.float16) for d in (24, 20))
    text = text[carried]
    source, half = home / "source", n // 2
    source.mkdir(parents=True)
    columns = {"key": [f"k{i}" for i in range(n)], "jpg": [b"\xff\xd8"] * n, "caption": [f"c{i}" for i in carried]}
    table = pa.table({**columns, **labels, "caption_type": [CLASSES[i % 3] for i in carried]})
    parts = []
    for k, part in enumerate((slice(0, half), slice(half, n))):
        pq.write_table(table.slice(part.start, part.stop - part.start), source / f"s{k}.parquet")
        rows = np.arange(part.stop - part.start)
        pairs = {
            "pair_id": columns["key"][part],
            "shard": [f"s{k}"] * len(rows),
            "row": rows,
            "caption_index": np.zeros(len(rows), np.int32),
            "caption": columns["caption"][part],
            "image_id": np.arange(n)[part],
            "caption_id": carried[part],
            "reason": [None] * len(rows),
        }
        parts.append((f"s{k}", pa.table(pairs, schema=PAIR_SCHEMA), image[part], text[part]))
    config = Config.make(model="hog-tfidf", **options)
    return run_over(home / "run", config, parts, encoder=ENCODER, source=source)


def image_types(n: int) -> list[str]:
    return [CLASSES[i % 3] for i in range(n)]


def took(run: Run) -> str | None:
    return open_learned(run).method


def test_labels_come_to_the_pairs_they_are_of(tmp_path: Path) -> None:
    one = ["cat", None, "dog", "hen", None, "cat", "cat", "dog"]
    several = [["dog", "dog"], [], None, ["cat", None], ["hen", "cow"], ["cat"], ["dog"], ["hen"]]
    run = embedded_run(tmp_path, {"one": one, "several": several})
    first, second = (found.toarray() for found in read_labels(run, open_embeddings(run), ["one", "several"]))
    assert first.shape == second.shape == (8, 4)  # cat, dog, hen and cow
    cat, dog, hen = (first[one.index(name)].argmax() for name in CLASSES)
    cow = 6 - cat - dog - hen
    expected = np.zeros((2, 8, 4), bool)
    for i, (label, labels) in enumerate(zip(one, several, strict=True)):
        number = {"cat": cat, "dog": dog, "hen": hen, "cow": cow}
        for k, found in ((0, [label]), (1, labels or [])):
            expected[k, i, [number[name] for name in found if name is not None]] = True
    assert np.array_equal(first, expected[0])
    assert np.array_equal(second, expected[1])


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("lost", "lost"),
        ("none", "the column none has no label in it"),
        ("alike", "alike tell 1 classes apart in 8 pairs"),
        ("key", "key tell 8 classes apart in 8 pairs"),
    ],
)
def test_columns_that_hold_no_classes_are_refused(tmp_path: Path, column: str, said: str) -> None:
    run = embedded_run(tmp_path, {"none": [None] * 8, "alike": [7] * 8})
    with pytest.raises(UserError, match=said):
        read_labels(run, open_embeddings(run), [column])


def test_a_source_that_has_changed_has_no_labels_for_its_pairs(tmp_path: Path) -> None:
    run = embedded_run(tmp_path, {"type": image_types(8)})
    file = next((tmp_path / "source").glob("*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(UserError, match="has changed since"):
        read_labels(run, open_embeddings(run), ["type"])


def test_drcl_learns_from_the_labels_and_judges_by_them(tmp_path: Path) -> None:
    labels = {"type": image_types(240)}
    sides = {"image_label_column": "type", "caption_label_column": "caption_type"}
    run = embedded_run(tmp_path, labels, rate=0.5, method="drcl", score="aligned", **sides)
    advance(run, ("align", "judge"), Execution())
    assert took(run) == "drcl"
    assert len(open_learned(run).aligned) == 5
    assert open_judgement(run).score == "aligned"
    carried = np.array([int(c[1:]) for c in open_embeddings(run).captions(np.arange(240))])
    alike = carried % 3 == np.arange(240) % 3
    clean = open_judgement(run).clean_probability
    assert (clean[alike][:, None] > clean[~alike]).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "drcl"}, "--method drcl learns from class labels: name their column with --label-column"),
        ({"label_column": "a"}, "--method l2rm does not use labels: set --label-column to none, or use --method drcl"),
        ({"method": "auto", "label_column": "a"}, "--method auto does not use labels"),
        ({"method": "rcar", "caption_label_column": "a"}, "set --caption-label-column to none"),
        (
            {"method": "drcl", "label_column": "a", "image_label_column": "b"},
            "--label-column describes both images and captions",
        ),
    ],
)
def test_labels_and_methods_that_do_not_go_together(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Config.make(**options)


def test_a_run_with_labels_can_be_learned_again_without() -> None:
    config = Config.make(method="drcl", label_column="a")
    assert Config.make(**{**config.model_dump(), "method": "l2rm", "label_column": "none"}).label_column is None


def test_labels_that_are_no_unicode(tmp_path: Path) -> None:
    texts = pa.array([f"{i % 3}\xff".encode("latin1") for i in range(120)], pa.binary())
    labels = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    run = embedded_run(tmp_path, {"type": labels}, method="drcl", label_column="type")
    (found,) = read_labels(run, open_embeddings(run), ["type"])
    assert found.shape == (120, 3)
    assert found.toarray().argmax(1).tolist() == [i % 3 for i in range(120)]
    audited = audit._values(run.open_source(), run.open_source().shards[0], "type", np.arange(3))
    assert audited.tolist() == ["0\ufffd", "1\ufffd", "2\ufffd"]
