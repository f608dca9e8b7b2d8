"""How true are rates where short captions stand among long ones, as alt texts do?

    python -m benchmarks.lengths [--seeds 3]

In development sets that are embedded by a small CLIP, six captions in ten, drawn at random, end after 3 words or more;
the others stay as they are. One pair per picture. A caption that was cut says less, but nothing wrong: only captions
that were moved afterwards are mismatches. Medians over seeds of the noise; `held` counts seeds whose interval holds the
true rate, and `short` is the share of the captions of 3 to 5 words that are said to be mismatched, beside the truth.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.common import MODELS, load
from benchmarks.kinds import figures
from pairclean.arrays import Pairs, unit
from pairclean.embed.load import load_encoder
from pairclean.judge import judge, learn
from pairclean.pairs import caption_id
from pairclean.synthetic.mismatches import plant

SETS, RATES = ("fashion_unseen", "flickr8k", "coco2k"), (0.0, 0.2, 0.5)
LEAST, SHORT, CUT = 3, 5, 0.6


def cut(captions: np.ndarray, rng: np.random.Generator) -> list[str]:
    found = []
    for caption in captions:
        words = [word for word in caption.split() if any(c.isalnum() for c in word)]
        end = rng.integers(min(LEAST, len(words)), len(words) + 1) if rng.random() < CUT else len(words)
        found.append(" ".join(words[:end]))
    return found


def with_short_captions(name: str) -> tuple[Pairs, np.ndarray]:
    """The pairs without noise, and the number of words of each caption."""
    data = load(name)
    rows = np.sort(np.unique(data.image_id, return_index=True)[1])
    captions = cut(data.caption[rows], np.random.default_rng(0))
    encoder = load_encoder(MODELS[name], device="cpu")
    text = np.concatenate([encoder.encode_captions(captions[k : k + 256]) for k in range(0, len(captions), 256)])
    text = unit(np.asarray(text, np.float32)).astype(np.float16)
    ids = np.array([caption_id(caption) for caption in captions])
    words = np.array([len(caption.split()) for caption in captions])
    return Pairs(data.image[rows], text, data.image_id[rows], ids), words


def measure(pairs: Pairs, words: np.ndarray, rate: float, seed: int) -> tuple[float, ...]:
    """`kinds.figures`, and the share of the short captions that are said to be mismatched, and that are."""
    rows = np.arange(len(pairs))
    carried = plant(np.zeros(len(rows)), rate, np.random.default_rng(seed))
    noisy = pairs.caption_id[carried] != pairs.caption_id
    short = words[carried] <= SHORT
    planted = pairs.carrying(carried).take(rows)
    found = judge(planted, rows, learn(planted, rows, method="zero-shot", comparable=True), comparable=True)
    said = float(np.nanmean(1 - found.clean_probability[short]))
    return *figures(found, noisy), said, float(noisy[short].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    titles = ("data", "true", "estimate (range)", "held", "AUROC", "flags P / R", "right pairs flagged", "short")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for name in SETS:
        pairs, words = with_short_captions(name)
        for rate in RATES:
            found = [measure(pairs, words, rate, seed) for seed in range(seeds if rate else 1)]
            held = f"{sum(low <= true <= high for true, _, low, high, *_ in found)} of {len(found)}"
            true, estimate, low, high, area, precision, recall, wrong, _, said, of_short = np.median(found, axis=0)
            print(
                f"| {name} | {true:.3f} | {estimate:.3f} ({low:.3f} to {high:.3f}) | {held} | {area:.3f} | "
                f"{precision:.2f} / {recall:.2f} | {wrong:.3f} | {said:.3f} for {of_short:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
