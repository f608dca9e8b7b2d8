"""Are the mismatch rate and its interval right?  python -m benchmarks.calibration [SET ...] [--seeds N]

Of pairs with 40% of the captions moved at random, one noise seed a row: the rate, its interval, the calibration error
and the share flagged, by decoys and by mixtures of two betas or two Gaussians; first of the pairs as they are. Rows are
printed as they come, and at the end how often the interval held the truth.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pairclean.execution import Execution
from pairclean.metrics.detection import expected_calibration_error
from pairclean.pipeline import redo
from pairclean.run.results import open_judgement

from .common import Data, judged, load, moved, planted_run
from .scores import flickr8k_test

RATE = 0.4
CALIBRATIONS = ("decoy", "beta", "gauss")


def calibrations(data: Data, noisy: np.ndarray) -> Iterator[tuple[str, dict[str, float]]]:
    """By name: estimate, low, high, ece and the share of pairs flagged. The models are learned once."""
    with tempfile.TemporaryDirectory() as home:
        run = planted_run(Path(home) / "run", data)
        judged(run)
        for kind in CALIBRATIONS:
            redo(run, "judge", Execution(), calibration=kind)
            found_here = open_judgement(run)
            p = np.nan_to_num(found_here.clean_probability, nan=0.5)
            found = {k: found_here.mismatch_rate[k] or 0.0 for k in ("estimate", "low", "high")}
            yield kind, found | {"ece": expected_calibration_error(p, ~noisy), "flagged": float((p < 0.5).mean())}


def row(name: str, data: Data, noisy: np.ndarray) -> dict[str, dict[str, float]]:
    found = dict(calibrations(data, noisy))
    cells = " | ".join(
        f"{kind} {f['estimate']:.3f} ({f['low']:.3f} to {f['high']:.3f}) ece {f['ece']:.3f} flagged {f['flagged']:.3f}"
        for kind, f in found.items()
    )
    print(f"{name} | true {noisy.mean():.3f} | {cells}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=["fashion_unseen", "fashion"])
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    for name in options.sets:
        data = flickr8k_test() if name == "flickr8k" else load(name)
        row(f"{name} as it is", data, np.zeros(len(data.image), bool))
        held, errors = dict.fromkeys(CALIBRATIONS, 0), {kind: list[float]() for kind in CALIBRATIONS}
        for seed in range(options.seeds):
            carried = moved(data, RATE, seed)
            noisy = (data.caption[carried] != data.caption) & (data.image_id[carried] != data.image_id)
            truth = noisy.mean()
            for kind, f in row(f"{name} seed {seed}", data.carrying(carried), noisy).items():
                held[kind] += f["low"] <= truth <= f["high"]
                errors[kind].append(abs(f["estimate"] - truth))
        for kind in CALIBRATIONS if options.seeds else ():
            print(f"{name} {kind}: held {held[kind]} of {options.seeds}, median error {np.median(errors[kind]):.3f}")


if __name__ == "__main__":
    main()
