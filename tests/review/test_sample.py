"""The design on disk, the sample drawn from it, and what labels of it say about a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

import pairclean.review
from pairclean.pairs import UserError
from pairclean.review.audit import audit
from pairclean.review.labels import BELONGS, CANNOT_TELL, DOES_NOT, PARTLY, Label, Labels
from pairclean.review.reviewed import Reviewer, estimate, estimate_or_why, open_labels
from pairclean.review.sample import Design, design
from pairclean.run import Run

NAN = float("nan")
#: 200 pairs, of which the first 40 are flagged, then ten that were not judged and two that cannot be read.
CLEAN = [[*np.linspace(0.01, 0.2, 40), *np.linspace(0.8, 0.99, 148), *[None] * 10, NAN, NAN]]
KINDS = [{"kind": ["x"] * 100 + ["y"] * 100}]


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    return made_run(KINDS, CLEAN)


def label(sample: Design, labels: Labels, count: int, answer: Callable[[int], str], reviewer: str = "ann") -> None:
    """Answer the first `count` drawn pairs."""
    while len(sample.drawn) < count and sample.draw(labels):
        pass
    labels.add(Label.now(f"{row}", sample.unit(row), answer(row), reviewer) for row in sample.drawn[:count])


def truth(row: int) -> str:
    return DOES_NOT if row < 30 or 100 <= row < 110 else BELONGS


def test_the_design_is_on_disk_before_the_first_label_and_found_again(run: Run) -> None:
    sample = design(run, 60, seed=3)
    about = json.loads((run.path / "review" / "design.json").read_text())
    assert (about["seed"], about["labels"], about["by"]) == (3, 60, None)
    assert sum(one["pairs"] for one in about["strata"]) == 198
    assert (sample.stratum[-2:] == -1).all()
    again = design(run)
    assert (again.seed, again.labels) == (3, 60)
    assert again.draw(open_labels(run)) == design(run).drawn  # the second one opens what the first one wrote


def test_draws_never_repeat_and_end_with_the_pairs(run: Run) -> None:
    sample = design(run, 60)
    label(sample, open_labels(run), 1000, truth)
    assert sorted(sample.drawn) == list(range(198))
    found = estimate(run)
    assert found.mismatched is not None
    assert (found.mismatched.low, found.mismatched.high) == (found.mismatched.estimate,) * 2
    assert found.mismatched.estimate == pytest.approx(40 / 198)


def test_within_a_stratum_every_pair_is_as_likely_to_be_drawn(run: Run) -> None:
    counts = np.zeros(200)
    for seed in range(300):
        for file in ("design.json", "design.parquet"):
            (run.path / "review" / file).unlink(missing_ok=True)
        for part in (run.path / "review" / "drawn").glob("*"):
            part.unlink()
        sample = design(run, 20, seed=seed)
        sample.draw(Labels(run.path / "nothing"))
        counts[sample.drawn] += 1
    for stratum in range(sample.stratum.max() + 1):
        drawn = counts[sample.stratum == stratum]
        chi2 = ((drawn - drawn.mean()) ** 2 / (drawn.mean() * (1 - drawn.mean() / 300))).sum()
        assert chi2 < len(drawn) + 4 * np.sqrt(2 * len(drawn))


def test_the_estimates_say_what_the_labels_say(run: Run) -> None:
    sample, labels = design(run, 100), open_labels(run)
    label(sample, labels, 100, truth)
    found = pairclean.review.estimate(run)
    assert found.mismatched is not None
    assert found.mismatched.low <= 40 / 198 <= found.mismatched.high
    assert found.mismatched.labels == 100
    assert found.at_least_partly == found.mismatched
    assert found.flagged is not None
    assert found.flagged.low <= 30 / 40 <= found.flagged.high
    assert found.missed is not None
    assert found.missed.low <= 10 / 148 <= found.missed.high
    assert found.found is not None
    assert found.found.low <= 30 / 40 <= found.found.high
    assert found.unjudged is not None
    assert found.unjudged.estimate == 0
    assert json.loads(json.dumps(found.to_json()))["labels"][DOES_NOT] == found.labels[DOES_NOT]
    assert found.bounds == (found.mismatched.low, found.mismatched.high)


def test_partly_and_cannot_tell_are_never_dropped(run: Run) -> None:
    sample, labels = design(run, 100), open_labels(run)
    label(sample, labels, 100, lambda row: PARTLY if row % 10 == 0 else CANNOT_TELL if row % 10 == 1 else truth(row))
    found = estimate(run)
    assert found.mismatched is not None
    assert found.at_least_partly is not None
    assert found.bounds is not None
    assert found.labels[CANNOT_TELL] > 0
    assert found.mismatched.labels == 100 - found.labels[CANNOT_TELL]
    assert found.at_least_partly.estimate > found.mismatched.estimate
    assert found.bounds[0] < found.mismatched.low
    assert found.bounds[1] > found.mismatched.high


def test_a_copy_is_not_asked_about_again_and_counts(run: Run) -> None:
    for part in (run.path / "embeddings" / "metadata").glob("*.parquet"):
        table = pq.read_table(part).to_pylist()
        for row in range(100):
            table[row] |= {"image_id": 7, "caption_id": 7}
        pq.write_table(type(pq.read_table(part)).from_pylist(table, pq.read_schema(part)), part)
    sample, labels = design(run, 60), open_labels(run)
    while sample.draw(labels):
        pass
    labels.add([Label.now("p", (7, 7), DOES_NOT, "ann")])
    assert len(list(sample.labelled(labels))) == 100


def test_groups_get_estimates_of_their_own(run: Run) -> None:
    sample = design(run, 100, by="kind")
    label(sample, open_labels(run), 100, truth)
    found = estimate(run)
    assert set(found.groups) == {"x", "y"}
    for name, share in (("x", 30 / 100), ("y", 10 / 98)):
        group = found.groups[name]
        assert group is not None
        assert group.low <= share <= group.high
    with pytest.raises(UserError, match="designed by 'kind'"):
        design(run, by="shard")


def test_a_run_without_any_probability_is_sampled_simply(made_run: Callable[..., Run]) -> None:
    run = made_run([{}], [[None] * 100])
    sample = design(run, 50)
    assert len(sample.strata) == 1
    label(sample, open_labels(run), 50, lambda row: DOES_NOT if row < 40 else BELONGS)
    found = estimate(run)
    assert found.mismatched is not None
    assert found.mismatched == found.unjudged
    assert found.mismatched.low <= 0.4 <= found.mismatched.high
    assert found.disagreement is None


def test_where_labels_and_scores_disagree_it_says_so(run: Run) -> None:
    label(design(run, 60), open_labels(run), 60, lambda _: DOES_NOT)
    assert "go by the labels" in (estimate(run).disagreement or "")


def test_thresholds_say_what_is_kept_and_lost(run: Run) -> None:
    sample, labels = design(run, 60), open_labels(run)
    assert estimate(run).thresholds == []
    by_scores = {row["threshold"]: row for row in Reviewer(run, sample).thresholds_by_scores()}
    assert by_scores[0.5]["kept"] == 148
    assert by_scores[0.5]["wrong_left"]["estimate"] == pytest.approx((1 - np.linspace(0.8, 0.99, 148)).sum())
    label(sample, labels, 1000, truth)
    table = estimate(run).thresholds
    at = {row["threshold"]: row for row in table}
    assert at[0.5]["wrong_left"]["estimate"] == pytest.approx(10)
    assert at[0.5]["right_lost"]["estimate"] == pytest.approx(10)
    assert at[0.5]["kept"] == by_scores[0.5]["kept"]


def test_a_threshold_that_no_label_tells_about_says_nothing(run: Run) -> None:
    sample, labels = design(run, 60), open_labels(run)
    sample.draw(labels)
    kept = [row for row in sample.drawn if 40 <= row < 188]
    labels.add(Label.now(f"{row}", sample.unit(row), BELONGS, "ann") for row in kept)
    at = {row["threshold"]: row for row in estimate(run).thresholds}
    assert at[0.5]["wrong_left"]["estimate"] == 0
    assert at[0.5]["right_lost"] == {"estimate": None, "low": None, "high": None}


def test_a_run_that_grew_needs_a_new_design_and_nothing_reviewed_needs_a_review(run: Run) -> None:
    with pytest.raises(UserError, match="has not been reviewed"):
        estimate(run)
    design(run)
    path = run.path / "review" / "design.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match="the labels are kept"):
        design(run)


def test_labels_survive_a_new_design(run: Run) -> None:
    sample, labels = design(run, 60), open_labels(run)
    label(sample, labels, 60, truth)
    for file in (*(run.path / "review").glob("design.*"), *(run.path / "review" / "drawn").glob("*")):
        file.unlink()
    other = design(run, 60, seed=9)
    while len(other.drawn) < 60:
        other.draw(labels)
    assert 0 < len(list(other.labelled(labels))) < 60


def test_the_room_has_two_names(tmp_path: Path) -> None:
    assert pairclean.review.design is design
    assert pairclean.review.estimate is estimate
    with pytest.raises(AttributeError, match="nothing"):
        _ = pairclean.review.nothing


def test_why_a_review_gives_no_estimate_is_said(run: Run) -> None:
    assert estimate_or_why(run) == (None, None)
    sample = design(run, 60)
    label(sample, open_labels(run), 5, lambda _: CANNOT_TELL)
    found, why = estimate_or_why(run)
    assert found is None
    assert "no pair of the sample is labelled" in (why or "")
    assert audit(run).whole["no_human"] == why
    shown = CliRunner().invoke(app, ["audit", str(run.path)], env={"COLUMNS": "300"})
    assert "gives no estimate yet" in shown.stdout
    label(sample, open_labels(run), 60, lambda _: DOES_NOT)
    found, why = estimate_or_why(run)
    assert why is None
    assert found is not None
    assert "no_human" not in audit(run).whole
    assert "go by the labels" in CliRunner().invoke(app, ["audit", str(run.path)], env={"COLUMNS": "300"}).stdout
    path = run.path / "review" / "design.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    found, why = estimate_or_why(run)
    assert found is None
    assert "The labels of the review are not used" in (why or "")


def test_the_terminal_says_that_there_is_no_estimate_yet(run: Run, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["review", str(run.path), "--sheet", str(tmp_path / "a.csv")])
    assert "There is no estimate yet" in shown.stdout
