"""Do verdicts agree with people?  python -m benchmarks.people [--method METHOD]

Photos of Flickr8k with captions that people judged (`data/flickr8k_cf`, vectors of tinyclip): `match` if at least 60%
of them call the caption right, `mismatch` if nobody does, `partial` between. `graded` has about fifteen captions for
every photo, `one_a_photo` one. First how the pairs are ordered: AUROC of match against mismatch, over all pairs and
over those that people were asked about, and the rank correlation with the share of people who call the caption right.
Then what is said of them: the mismatch rate (partly right pairs count as wrong, `mismatch` alone in brackets), the
calibration error against `match`, and precision and recall of the flags, with partly right pairs as wrong and without.

Last, whether `one_a_photo` can be told from captions that are all right: what of a pair's evidence needs no model (the
share of all re-pairings that score below it, of the captions that fit its photo less well, and of the photos that fit
its caption less well) beside that of as many pairs of `coco2k`, and of all of them, as probits, with the two-sample
test of Kolmogorov and Smirnov.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import logsumexp, ndtri
from scipy.stats import ks_2samp, spearmanr

import pairclean
from benchmarks.common import SHARED, load
from pairclean.arrays import unit
from pairclean.metrics.detection import auroc, expected_calibration_error

FOLDER = SHARED / "data" / "flickr8k_cf"
TEMPERATURE = 0.01  # of the published negCLIPLoss
DRAWS, QUANTILES = 5, (0.05, 0.25, 0.5, 0.75, 0.95)


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


def evidence(image: np.ndarray, text: np.ndarray) -> dict[str, np.ndarray]:
    """image, text: (n, d), one pair a row.  Three probits of each pair, (n,) each."""
    logit = unit(image.astype(np.float32)) @ unit(text.astype(np.float32)).T / TEMPERATURE
    score = logit - (logsumexp(logit, 1)[:, None] + logsumexp(logit, 0)) / 2
    own, n = np.diag(score), len(score)
    others = np.sort(score[~np.eye(n, dtype=bool)])
    below = {
        "among all re-pairings": np.searchsorted(others, own) / len(others) * n,
        "among captions": (score < own[:, None]).sum(1),
        "among photos": (score < own).sum(0),
    }
    return {name: ndtri((count + 0.5) / (n + 1)) for name, count in below.items()}


def alike() -> None:
    with np.load(FOLDER / "one_a_photo_tinyclip" / "00000000.npz") as vectors:
        people = evidence(vectors["b32_img"], vectors["b32_txt"])
    quantiles = " | ".join(f"{q:.0%}" for q in QUANTILES)
    print(f"\n| pairs | evidence | mean | deviation | {quantiles} | distance, p |\n{'|---' * (5 + len(QUANTILES))}|")
    right = load("coco2k")
    count, every = len(people["among photos"]), len(right.image)
    drawn = {f"coco2k, draw {k}": np.random.default_rng(k).permutation(every)[:count] for k in range(DRAWS)}
    drawn["coco2k, all"] = np.arange(every)
    found = {name: evidence(right.image[rows], right.text[rows]) for name, rows in drawn.items()}
    for name, kinds in {"one_a_photo": people, **found}.items():
        for kind, values in kinds.items():
            shown = " | ".join(f"{x:.2f}" for x in (values.mean(), values.std(), *np.quantile(values, QUANTILES)))
            test = ks_2samp(people[kind], values)
            print(f"| {name} | {kind} | {shown} | {test.statistic:.3f}, {test.pvalue:.2f} |")


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
    alike()


if __name__ == "__main__":
    main()
