"""What do several devices bring to learning in folds?  python -m benchmarks.folds [--device cuda:all] [--pairs N]

Generated pairs of 512 dimensions, two fifths of them judged noisy. Five folds of each method's second round, one after
the other on the first device, and on all devices; and whether the models are the same, bit by bit. Where a machine has
one device, two threads share it, which shows how far they get in each other's way.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pairclean.align import Alignment
from pairclean.arrays import Pairs, unit
from pairclean.embed import resolve_devices
from pairclean.execution import side_by_side
from pairclean.judge.folds import FOLDS
from pairclean.methods import load

DIM, RATE = 512, 0.4


def generated(count: int) -> tuple[Pairs, np.ndarray]:
    """The pairs, and the probability of each to be clean, (N,)."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((count, DIM), np.float32)
    image, text = (unit(latent + rng.standard_normal(latent.shape, np.float32)) for _ in range(2))
    noisy = rng.random(count) < RATE
    text[noisy] = np.roll(text[noisy], 1, axis=0)
    ids = np.arange(count)
    return Pairs(image.astype(np.float16), text.astype(np.float16), ids, ids), np.where(noisy, 0.1, 0.9)


def timed(fit: Callable[[int, str], Alignment], devices: Sequence[str]) -> tuple[list[Alignment], float]:
    begun = time.perf_counter()
    models = side_by_side(fit, FOLDS, devices)
    for device in {device for device in devices if device.startswith("cuda")}:
        torch.cuda.synchronize(device)
    return models, time.perf_counter() - begun


def weights(model: Alignment) -> list[torch.Tensor]:
    return [value.cpu() for head in (model.image, model.text) for value in head.state_dict().values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:all")
    parser.add_argument("--methods", nargs="+", default=["l2rm", "rcar"])
    parser.add_argument("--pairs", type=int, default=100_000)
    options = parser.parse_args()
    found = resolve_devices(options.device)
    devices = found if len(found) > 1 else 2 * found
    pairs, clean = generated(options.pairs)
    rows = np.arange(options.pairs)
    print("| method | one device, s | all devices, s | one / all | same models |\n|---|---|---|---|---|")
    for method in options.methods:

        def fit(k: int, device: str, method: str = method) -> Alignment:
            return load(method)(comparable=True, device=device).fit(pairs, rows[rows % FOLDS != k], clean)

        fit(0, devices[0])  # the first use of a device loads its libraries
        one, alone = timed(fit, devices[:1])
        several, together = timed(fit, devices)
        same = all(
            torch.equal(a, b)
            for x, y in zip(one, several, strict=True)
            for a, b in zip(weights(x), weights(y), strict=True)
        )
        print(
            f"| {method} | {alone:.1f} | {together:.1f} | {alone / together:.2f} | {'yes' if same else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
