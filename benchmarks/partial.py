"""Can captions that are half right be told from those that are wrong?  python -m benchmarks.partial [SET ...]

Some pairs carry another's caption, some their own with half of its clauses (or words) from another. Scored by what
trusts no pair: the encoder as it is, or canonical correlation, out of fold. A row a mixture and a threshold: the shares
of complete mismatches, partial ones and matches that are flagged; the share of partial ones that the mixtures of likely
matches foretell; then of the pairs that are flagged, how many `noise_kind` calls complete and how many of these are,
and the same for partial.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from benchmarks.common import Data, load, moved
from benchmarks.methods import half_foreign
from pairclean.align import Alignment, Canonical, ZeroShot
from pairclean.judge import FOLDS, CrossFit, assign_folds, judge_scores, kind_cut, mixed_scores

SEED = 0
MIXTURES = ((0.4, 0.0), (0.2, 0.2), (0.1, 0.3), (0.0, 0.4))
THRESHOLDS = (0.5, 0.9)


def planted(data: Data, complete: float, partial: float) -> tuple[Data, np.ndarray, np.ndarray]:
    """The pairs, and which carry a caption that is completely wrong, and which a partly wrong one, (N,) bool."""
    carried = moved(data, complete + partial, SEED)
    every = np.arange(len(carried))
    at = np.random.default_rng(SEED).permutation(np.flatnonzero(carried != every))
    count = round(len(at) * complete / (complete + partial))
    wholly, partly = np.isin(every, at[:count]), np.isin(every, at[count:])
    seen = half_foreign(data, np.where(partly, carried, every), SEED) if partly.any() else data
    mixed = seen.caption != data.caption
    swapped = data.carrying(carried)
    text = np.where(wholly[:, None], swapped.text, seen.text)
    ids, caption = (
        np.where(wholly, swapped.caption_id, seen.caption_id),
        np.where(wholly, swapped.caption, seen.caption),
    )
    return replace(data, text=text, caption_id=ids, caption=caption), wholly, mixed


def share(kind: np.ndarray, among: np.ndarray) -> str:
    return f"{kind[among].mean():.2f}" if among.any() else ""


def main(sets: list[str]) -> None:
    titles = ("complete", "partial", "below", "flagged complete", "flagged partial", "foretold", "flagged matched")
    called = ("called complete", "right", "called partial", "right")
    print(f"| data | {' | '.join(titles + called)} |\n{'|---' * 12}|")
    for name in sets:
        whole = load(name)
        for rates in MIXTURES:
            data, complete, partial = planted(whole, *rates)
            rows, pairs = np.arange(len(complete)), data.pairs
            fold = assign_folds(data.image_id, data.caption_id, FOLDS)
            models: list[Alignment] = [ZeroShot()]
            if not data.comparable:
                models = [Canonical().fit(pairs, rows[fold != k]) for k in range(FOLDS)]
            cross_fit = CrossFit(models, rows, fold)
            scores = cross_fit.scores(pairs)
            calibration = judge_scores(scores, scores)
            clean = calibration.clean_probability(scores.score)
            mixed = mixed_scores(cross_fit, pairs, scores, clean)
            cut = kind_cut(mixed, scores.decoys)
            looks_partial = np.zeros(len(rows), bool) if cut is None else scores.score >= cut
            for below in THRESHOLDS:
                flagged, foretold = clean < below, (calibration.clean_probability(mixed) < below).mean()
                shares = [share(flagged, kind) for kind in (complete, partial, ~complete & ~partial)]
                says = [flagged & ~looks_partial, flagged & looks_partial]
                told = [f"{s.sum()} | {share(k, s)}" for s, k in zip(says, (complete, partial), strict=True)]
                cells = (*rates, below, *shares[:2], f"{foretold:.2f}", shares[2], *told)
                print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["fashion_unseen", "fashion"])
