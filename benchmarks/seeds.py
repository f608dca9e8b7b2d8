"""How much do the figures depend on the draw?  python -m benchmarks.seeds [SET ...] [--seeds 0 1 2] [--score auto]

Captions are moved with noise seed s, learned from with training seed s; medians over the seeds, and how often the 95%
interval of the mismatch rate held the truth. `cosine` is the AUROC of the encoder's own similarity, where it has one,
and `less error` by how much 1 - AUROC is smaller than its.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Data, detection, judged, load, moved, planted_run
from pairclean.arrays import unit
from pairclean.metrics.detection import auroc
from pairclean.run.results import open_judgement

NOISES = ((0.2, None), (0.4, None), (0.6, None), (0.8, None), (0.4, "article_type"))


def one(data: Data, rate: float, within: str | None, seed: int, score: str) -> dict[str, float]:
    carried = moved(data, rate, seed, within=within)
    noisy = data.caption[carried] != data.caption
    now = data.carrying(carried)
    with tempfile.TemporaryDirectory() as home:
        run = planted_run(Path(home) / "run", now, seed=seed, score=score)
        found = detection(judged(run), noisy)
        rate = open_judgement(run).rate
    assert rate is not None
    found |= {
        "error": abs(rate.estimate - float(noisy.mean())),
        "held": rate.low <= noisy.mean() <= rate.high,
    }
    if data.comparable:
        cosine = (unit(now.image.astype(np.float32)) * unit(now.text.astype(np.float32))).sum(1)
        found["cosine"] = auroc(-cosine, noisy)
        found["less"] = 1 - (1 - found["auroc"]) / (1 - found["cosine"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion_unseen", "fashion"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--score", default="auto")
    options = parser.parse_args()
    print("| data | noise | AUROC | cosine | less error | average precision | rate error | interval held | ECE |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.sets:
        data = load(name)
        for rate, within in NOISES:
            found = [one(data, rate, within, seed, options.score) for seed in options.seeds]
            median = {key: float(np.median([f[key] for f in found])) for key in found[0]}
            cosine = f"{median['cosine']:.4f} | {median['less']:.0%}" if "cosine" in median else "| "
            held = f"{sum(f['held'] for f in found)} of {len(found)}"
            print(
                f"| {name} | {within or 'random'} {rate} | {median['auroc']:.4f} | {cosine} | "
                f"{median['average_precision']:.3f} | {median['error']:.3f} | {held} | {median['ece']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
