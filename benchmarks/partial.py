"""Can captions that are half right be told from those that are wrong?  python -m benchmarks.partial [SET ...]

A fifth of the pairs carries another's caption, a fifth its own with half of its clauses (or words) from another. Scored
by what trusts no pair: the encoder as it is, or canonical correlation, out of fold. A row a set: how well complete and
partial mismatches are told from matches (AUROC), which share of each is flagged, and how well the score tells partial
from complete ones among those flagged; then, calling a flagged pair partial where it scores above four fifths of the
decoys, how many of those are partial (precision), and how many of the flagged partial ones are among them (recall).
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from benchmarks.common import Data, load, moved
from benchmarks.methods import half_foreign
from pairclean.align import Alignment, Canonical, ZeroShot
from pairclean.evaluate.detection import auroc
from pairclean.judge import FOLDS, assign_folds, cross_scores, judge_scores

RATE, SEED, ABOVE = 0.4, 0, 0.8


def planted(data: Data) -> tuple[Data, np.ndarray, np.ndarray]:
    """The pairs, and which carry a caption that is completely wrong, and which a partly wrong one, (N,) bool."""
    carried = moved(data, RATE, SEED)
    every = np.arange(len(carried))
    at = np.random.default_rng(SEED).permutation(np.flatnonzero(carried != every))
    complete, partly = np.isin(every, at[::2]), np.isin(every, at[1::2])
    seen = half_foreign(data, np.where(partly, carried, every), SEED)
    mixed = seen.caption != data.caption
    swapped = data.carrying(carried)
    text = np.where(complete[:, None], swapped.text, seen.text)
    ids, caption = (
        np.where(complete, swapped.caption_id, seen.caption_id),
        np.where(complete, swapped.caption, seen.caption),
    )
    return replace(data, text=text, caption_id=ids, caption=caption), complete, mixed


def main(sets: list[str]) -> None:
    titles = ("AUROC complete", "AUROC partial", "flagged complete", "flagged partial", "flagged matched")
    print(f"| data | {' | '.join(titles)} | AUROC among flagged | precision | recall |\n{'|---' * 9}|")
    for name in sets:
        data, complete, partial = planted(load(name))
        rows, pairs = np.arange(len(complete)), (data.image, data.text, data.image_id, data.caption_id)
        fold = assign_folds(data.image_id, data.caption_id, FOLDS)
        models: list[Alignment] = [ZeroShot()]
        if not data.comparable:
            models = [Canonical().fit(*pairs, rows=rows[fold != k]) for k in range(FOLDS)]
        scores = cross_scores(models, *pairs, rows, fold if len(models) > 1 else np.zeros_like(fold))
        clean = judge_scores(scores, scores).clean_probability(scores.score)
        matched, flagged = ~complete & ~partial, clean < 0.5
        called, wrong = flagged & (scores.rank() > ABOVE), flagged & ~matched
        figures = (
            auroc(-clean[~partial], complete[~partial]),
            auroc(-clean[~complete], partial[~complete]),
            *(flagged[kind].mean() for kind in (complete, partial, matched)),
            auroc(scores.score[wrong], partial[wrong]),
            partial[called].mean() if called.any() else float("nan"),
            called[partial & flagged].mean(),
        )
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["fashion_unseen", "fashion"])
