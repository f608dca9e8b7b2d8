"""Looking for systematic faults before anything is learned, and learning from the pairs as they are then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..align import ZeroShot
from ..arrays import Pairs, Space
from .judgement import NOISE_KINDS, Judgement, rate_notes
from .offsets import Faults
from .rounds import Learned, learn


def faults_before(pairs: Pairs, readable: np.ndarray, learned: Learned, *, comparable: bool, repair: bool) -> Faults:
    """The faults of pairs that a model is applied to which did not learn from them.  Arguments as in `learn_mended`."""
    return Faults.of(pairs, readable, _space(learned, comparable), repair=repair)


def learn_mended(
    pairs: Pairs, readable: np.ndarray, *, comparable: bool, repair: bool, **options: Any
) -> tuple[Learned, Faults]:
    """Find the systematic faults of N pairs, give captions back if `repair`, and learn from what the pairs are then.

    Faults are looked for in the encoder's space. Where it has none that both sides share, a model that was learned
    from the pairs as they are stands in, and learning is repeated if captions were given back.

    readable: (N,) bool.  comparable and the other options: as in `learn`.
    """
    rows = np.flatnonzero(readable)
    if comparable:
        faults = Faults.of(pairs, readable, ZeroShot(), repair=repair)
        return learn(faults.mended(pairs), rows, comparable=True, **options), faults
    learned = learn(pairs, rows, comparable=False, **options)
    faults = faults_before(pairs, readable, learned, comparable=False, repair=repair)
    if repair and faults.moved.any():
        learned = learn(faults.mended(pairs), rows, comparable=False, **options)
    return learned, faults


def with_strays(judgement: Judgement, faults: Faults, caption_id: np.ndarray) -> Judgement:
    """The same, with what is known from the places of captions that moved together and were not given back.

    A pair whose caption belongs to another image is mismatched, whatever its score, and as surely as the faults are
    found. The errors of the rate are those of the other pairs, whose share is estimated without these.

    judgement: of N pairs as they came, without labels.  caption_id: (N,) int64.
    """
    strays = faults.strays(caption_id) & ~np.isnan(judgement.clean_probability)
    if faults.repaired or judgement.rate is None or not strays.any():
        return judgement
    found, rate, judged = judgement.clean_probability, judgement.rate, ~np.isnan(judgement.clean_probability)
    clean = np.where(strays, np.fmin(found, np.float32(faults.doubt)), found)
    known, rest = float(strays[judged].mean()), found[judged & ~strays]
    share = _share_of(rest, rate.estimate if judgement.calibration is None else judgement.calibration.prior)
    surely = known * (1 - faults.doubt)
    low = surely + (1 - known) * max(0.0, share - (rate.estimate - rate.low))
    high = known + (1 - known) * min(1.0, share + (rate.high - rate.estimate))
    parts = {}
    for name, part in rate.parts.items():
        counted = strays & (_part(judgement.noise_kind) == name)
        less = float((1 - found[counted]).sum()) / judged.sum()
        parts[name] = {end: max(0.0, value - less) for end, value in part.items()}
    if parts:
        parts["shifted"] = {"estimate": known, "low": surely, "high": known}
    why = rate.why_wide if high - low > (rate.high - rate.low) / 2 else None
    new = replace(rate, estimate=known + (1 - known) * share, low=low, high=high, why_wide=why, parts=parts)
    notes = [note for note in judgement.notes if note not in rate_notes(rate)]
    return replace(judgement, clean_probability=clean, rate=new, notes=[*notes, *rate_notes(new)])


def _share_of(clean: np.ndarray, prior: float) -> float:
    """The mismatch rate of some pairs by maximum likelihood.

    clean: (n,) their P(matched).  prior: P(mismatched) before the score is seen, which these contain.
    """
    if not len(clean):
        return 0.0
    mismatched = np.clip(1 - clean, 1e-9, 1 - 1e-9)
    share = float(np.clip(prior, 1e-9, 1 - 1e-9))
    odds = mismatched / (1 - mismatched) * (1 - share) / share
    for _ in range(500):
        share = float((share * odds / (share * odds + 1 - share)).mean())
    return share


def _part(noise_kind: np.ndarray) -> np.ndarray:
    """(N,) the name in `Rate.parts` of what each pair would be if it were mismatched."""
    named = np.array([kind if kind in ("within_kind", "generic", "placeholder") else "random" for kind in NOISE_KINDS])
    return named[noise_kind]


def _space(learned: Learned, comparable: bool) -> Space | None:
    return ZeroShot() if comparable else next(iter(learned.first), None)
