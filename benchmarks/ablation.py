"""What does each part of learning bring?  python -m benchmarks.ablation [SET] [--rates .2 .4] [--seeds 0 1 2]

A fifth of the pictures is held out with its true captions; captions are moved at random among the rest, from which the
arms learn. One row an arm: recalls on the held-out part (rSum), how well the out-of-fold models of that arm tell the
moved captions (AUROC, average precision), and the seconds for its six fits. Medians over the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Data, detection, load, moved, planted_run
from pairclean.align import L2RM, Alignment, Canonical, ZeroShot
from pairclean.execution import Execution, side_by_side
from pairclean.judge import FOLDS, CrossFit, assign_folds, fold_of, judge_scores
from pairclean.metrics.retrieval import retrieval
from pairclean.pipeline import advance
from pairclean.run.results import open_rematches

#: rows to learn from, of data, with clean probabilities -> a model
Fit = Callable[[Data, np.ndarray, np.ndarray], Alignment]


def l2rm(cost: str = "learned") -> Fit:
    def fit(data: Data, rows: np.ndarray, clean: np.ndarray) -> Alignment:
        model = L2RM(comparable=data.comparable, cost=cost)
        return model.fit(data.pairs, rows, clean)

    return fit


class Arm:
    """Six fits: one a fold for the scores, one on everything for the recalls."""

    def __init__(self, data: Data, test: Data, noisy: np.ndarray, fold: np.ndarray):
        self.data, self.test, self.noisy, self.fold = data, test, noisy, fold

    def models(self, fit: Fit, use: np.ndarray, clean: np.ndarray, learn_from: Data | None = None) -> list[Alignment]:
        """use: (n,) bool, which pairs are learned from.  learn_from: the pairs, where they are others than scored."""
        data = learn_from or self.data
        sets = [np.flatnonzero(use & (self.fold != k)) for k in range(FOLDS)] + [np.flatnonzero(use)]
        return side_by_side(lambda k, _: fit(data, sets[k], clean), FOLDS + 1, ["cpu"])

    def measure(self, models: list[Alignment]) -> dict[str, float]:
        rows = np.arange(len(self.data.image))
        scores = CrossFit(models[:-1] or models, rows, self.fold).scores(self.data.pairs)
        found = detection(scores.rank() + 1e-6 * (scores.score / np.abs(scores.score).max()), self.noisy)
        x, y = models[-1].embed_image(self.test.image), models[-1].embed_text(self.test.text)
        recalls = retrieval(x, y, image_id=self.test.image_id, caption_id=self.test.caption_id)
        return {"rsum": recalls["rsum"], "auroc": found["auroc"], "average_precision": found["average_precision"]}


def arms(data: Data, rate: float, seed: int) -> dict[str, dict[str, float]]:
    held_out = fold_of(data.image_id, 5) == 4
    train, test = data.take(np.flatnonzero(~held_out)), data.take(np.flatnonzero(held_out))
    carried = moved(train, rate, seed)
    noisy = train.caption[carried] != train.caption
    now = train.carrying(carried)
    n = len(now.image)
    fold, every, ones = assign_folds(now.image_id, now.caption_id, FOLDS), np.ones(n, bool), np.ones(n)
    arm, out = Arm(now, test, noisy, fold), {}

    def run(name: str, models: Callable[[], list[Alignment]]) -> list[Alignment]:
        begun = time.perf_counter()
        made = models()
        seconds = time.perf_counter() - begun
        out[name] = {**arm.measure(made), "seconds": seconds}
        return made

    if data.comparable:
        first = run("zero-shot", lambda: [ZeroShot()])[:1]
    else:

        def canonical(data: Data, rows: np.ndarray, clean: np.ndarray) -> Alignment:
            return Canonical().fit(data.pairs, rows, clean)

        first = run("canonical correlation on everything", lambda: arm.models(canonical, every, ones))[:-1]
    scores = CrossFit(first, np.arange(n), fold).scores(now.pairs)
    clean = judge_scores(scores, scores).clean_probability(scores.scored)
    learned, fixed = l2rm(), l2rm("fixed")
    run("plain contrast on everything", lambda: arm.models(learned, every, ones))
    run("contrast without what is judged noisy", lambda: arm.models(learned, clean >= 0.5, ones))
    run("L2RM, cost 1 - s", lambda: arm.models(fixed, every, clean))
    models = run("L2RM, learned cost", lambda: arm.models(learned, every, clean))
    out["L2RM, learned cost"]["moved"] = moved_cost(models[-1], test)
    again, better = rematched(now, clean)
    run("L2RM, learned on the rematched data", lambda: arm.models(learned, every, better, again))
    run("contrast on the truly clean part", lambda: arm.models(learned, ~noisy, ones))
    run("contrast on data without noise", lambda: arm.models(learned, every, ones, train))
    return out


def moved_cost(model: Alignment, test: Data) -> float:
    """The correlation of the learned cost with 1 - s, over pictures and captions that were held out."""
    assert isinstance(model, L2RM)
    similarity = torch.from_numpy(model.embed_image(test.image) @ model.embed_text(test.text).T)
    with torch.no_grad():
        cost = model.context_cost(similarity * model.log_scale.exp())
    return float(np.corrcoef(cost.numpy().ravel(), 1 - similarity.numpy().ravel())[0, 1])


def rematched(data: Data, clean: np.ndarray) -> tuple[Data, np.ndarray]:
    """The data with the captions that a run gives its noisy pairs, and how likely each pair is right now."""
    with tempfile.TemporaryDirectory() as folder:
        run = planted_run(Path(folder) / "run", data, min_precision=0.5)
        advance(run, ("align", "judge", "rematch"), Execution())
        found = open_rematches(run)
        partner, probability = np.array(found.partner), np.array(found.probability)
    has = partner >= 0
    return data.carrying(np.where(has, partner, np.arange(len(partner)))), np.where(has, probability, clean)


def moved_of(found: list[dict[str, dict[str, float]]], arm: str) -> list[float]:
    values = [f[arm]["moved"] for f in found if "moved" in f[arm]]
    return [float(np.median(values))] if values else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion_unseen", "fashion"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.2, 0.4, 0.6, 0.8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    print("| data | rate | learned | rSum | AUROC | average precision | seconds |\n|---|---|---|---|---|---|---|")
    for name in options.sets:
        data = load(name)
        for rate in options.rates:
            found = [arms(data, rate, seed) for seed in options.seeds]
            for arm in found[0]:
                r, a, p, s = (
                    np.median([f[arm][key] for f in found]) for key in ("rsum", "auroc", "average_precision", "seconds")
                )
                note = "".join(f" (correlation with 1 - s: {x:.2f})" for x in moved_of(found, arm))
                print(f"| {name} | {rate} | {arm}{note} | {r:.1f} | {a:.4f} | {p:.4f} | {s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
