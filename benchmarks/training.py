"""What does L2RM's loop cost beside plain contrast?  python -m benchmarks.training [--device cpu|cuda]

6,000 generated pairs of 512 dimensions, two fifths of them judged noisy; the same heads, batches and optimiser, with
the learned cost and the transport on the noisy pairs, and without either.
"""

from __future__ import annotations

import argparse
from typing import Literal

import numpy as np
import torch

from benchmarks.timing import in_turn
from pairclean.align import L2RM
from pairclean.align.l2rm import EPOCHS
from pairclean.align.training import BATCH
from pairclean.arrays import Pairs

PAIRS, DIM, RATE = 6_000, 512, 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((PAIRS, DIM)).astype(np.float32)
    image, text = (latent + rng.standard_normal(latent.shape).astype(np.float32) for _ in range(2))
    noisy = rng.random(PAIRS) < RATE
    text[noisy] = np.roll(text[noisy], 1, axis=0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    ids, rows = np.arange(PAIRS), np.arange(PAIRS)

    clean = np.where(noisy, 0.1, 0.9)

    def fit(cost: Literal["learned", "none"]) -> None:
        model = L2RM(comparable=True, cost=cost, device=device)
        model.fit(Pairs(image, text, ids, ids), rows, clean)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    steps = EPOCHS * round(np.count_nonzero(~noisy) / BATCH)
    plain, ours, ratio = in_turn(lambda: fit("none"), lambda: fit("learned"), 3)
    print("| L2RM, ms a step | plain contrast, ms a step | L2RM / plain |\n|---|---|---|")
    print(f"| {1e3 * ours / steps:.0f} | {1e3 * plain / steps:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
