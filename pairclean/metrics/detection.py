"""How well a run found planted mismatches: metrics of scores and probabilities, and of a run's verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairclean.pairs import UserError, Verdict

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of the probability of a rematch


def auroc(score: Floats, positive: Bools) -> float:
    """Area under the ROC curve: the probability that a positive outscores a negative, ties counted half.

    score: (n,) float, higher is more positive.  positive: (n,) bool.  Returns NaN where a class is empty.

    >>> auroc(np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, True, False, False]))
    0.75
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return math.nan
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # ranks start at 1; tied scores share their mean rank
    above = mean_rank[inverse][positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def average_precision(score: Floats, positive: Bools) -> float:
    """Mean over the positives of the precision at their rank, from the highest score down.

    score: (n,) float.  positive: (n,) bool.  Tied scores keep the order they are given in.
    Returns NaN without positives.

    >>> average_precision(np.array([0.9, 0.4, 0.6, 0.1]), np.array([True, True, False, False]))
    0.8333333333333333
    """
    hit = positive[np.argsort(-score, kind="stable")]
    if not hit.any():
        return math.nan
    place = np.flatnonzero(hit) + 1
    return float((np.arange(1, len(place) + 1) / place).mean())


def expected_calibration_error(probability: Floats, outcome: Bools, bins: int = 10) -> float:
    """Mean gap between predicted and observed rate over `bins` bins of equal width, weighted by the pairs in them.

    probability: (n,) float in [0, 1].  outcome: (n,) bool.  Returns NaN without pairs.

    >>> expected_calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]))
    0.0
    """
    if not len(probability):
        return math.nan
    bin_of = np.minimum((probability * bins).astype(np.int64), bins - 1)
    predicted = np.bincount(bin_of, probability, bins)
    observed = np.bincount(bin_of, outcome, bins)
    return float(np.abs(predicted - observed).sum() / len(probability))


def reliability(probability: Floats, outcome: Bools, bins: int = 10) -> list[dict[str, float | int]]:
    """What was predicted beside what was observed, over `bins` bins of equal width; bins without a pair are left out.

    probability: (n,) float in [0, 1].  outcome: (n,) bool.
    Returns one entry per bin that has pairs: its bounds `low` and `high`, its number of `pairs`, and the means
    `predicted` and `observed` over them.

    >>> reliability(np.array([0.1, 0.9, 0.9]), np.array([False, True, False]), bins=2)[1]
    {'low': 0.5, 'high': 1.0, 'pairs': 2, 'predicted': 0.9, 'observed': 0.5}
    """
    bin_of = np.minimum((probability * bins).astype(np.int64), bins - 1)
    return [
        {
            "low": k / bins,
            "high": (k + 1) / bins,
            "pairs": int((bin_of == k).sum()),
            "predicted": float(probability[bin_of == k].mean()),
            "observed": float(outcome[bin_of == k].mean()),
        }
        for k in np.unique(bin_of).tolist()
    ]


def brier(probability: Floats, outcome: Bools) -> float:
    """Mean squared error of the probabilities.  probability: (n,) float.  outcome: (n,) bool.  NaN without pairs.

    >>> brier(np.array([1.0, 0.5]), np.array([True, False]))
    0.125
    """
    return float(np.mean((probability - outcome) ** 2)) if len(probability) else math.nan


def _share(part: Bools, whole: Bools) -> float:
    """|part and whole| / |whole|; 0 where the whole is empty."""
    return int((part & whole).sum()) / max(1, int(whole.sum()))


def score_run(verdicts: pa.Table, truth: pa.Table) -> dict[str, float | int]:
    """Score the verdicts of a run against the mismatches that were planted in its input.

    verdicts: one row per pair, `pairs.VERDICT_SCHEMA`.  truth: what `pairclean.plant` writes, in any order. Where pairs
    were left out of the input (so that others have no partner), only the rows of the pairs that the run was given.

    A pair is mismatched where the text that it carries differs from its own. Pairs that were not judged or could not be
    read count as probability 0.5, so that refusing hard pairs does not improve the scores. A rematch is correct where
    the new caption has the text of the picture's own caption. That text is available where some mismatched pair carries
    it (`partners_on_offer`). `correct_before` and `correct_after` are the shares of correct captions in the input, and
    among the clean and the rematched pairs.
    Metrics that need a class without members are NaN (auroc, average_precision) or 0.
    Raises UserError if verdicts and truth are not about the same pairs.
    """
    return _figures(_compare(verdicts, truth))


@dataclass(frozen=True)
class _Compared:
    """A run's verdicts beside the truth, (n,) each, in the order of the verdicts.

    probability: clean probability, 0.5 where a pair was not judged.  right: rematched to its own caption.
    on_offer: mismatched, and some mismatched pair carries its caption.  kind: how it was planted, None where unknown.
    """

    noisy: Bools
    verdict: NDArray[np.object_]
    judged: Bools
    probability: NDArray[np.float64]
    rematch_probability: NDArray[np.float64]
    right: Bools
    on_offer: Bools
    kind: NDArray[np.object_]

    @property
    def flagged(self) -> Bools:
        return np.isin(self.verdict, [Verdict.REMATCHED.value, Verdict.NOISY.value])

    @property
    def emitted(self) -> Bools:
        return np.asarray(self.verdict == Verdict.REMATCHED.value, bool)


def _compare(verdicts: pa.Table, truth: pa.Table) -> _Compared:
    ids = verdicts["pair_id"].to_pylist()
    keys = truth["key"].to_pylist()
    own = dict(zip(keys, truth["caption"].to_pylist(), strict=True))
    carries = dict(zip(keys, truth["carried_caption"].to_pylist(), strict=True))
    if len(set(ids)) < len(ids) or set(ids) != set(keys):
        raise UserError(
            f"the run's verdicts ({len(ids):,}) and the truth ({len(keys):,}) are not about the same pairs, once each: "
            "compare a run with the truth of its own input"
        )
    noisy = np.array([carries[k] != own[k] for k in ids], dtype=bool)
    verdict = np.array(verdicts["verdict"].to_pylist(), dtype=object)
    judged = ~np.isin(verdict, [Verdict.UNJUDGED.value, Verdict.UNREADABLE.value])
    probability = np.array(verdicts["clean_probability"].to_pylist(), dtype=np.float64)
    partners = verdicts["rematch_pair_id"].to_pylist()
    emitted = verdict == Verdict.REMATCHED.value
    right = np.array([e and carries[p] == own[k] for k, e, p in zip(ids, emitted, partners, strict=True)], dtype=bool)
    lost = {carries[k] for k, is_noisy in zip(ids, noisy, strict=True) if is_noisy}  # captions that lost their picture
    on_offer = noisy & np.array([own[k] in lost for k in ids], dtype=bool)
    kinds = truth["noise_kind"].to_pylist() if "noise_kind" in truth.column_names else [None] * len(keys)
    kind = dict(zip(keys, kinds, strict=True))
    return _Compared(
        noisy=noisy,
        verdict=verdict,
        judged=judged,
        probability=np.where(judged, probability, 0.5),
        rematch_probability=np.array(verdicts["rematch_probability"].to_pylist(), dtype=np.float64),
        right=right,
        on_offer=on_offer,
        kind=np.array([kind[k] for k in ids], dtype=object),
    )


def _figures(run: _Compared) -> dict[str, float | int]:
    noisy, flagged, emitted, verdict, probability = run.noisy, run.flagged, run.emitted, run.verdict, run.probability
    kept = emitted | (verdict == Verdict.CLEAN.value)
    precision, recall = _share(noisy, flagged), _share(flagged, noisy)
    return {
        "pairs": len(noisy),
        "unreadable": int((verdict == Verdict.UNREADABLE.value).sum()),
        "unjudged": int((verdict == Verdict.UNJUDGED.value).sum()),
        "true_mismatch_rate": float(noisy.mean()) if len(noisy) else math.nan,
        "auroc": auroc(-probability, noisy),
        "average_precision": average_precision(-probability, noisy),
        "flag_precision": precision,
        "flag_recall": recall,
        "flag_rate": float(flagged.mean()) if len(noisy) else math.nan,
        "flag_f1": 2 * precision * recall / max(1e-9, precision + recall),
        "brier": brier(probability, ~noisy),
        "ece": expected_calibration_error(probability, ~noisy),
        "rematch_emitted": int(emitted.sum()),
        "rematch_precision": _share(run.right, emitted),
        "partners_on_offer": int(run.on_offer.sum()),
        "rematch_recall": _share(run.right, run.on_offer),
        "rematched_clean_pairs": int((emitted & ~noisy).sum()),
        "correct_before": float((~noisy).mean()) if len(noisy) else math.nan,
        "correct_after": _share(np.where(emitted, run.right, ~noisy), kept),
        "pairs_after": int(kept.sum()),
    }


def compare_run(verdicts: pa.Table, truth: pa.Table, rate: Mapping[str, float | None]) -> dict[str, Any]:
    """The metrics of `score_run`, and how well the probabilities and the mismatch rate of the run hold.

    verdicts, truth: as for `score_run`.
    rate: the run's mismatch rate: `estimate`, `low` and `high`, each None where nothing was judged.

    In addition to `score_run` it returns:

    - mismatch_rate: the run's own `estimate`, `low` and `high`; `true`; `error` (estimate - true); and whether the
      interval `covers` the true rate.
    - reliability: `reliability` of the clean probability over the judged pairs.
    - risk_coverage: for each probability in `THRESHOLDS`, the number of rematches that are at least as sure
      (`rematched`), the share of them that is correct (`precision`, None without any), and the share of the available
      captions that they bring back (`recall`).
    - kinds: for each kind of planted mismatch that the truth names, its `pairs` and the share that was `flagged`.
    """
    run = _compare(verdicts, truth)
    figures = _figures(run)
    true, low, high, estimate = figures["true_mismatch_rate"], rate["low"], rate["high"], rate["estimate"]
    kinds = sorted({kind for kind in run.kind[run.noisy] if kind})
    of_kind = {kind: run.noisy & np.asarray(run.kind == kind, bool) for kind in kinds}
    return {
        **figures,
        "mismatch_rate": {
            **{name: rate[name] for name in ("estimate", "low", "high")},
            "true": true,
            "error": None if estimate is None else estimate - true,
            "covers": None if low is None or high is None else low <= true <= high,
        },
        "reliability": reliability(run.probability[run.judged], ~run.noisy[run.judged]),
        "risk_coverage": [_at(run, threshold) for threshold in THRESHOLDS],
        "kinds": {
            kind: {"pairs": int(pairs.sum()), "flagged": _share(run.flagged, pairs)} for kind, pairs in of_kind.items()
        },
    }


def _at(run: _Compared, threshold: float) -> dict[str, float | int | None]:
    with np.errstate(invalid="ignore"):  # NaN where nothing was rematched
        chosen = run.emitted & (run.rematch_probability >= threshold)
    return {
        "threshold": threshold,
        "rematched": int(chosen.sum()),
        "precision": _share(run.right, chosen) if chosen.any() else None,
        "recall": _share(run.right & chosen, run.on_offer),
    }
