"""Can retrieval among 100,000 images and 100,000 captions be measured in bounded memory, and how long does it take?

python -m benchmarks.retrieval [--pairs 100000] [--dim 512] [--device cpu]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from pairclean.metrics.retrieval import average_precisions, measure, rank_matches


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--map", action="store_true", help="MAP by 100 classes too, which sorts every row")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((args.pairs, args.dim), np.float32)
    text = image + 4.5 * rng.standard_normal((args.pairs, args.dim), np.float32)
    for vectors in (image, text):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    on_gpu = args.device.startswith("cuda")
    held = _memory(on_gpu)
    print(f"{args.pairs:,} x {args.pairs:,}, {args.dim} numbers each, on {args.device}; before: {held:.2f} GB")
    for name in ("ranks", "MAP") if args.map else ("ranks",):
        begun = time.perf_counter()
        if name == "ranks":
            ranks = rank_matches(image, text, device=args.device)
            asked = ranks.questions()
        else:
            asked = average_precisions(image, text, (np.arange(args.pairs) % 100).tolist(), device=args.device)
        seconds = time.perf_counter() - begun
        found = measure([asked], [ranks])
        shown = {k: round(v, 4) for k, v in found.items() if k != "intervals"}
        whole = time.perf_counter() - begun - seconds
        print(f"{name}: {seconds:.1f} s, {_memory(on_gpu) - held:.2f} GB more; intervals {whole:.1f} s; {shown}")


def _memory(on_gpu: bool) -> float:
    if on_gpu:
        return float(torch.cuda.max_memory_allocated()) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
