"""A judgement whose probabilities are refitted with labels of a random sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from ..pairs import UserError
from .decoys import Rate
from .folds import FOLDS, fold_of
from .judgement import Judgement, near_misses, rate_notes
from .recalibration import Recalibration, fit

FEWEST_LABELS = 20
_POINTS = 512  # quantiles of the clean probability that stand for all judged pairs


@dataclass(frozen=True)
class Labelled:
    """Pairs of a random sample that people have labelled, and the mismatch rate that follows from all labels.

    row: (n,) int64.  matched: (n,) bool.  weight: (n,) float64, the number of pairs that each stands for.
    """

    row: np.ndarray
    matched: np.ndarray
    weight: np.ndarray
    rate: Rate


def with_labels(judgement: Judgement, labelled: Labelled, image_id: np.ndarray) -> Judgement:
    """The same judgement with probabilities refitted by labels; pairs that were not judged stay so.

    image_id: (N,) int64, equal for equal images.
    Where a label was used in a fit, its pair's own probability would be too sure. Pairs with a labelled image therefore
    get theirs from a fit that leaves out a fifth of the images, their own among them.
    The mismatch rate becomes that of the labels; that of the scores stays in `recalibration.by_scores`.
    Raises UserError where nothing was judged, or too few of the judged pairs are labelled.
    """
    if judgement.unjudged is not None or judgement.rate is None:
        raise UserError(f"there are no probabilities to refit, as nothing was judged: {judgement.unjudged}")
    clean = np.asarray(judgement.clean_probability)
    known = ~np.isnan(clean[labelled.row])
    row, matched, weight = labelled.row[known], labelled.matched[known], labelled.weight[known]
    if len(row) < FEWEST_LABELS:
        raise UserError(
            f"{len(row)} judged pairs are labelled, and refitting takes at least {FEWEST_LABELS}: label more pairs "
            "with `pairclean review`, or judge with --no-use-labels"
        )
    by_scores = {name: value for name, value in asdict(judgement.rate).items() if name != "parts"}
    points = np.quantile(clean[~np.isnan(clean)], (np.arange(_POINTS) + 0.5) / _POINTS)

    def fitted(chosen: np.ndarray) -> Recalibration:
        intercept, slope = fit(clean[row[chosen]], matched[chosen], weight[chosen], points)
        return Recalibration(intercept, slope, len(row), labelled.rate.estimate, by_scores)

    everything = fitted(np.ones(len(row), bool))
    found = everything(clean)
    fold, of_label = fold_of(image_id, FOLDS), fold_of(image_id[row], FOLDS)
    seen = np.isin(image_id, image_id[row])
    for k in np.unique(of_label):
        found[seen & (fold == k)] = fitted(of_label != k)(clean[seen & (fold == k)])
    of_scores = [*rate_notes(judgement.rate), *near_misses(judgement.calibration)]  # people see what these miss
    notes = [note for note in judgement.notes if note not in of_scores]
    return replace(
        judgement,
        notes=[*notes, _note(everything, judgement.rate)],
        clean_probability=found.astype(np.float32).astype(np.float64),
        decoy_clean_probability=everything(np.asarray(judgement.decoy_clean_probability)),
        mixed_clean_probability=everything(np.asarray(judgement.mixed_clean_probability)),
        rate=labelled.rate,
        recalibration=everything,
    )


def _note(found: Recalibration, before: Rate) -> str:
    return (
        f"The clean probabilities were refitted with {found.labels:,} labels of a random sample (log odds times "
        f"{found.slope:.2f}, plus {found.intercept:.2f}), and the mismatch rate is that of the labels; the scores "
        f"alone say {before.estimate:.1%} ({before.low:.1%} to {before.high:.1%}). Pairs with a labelled image have "
        "their probability from a fit without their own label."
    )
