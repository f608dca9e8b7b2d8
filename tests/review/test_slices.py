"""Where the mismatches of a run are: by its columns and its kinds, on the terminal and as values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner, Result

from pairclean.judge import NOISE_KINDS, Faults, Finding
from pairclean.judge.kinds import Kinds, Partition
from pairclean.pairs import UserError
from pairclean.review.audit import audit
from pairclean.review.columns import Columns, column_values
from pairclean.review.kinds import kind_columns
from pairclean.review.slices import repeated, slices
from pairclean.run import Run
from pairclean.run.results import open_judgement, open_learned, save_faults, save_judgement, save_learned

N = 400


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    """Two shards; the pairs of shop b, 80 in each, are mismatched."""
    shop = ["b"] * 80 + ["a"] * 120
    shards: list[dict[str, Any]] = [{"shop": shop, "size": ["s", "l"] * 100}, {"shop": shop, "size": ["s", "l"] * 100}]
    return made_run(shards, [[0.01] * 80 + [0.999] * 120] * 2)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": "100"})


def with_kinds(run: Run, count: int) -> None:
    """Divide the run's captions into kinds by the angle of their vectors."""
    learned = open_learned(run)
    angle = (np.arange(count) + 0.5) / count * np.pi / 2
    centroids = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    kinds = Kinds(centroids, np.zeros(0, np.int64))
    save_learned(run, replace(learned, partition=Partition(learned.partition.image, kinds, kinds, kinds)))


def test_the_slice_is_found_with_its_value(run: Run) -> None:
    (found,) = slices(Columns(run))
    assert found.where == {"shop": "b"}
    assert len(found.slice) == 160
    assert found.slice.rate > 0.9
    assert json.loads(json.dumps(found.to_json()))["where"] == {"shop": "b"}


def test_what_a_fault_or_a_repeated_caption_explains_is_left_out(run: Run) -> None:
    faults = Faults([Finding("repeated", 0, 80, 0, 9.0, 1e-9)], np.arange(N), np.full(N, np.nan), False)
    save_faults(run, faults)
    (found,) = slices(Columns(run))
    assert found.slice.rows.min() == 200
    judged = open_judgement(run)
    kind = judged.noise_kind.copy()
    kind[:80] = kind[200:280] = NOISE_KINDS.index("placeholder")
    save_judgement(run, replace(judged, noise_kind=kind))
    assert repeated(run) == []  # every picture is another one


def test_kinds_are_named_by_their_captions(run: Run) -> None:
    with_kinds(run, 4)
    names = kind_columns(run)["kind"]
    assert [len(set(part)) for part in np.split(names, 4)] == [1, 1, 1, 1]
    assert len(set(names)) == 4
    assert np.array_equal(column_values(run, "kind"), names)
    groups = audit(run, ["kind"]).groups
    assert groups is not None
    assert groups["pairs"].tolist() == [100] * 4
    assert audit(run, ["kind", "shop"]).to_table()["kind"].type == pa.string()


def test_a_column_of_that_name_comes_first(made_run: Callable[..., Run]) -> None:
    run = made_run([{"kind": ["x", "y"] * 50}], [[0.99, 0.01] * 50])
    assert column_values(run, "kind").tolist() == ["x", "y"] * 50
    assert set(column_values(run, "picture_kind")) != {"x", "y"}


def test_worst_on_the_terminal_and_as_json(run: Run) -> None:
    shown = invoke(run.path, "--worst", 20)
    assert shown.exit_code == 0
    assert "shop b" in shown.stdout
    assert "160" in shown.stdout
    found = json.loads(invoke(run.path, "--worst", 20, "--json").stdout)
    assert [one["where"] for one in found["worst"]] == [{"shop": "b"}]
    for other in (("--by", "shop"), ("--against", run.path), ("-o", Path("x.csv"))):
        refused = invoke(run.path, "--worst", 3, *other)
        assert refused.exit_code == 2 or isinstance(refused.exception, UserError)


def test_nothing_stands_out(made_run: Callable[..., Run]) -> None:
    run = made_run([{"shop": ["a", "a", "b", "b"] * 50}], [[0.99, 0.01] * 100])
    assert slices(Columns(run)) == []
    assert "No part of the data" in invoke(run.path, "--worst", 5).stdout
    unjudged = made_run([{"shop": ["a", "b"] * 60}], [[None] * 120], "unjudged")
    assert slices(Columns(unjudged)) == []
