"""What the labels of a run say: its mismatch rate, that of its parts, and what a threshold keeps and costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..judge import FEWEST_LABELS, Labelled, Rate, threshold_table, thresholds_shown
from ..pairs import UserError, Verdict
from ..run import Run
from ..run.results import open_judgement, open_rematches
from .labels import BELONGS, CANNOT_TELL, DOES_NOT, PARTLY, Labels, Unit
from .rates import LEVEL, Estimate, Strata, difference, labels_needed, rate, share_within
from .sample import Design, design, open_design

NOTHING_TOLD = "no pair of the sample is labelled (“cannot tell” does not count)"


@dataclass(frozen=True)
class Reviewed:
    """What the labels say about a run.

    labels: drawn pairs that are labelled, by their answer.  reviewers: how many pairs each has labelled.
    mismatched: the share of pairs whose caption does not belong.  at_least_partly: the same with captions that belong
    partly counted as mismatched.  Both leave out pairs of which nobody could tell; bounds: the interval of `mismatched`
    widened to hold whatever these are.
    prediction_powered: `mismatched` by the scores, corrected by the labels.
    flagged: the share of mismatched pairs among the flagged (precision).  missed: among the others.  found: the share
    of the mismatched pairs that is flagged (recall).  rematched: the share of new captions that belong.
    unjudged: the share of mismatched pairs among those that could not be judged.
    groups: by the design's column.  thresholds: what each threshold keeps and costs, by the labels.
    scores: what the run estimates without labels (estimate, low, high, level).
    agreement: between reviewers, and of reviewers with themselves.
    needed: how many more labels would bring the interval to +- 5 and +- 3 points.
    None stands for what has no label yet.
    """

    labels: dict[str, int]
    reviewers: dict[str, int]
    mismatched: Estimate | None
    at_least_partly: Estimate | None
    bounds: tuple[float, float] | None
    prediction_powered: Estimate | None
    flagged: Estimate | None
    missed: Estimate | None
    found: Estimate | None
    rematched: Estimate | None
    unjudged: Estimate | None
    groups: dict[str, Estimate | None]
    thresholds: list[dict[str, Any]]
    scores: dict[str, float | None]
    agreement: list[dict[str, object]]
    needed: dict[str, int]

    @property
    def disagreement(self) -> str | None:
        """A sentence where the scores' own interval and that of the labels do not overlap."""
        low, high, found = self.scores["low"], self.scores["high"], self.mismatched
        if found is None or low is None or high is None or (found.low <= high and low <= found.high):
            return None
        side = "more" if found.low > high else "fewer"
        return (
            f"The labels find {side} mismatched pairs ({found.low:.1%} to {found.high:.1%}) than the scores say "
            f"({low:.1%} to {high:.1%}): go by the labels."
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "level": LEVEL, "disagreement": self.disagreement}


def estimate(run: Run, labels: Labels | None = None) -> Reviewed:
    """What the labels of a run's sample say.

    labels: by default those in RUN/review; any others count for the pairs that the run's design has drawn.
    Raises UserError where the run is not finished or has no design.
    """
    if not (run.path / "review" / "design.json").exists():
        raise UserError(f"{run.path} has not been reviewed: run `pairclean review` on it")
    return Reviewer(run, design(run)).estimate(open_labels(run) if labels is None else labels)


def estimate_or_why(run: Run) -> tuple[Reviewed | None, str | None]:
    """As `estimate`, or a sentence that says why the review of this run gives no estimate.

    Both are None for a run that nobody has begun to review.
    """
    if not (run.path / "review" / "design.json").exists():
        return None, None
    try:
        found = estimate(run)
    except UserError as error:
        return None, f"The labels of the review are not used: {error}."
    if found.mismatched is None:
        return None, f"The review of {run.path} gives no estimate yet: {NOTHING_TOLD}."
    return found, None


def labelled_pairs(run: Run) -> Labelled:
    """The labels of a run's sample, as `judge.with_labels` takes them; `partly` counts as matched.

    Raises UserError where too few pairs are labelled, or the run holds other pairs than its sample was drawn from.
    """
    sample, labels = open_design(run), open_labels(run)
    told = [(row, answer) for row, answer in sample.labelled(labels) if answer != CANNOT_TELL]
    if len(told) < FEWEST_LABELS:
        raise UserError(
            f"{len(told)} pairs of {run.path} are labelled (“cannot tell” does not count), and using labels takes at "
            f"least {FEWEST_LABELS}: label more with `pairclean review`"
        )
    rows = np.array([row for row, _ in told], np.int64)
    wrong = np.array([answer == DOES_NOT for _, answer in told])
    strata = Strata.counted(sample.stratum, rows, wrong)
    found = rate(strata)
    assert found is not None
    weight = (strata.size / np.maximum(strata.labelled, 1))[sample.stratum[rows]]
    return Labelled(rows, ~wrong, weight, Rate(found.estimate, found.low, found.high, LEVEL))


def open_labels(run: Run) -> Labels:
    return Labels(run.path / "review" / "labels")


class Reviewer:
    """A run and its design, opened once: what labels are compared with.

    clean_probability: (N,), the verdicts', NaN where not judged.  partner: (N,) the row of the new caption, or -1.
    """

    def __init__(self, run: Run, sample: Design) -> None:
        self.run, self.sample = run, sample
        rematches = open_rematches(run)
        self.clean_probability = np.asarray(rematches.clean_probability, np.float64)
        self.partner = np.asarray(rematches.partner)
        self.flag_below = rematches.flag_below
        judgement = open_judgement(run)
        refit = judgement.recalibration
        self.scores = judgement.mismatch_rate if refit is None else refit.by_scores
        self._rate = judgement.rate
        self.readable = sample.stratum >= 0
        self.judged = self.readable & ~np.isnan(self.clean_probability)
        self.is_flagged = self.judged & (self.clean_probability < self.flag_below)
        self.groups = np.array([one["group"] for one in sample.strata], object)

    def new_unit(self, row: int) -> Unit | None:
        """The image of a rematched pair with its new caption."""
        partner = int(self.partner[row])
        return None if partner < 0 else (int(self.sample.image_id[row]), int(self.sample.caption_id[partner]))

    def rate(self, labels: Labels) -> tuple[Estimate | None, dict[str, int]]:
        """The share of mismatched pairs, and how many more labels bring it to +- 5 and +- 3 points."""
        rows, answers = self._labelled(labels)
        strata = self._strata(rows, answers, DOES_NOT)
        found = rate(strata)
        return found, {} if found is None else _needed(strata, found)

    def estimate(self, labels: Labels) -> Reviewed:
        rows, answers = self._labelled(labels)
        strata = self._strata(rows, answers, DOES_NOT)
        mismatched = rate(strata)
        return Reviewed(
            labels={answer: int((answers == answer).sum()) for answer in (BELONGS, PARTLY, DOES_NOT, CANNOT_TELL)},
            reviewers=labels.reviewers,
            mismatched=mismatched,
            at_least_partly=rate(self._strata(rows, answers, PARTLY, DOES_NOT)),
            bounds=self._bounds(rows, answers, mismatched),
            prediction_powered=self._prediction_powered(rows, answers),
            flagged=self._of(self.is_flagged, rows, answers),
            missed=self._of(self.judged & ~self.is_flagged, rows, answers),
            found=self._found(rows, answers),
            rematched=self._rematched(labels),
            unjudged=self._of(self.readable & ~self.judged, rows, answers),
            groups={
                str(name): self._of(np.isin(self.sample.stratum, np.flatnonzero(self.groups == name)), rows, answers)
                for name in dict.fromkeys(self.groups)
                if name is not None
            },
            thresholds=self._thresholds(rows, answers),
            scores=self.scores,
            agreement=labels.agreement(),
            needed={} if mismatched is None else _needed(strata, mismatched),
        )

    def _labelled(self, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
        told = list(self.sample.labelled(labels))
        return np.array([row for row, _ in told], np.int64), np.array([answer for _, answer in told], object)

    def _strata(
        self, rows: np.ndarray, answers: np.ndarray, *mismatched: str, part: np.ndarray | None = None
    ) -> Strata:
        """The strata, or their intersections with a part of the pairs; without the pairs of which nobody can tell."""
        told = answers != CANNOT_TELL
        stratum = self.sample.stratum if part is None else np.where(part, self.sample.stratum, -1)
        counted = Strata.counted(stratum, rows[told], np.isin(answers[told], mismatched))
        return Strata(*(np.pad(x, (0, len(self.sample.strata) - len(x))) for x in vars(counted).values()))

    def _of(self, part: np.ndarray, rows: np.ndarray, answers: np.ndarray) -> Estimate | None:
        return rate(self._strata(rows, answers, DOES_NOT, part=part))

    def _bounds(self, rows: np.ndarray, answers: np.ndarray, mismatched: Estimate | None) -> tuple[float, float] | None:
        if mismatched is None:
            return None
        least, most = (np.where(answers == CANNOT_TELL, guess, answers) for guess in (BELONGS, DOES_NOT))
        low, high = (rate(self._strata(rows, guess, DOES_NOT)) for guess in (least, most))
        assert low is not None
        assert high is not None
        return min(low.low, mismatched.low), max(high.high, mismatched.high)

    def _prediction_powered(self, rows: np.ndarray, answers: np.ndarray) -> Estimate | None:
        told = answers != CANNOT_TELL
        known = self.clean_probability[self.judged]
        prediction = np.where(self.judged, 1 - self.clean_probability, 1 - known.mean() if len(known) else 0.5)
        return difference(self.sample.stratum, prediction, rows[told], answers[told] == DOES_NOT)

    def _found(self, rows: np.ndarray, answers: np.ndarray) -> Estimate | None:
        inside = self._strata(rows, answers, DOES_NOT, part=self.is_flagged)
        outside = self._strata(rows, answers, DOES_NOT, part=self.readable & ~self.is_flagged)
        both = Strata(*(np.concatenate(x) for x in zip(vars(inside).values(), vars(outside).values(), strict=True)))
        return share_within(both, np.arange(len(both.size)) < len(inside.size))

    def _rematched(self, labels: Labels) -> Estimate | None:
        """The new captions are asked about in the same sample as the old ones."""
        part = self.readable & (self.partner >= 0)
        units = [(row, self.new_unit(row)) for row in self.sample.drawn if part[row]]
        told = [
            (row, answer) for row, unit in units if unit is not None and (answer := labels.answer(unit)) is not None
        ]
        rows = np.array([row for row, _ in told], np.int64)
        wrong = rate(self._strata(rows, np.array([a for _, a in told], object), PARTLY, DOES_NOT, part=part))
        return None if wrong is None else Estimate(1 - wrong.estimate, 1 - wrong.high, 1 - wrong.low, wrong.labels)

    def thresholds_by_scores(self) -> list[dict[str, Any]]:
        """`judge.threshold_table` of the run."""
        return threshold_table(self.clean_probability, self._rate, flag_below=self.flag_below)

    def _thresholds(self, rows: np.ndarray, answers: np.ndarray) -> list[dict[str, Any]]:
        """By the labels, what each threshold keeps and costs; empty without a label.

        The rows are those of `judge.threshold_table`, with None for estimate, low and high where no label tells. What
        is left does not grow with the threshold and what is lost does not shrink, as is true of the pairs themselves.
        """
        if not (answers != CANNOT_TELL).any():
            return []
        table = list[dict[str, Any]]()
        for threshold in thresholds_shown(self.flag_below):
            kept = self.judged & (self.clean_probability >= threshold)
            lost = self.judged & ~kept
            wrong, gone = (self._of(part, rows, answers) for part in (kept, lost))
            table.append(
                {
                    "threshold": threshold,
                    "kept": int(kept.sum()),
                    "wrong_left": _pairs(wrong, int(kept.sum())),
                    "right_lost": _pairs(_complement(gone), int(lost.sum())),
                }
            )
        _made_monotone([row["wrong_left"] for row in reversed(table)])
        _made_monotone([row["right_lost"] for row in table])
        return table


def _made_monotone(counts: list[dict[str, Any]]) -> None:
    """Raise each number that is known to the largest before it."""
    for before, after in pairwise(one for one in counts if one["estimate"] is not None):
        after.update({name: max(before[name], after[name]) for name in ("estimate", "low", "high")})


def _needed(strata: Strata, found: Estimate) -> dict[str, int]:
    return {name: labels_needed(strata, found, width) for name, width in (("0.05", 0.05), ("0.03", 0.03))}


def _complement(share: Estimate | None) -> Estimate | None:
    return None if share is None else Estimate(1 - share.estimate, 1 - share.high, 1 - share.low, share.labels)


def _pairs(share: Estimate | None, pairs: int) -> dict[str, float | None]:
    if not pairs:
        return {"estimate": 0.0, "low": 0.0, "high": 0.0}
    if share is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": share.estimate * pairs, "low": share.low * pairs, "high": share.high * pairs}


def verdict_of(reviewer: Reviewer, row: int) -> Verdict:
    if not reviewer.judged[row]:
        return Verdict.UNJUDGED
    if reviewer.partner[row] >= 0:
        return Verdict.REMATCHED
    return Verdict.NOISY if reviewer.is_flagged[row] else Verdict.CLEAN
