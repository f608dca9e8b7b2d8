"""Do verdicts agree with people?  python -m benchmarks.people [--method METHOD]

Photos of Flickr8k with captions that people judged (`data/flickr8k_cf`, vectors of tinyclip): `match` if at least 60%
of them call the caption right, `mismatch` if nobody does, `partial` between. `graded` has about fifteen captions for
every photo, `one_a_photo` one. First how the pairs are ordered: AUROC of match against mismatch, over all pairs and
over those that people were asked about, and the rank correlation with the share of people who call the caption right.
Then what is said of them: the mismatch rate (partly right pairs count as wrong, `mismatch` alone in brackets), the
calibration error against `match`, and precision and recall of the flags, with partly right pairs as wrong and without.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import logsumexp
from scipy.stats import spearmanr

import pairclean
from benchmarks.common import SHARED
from pairclean.arrays import unit
from pairclean.metrics.detection import auroc, expected_calibration_error

FOLDER = SHARED / "data" / "flickr8k_cf"
TEMPERATURE = 0.01  # of the published negCLIPLoss


class People(NamedTuple):
    """What people say of n pairs.  label: (n,) of match, partial, mismatch; asked: (n,) bool; share: (n,) of yes."""

    label: np.ndarray
    asked: np.ndarray
    share: np.ndarray


def opinions(name: str, metadata: Path) -> People:
    truth = pq.read_table(FOLDER / f"{name}.truth.parquet")
    at = pc.index_in(pq.read_table(metadata, columns=["key"])["key"], truth["key"])
    columns = (truth[column].take(at).to_numpy() for column in ("label", "judged", "yes_share"))
    label, asked, share = columns
    return People(label, asked.astype(bool), share.astype(float))


def baselines(vectors: Path, photo: np.ndarray, caption: np.ndarray) -> dict[str, np.ndarray]:
    """Cosine, and negCLIPLoss among the distinct photos and captions."""
    with np.load(vectors) as found:
        image, text = unit(found["b32_img"].astype(np.float32)), unit(found["b32_txt"].astype(np.float32))
    _, of_photo, photo_of = np.unique(photo, return_index=True, return_inverse=True)
    _, of_caption, caption_of = np.unique(caption, return_index=True, return_inverse=True)
    logit = image[of_photo] @ text[of_caption].T / TEMPERATURE
    hubness = logsumexp(logit, 1)[photo_of] + logsumexp(logit, 0)[caption_of]
    cosine = np.einsum("ij,ij->i", image, text)
    return {"cosine": cosine, "negCLIPLoss": cosine / TEMPERATURE - hubness / 2}


def order(score: np.ndarray, people: People) -> str:
    sure = people.label != "partial"
    areas = [auroc(score[of], people.label[of] == "match") for of in (sure, sure & people.asked)]
    known = people.asked & np.isfinite(people.share)
    correlation = spearmanr(score[known], people.share[known]).statistic
    return f"{areas[0]:.3f} | {areas[1]:.3f} | {correlation:.3f}"


def flags(flagged: np.ndarray, wrong: np.ndarray) -> str:
    return f"{wrong[flagged].mean():.2f} / {flagged[wrong].mean():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="l2rm")
    options = parser.parse_args()
    said = []
    print("| pairs | score | AUROC | of those asked about | rank correlation |\n|---|---|---|---|---|")
    for name in ("one_a_photo", "graded"):
        folder = FOLDER / f"{name}_tinyclip"
        metadata = folder / "00000000.parquet"
        people = opinions(name, metadata)
        with tempfile.TemporaryDirectory() as home:
            run = pairclean.clean(folder, Path(home) / "run", method=options.method)
            verdicts, rate = run.verdicts(), run.report["mismatch_rate"]
        pairs = pq.read_table(metadata, columns=["image_id", "text"])
        photo, caption = (pairs[column].to_numpy() for column in ("image_id", "text"))
        p = verdicts["clean_probability"].to_numpy()
        for score, values in {**baselines(folder / "00000000.npz", photo, caption), "pairclean": p}.items():
            print(f"| {name} | {score} | {order(np.nan_to_num(values, nan=0.5), people)} |", flush=True)
        judged, flagged = ~np.isnan(p), verdicts["is_noisy"].to_numpy(zero_copy_only=False).astype(bool)
        match, partial = people.label == "match", people.label == "partial"
        true = f"{(~match[judged]).mean():.3f} ({(people.label[judged] == 'mismatch').mean():.3f})"
        estimate = f"{rate['estimate']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
        error = expected_calibration_error(p[judged], match[judged])
        of_sure = judged & ~partial
        said.append(
            f"| {name} | {true} | {estimate} | {error:.3f} | {flags(flagged[judged], ~match[judged])} | "
            f"{flags(flagged[of_sure], ~match[of_sure])} |"
        )
    print("\n| pairs | true | estimate (range) | ECE | flags P / R | without partly right |\n|---|---|---|---|---|---|")
    print("\n".join(said))


if __name__ == "__main__":
    main()
