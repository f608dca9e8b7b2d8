"""How well a run found planted mismatches: metrics of scores and probabilities, and the scores of a whole run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairclean.pairs import UserError, Verdict

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


def auroc(score: Floats, positive: Bools) -> float:
    """The probability that a positive outscores a negative, ties counted half.

    score: (n,) float, higher is more positive.  positive: (n,) bool.  Returns nan where a class is empty.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return math.nan
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # ranks from 1; tied scores share their mean rank
    above = mean_rank[inverse][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def average_precision(score: Floats, positive: Bools) -> float:
    """Mean over the positives of the precision at their place, from the highest score down.

    score: (n,) float.  positive: (n,) bool.  Tied scores are taken in the order given.  Returns nan without positives.
    """
    hit = positive[np.argsort(-score, kind="stable")]
    if not hit.any():
        return math.nan
    place = np.flatnonzero(hit) + 1
    return float((np.arange(1, len(place) + 1) / place).mean())


def expected_calibration_error(probability: Floats, outcome: Bools, bins: int = 10) -> float:
    """Mean gap between predicted and observed rate over `bins` bins of equal width, weighted by their pairs.

    probability: (n,) float in [0, 1].  outcome: (n,) bool.  Returns nan without pairs.
    """
    if not len(probability):
        return math.nan
    bin_of = np.minimum((probability * bins).astype(np.int64), bins - 1)
    predicted = np.bincount(bin_of, probability, bins)
    observed = np.bincount(bin_of, outcome, bins)
    return float(np.abs(predicted - observed).sum() / len(probability))


def brier(probability: Floats, outcome: Bools) -> float:
    """Mean squared error of the probabilities.  probability: (n,) float.  outcome: (n,) bool.  nan without pairs."""
    return float(np.mean((probability - outcome) ** 2)) if len(probability) else math.nan


def _share(part: Bools, whole: Bools) -> float:
    """|part and whole| / |whole|; 0 where the whole is empty."""
    return int((part & whole).sum()) / max(1, int(whole.sum()))


def score_run(verdicts: pa.Table, truth: pa.Table) -> dict[str, float | int]:
    """Score the verdicts of a run against what was planted in its input.

    verdicts: a row a pair, `pairs.VERDICT_SCHEMA`.  truth: the table of `plant_shards`, for the same pairs in any order
    (its rows of the pairs that the run was given, where some were left out so that others have no partner).

    A pair is mismatched where the text that it carries differs from its own. Pairs that were not judged or could not be
    read count as probability 0.5, so that leaving hard pairs out does not pay. A rematch is right where the new caption
    has the text of the picture's own; it is on offer where some mismatched pair carries that text. `correct_before` and
    `correct_after` are the shares of right captions in the input and among the clean and the rematched pairs.
    Figures that need a class which is not there are nan (auroc, average_precision) or 0.
    Raises UserError if verdicts and truth are not about the same pairs.
    """
    ids = verdicts["pair_id"].to_pylist()
    keys = truth["key"].to_pylist()
    own = dict(zip(keys, truth["caption"].to_pylist(), strict=True))
    carries = dict(zip(keys, truth["carried_caption"].to_pylist(), strict=True))
    if len(set(ids)) < len(ids) or set(ids) != set(keys):
        raise UserError(
            f"The run's verdicts ({len(ids):,}) and the truth ({len(keys):,}) are not about the same pairs, once each; "
            "compare a run with the truth of its own input."
        )
    noisy = np.array([carries[k] != own[k] for k in ids], dtype=bool)
    verdict = np.array(verdicts["verdict"].to_pylist(), dtype=object)
    judged = ~np.isin(verdict, [Verdict.UNJUDGED.value, Verdict.UNREADABLE.value])
    probability = np.array(verdicts["clean_probability"].to_pylist(), dtype=np.float64)
    probability = np.where(judged, probability, 0.5)
    flagged = np.isin(verdict, [Verdict.REMATCHED.value, Verdict.NOISY.value])
    emitted = verdict == Verdict.REMATCHED.value
    partners = verdicts["rematch_pair_id"].to_pylist()
    right = np.array([e and carries[p] == own[k] for k, e, p in zip(ids, emitted, partners, strict=True)], dtype=bool)
    lost = {carries[k] for k, is_noisy in zip(ids, noisy, strict=True) if is_noisy}  # captions that lost their picture
    on_offer = noisy & np.array([own[k] in lost for k in ids], dtype=bool)
    kept = emitted | (verdict == Verdict.CLEAN.value)
    precision, recall = _share(noisy, flagged), _share(flagged, noisy)
    return {
        "pairs": len(ids),
        "unreadable": int((verdict == Verdict.UNREADABLE.value).sum()),
        "unjudged": int((verdict == Verdict.UNJUDGED.value).sum()),
        "true_mismatch_rate": float(noisy.mean()) if len(ids) else math.nan,
        "auroc": auroc(-probability, noisy),
        "average_precision": average_precision(-probability, noisy),
        "flag_precision": precision,
        "flag_recall": recall,
        "flag_rate": float(flagged.mean()) if len(ids) else math.nan,
        "flag_f1": 2 * precision * recall / max(1e-9, precision + recall),
        "brier": brier(probability, ~noisy),
        "ece": expected_calibration_error(probability, ~noisy),
        "rematch_emitted": int(emitted.sum()),
        "rematch_precision": _share(right, emitted),
        "partners_on_offer": int(on_offer.sum()),
        "rematch_recall": _share(right, on_offer),
        "rematched_clean_pairs": int((emitted & ~noisy).sum()),
        "correct_before": float((~noisy).mean()) if len(ids) else math.nan,
        "correct_after": _share(np.where(emitted, right, ~noisy), kept),
        "pairs_after": int(kept.sum()),
    }
