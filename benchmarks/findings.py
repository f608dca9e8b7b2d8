"""Whether the report says where the mismatches are, and stays silent where they are everywhere.

    python -m benchmarks.findings [--seeds 10] [--even 20]

fashion_unseen, judged zero-shot. Captions are moved at random (0 to 0.4 of all: nothing may be called uneven); or with
probability 0.9 in one of eight kinds of captions (k-means) or one of ten shops, and 0.02 elsewhere: the true slice has
to be among the first two. Slices are columns of the data, shards, shops and the judge's kinds; a slice is right if at
least 0.75 of its pairs are of the planted one. Then three faults at once through all stages: a bad shop, a shifted
shard and a slogan have to be the first three findings. The development data have to be there (PAIRCLEAN_TEST_DATA).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pairclean
from benchmarks.common import Data, load, moved
from pairclean.arrays import Pairs
from pairclean.judge import judge, learn
from pairclean.judge.kinds import Kinds
from pairclean.metrics.uneven import Slice, uneven_slices

COLUMNS = ("article_type", "base_colour", "gender")
SHARDS, SHOPS, BAD, ELSEWHERE, RIGHT = 8, 10, 0.9, 0.02, 0.75
SLOGAN = "Free delivery on all orders over 50"


@dataclass(frozen=True)
class Case:
    """carried: (n,) the caption of each pair.  shop: (n,).  planted: (n,) bool, the pairs of the noisy slice."""

    carried: np.ndarray
    shop: np.ndarray
    planted: np.ndarray


def even(data: Data, rate: float, seed: int) -> Case:
    n = len(data.image)
    shop = np.random.default_rng(seed).integers(SHOPS, size=n)
    return Case(moved(data, rate, seed) if rate else np.arange(n), shop, np.zeros(n, bool))


def bad_kind(data: Data, seed: int, *, anywhere: bool) -> Case:
    """One kind of captions; they change places with those of any pair, or among the chosen pairs only."""
    rng, rows = np.random.default_rng(seed), np.arange(len(data.image))
    kinds = Kinds.fit(data.text, data.caption_id, data.image_id, rows, 8, seed)
    planted = kinds.cluster(data.text, rows) == seed % 8
    chosen = np.flatnonzero(rng.random(len(rows)) < np.where(planted, BAD, ELSEWHERE))
    carried = rows.copy()
    carried[chosen] = rng.integers(len(rows), size=len(chosen)) if anywhere else _cycle(chosen, rng)
    return Case(carried, rng.integers(SHOPS, size=len(rows)), planted)


def bad_shop(data: Data, seed: int) -> Case:
    rng, n = np.random.default_rng(seed), len(data.image)
    shop = np.where(rng.random(n) < 0.15, 0, rng.integers(1, SHOPS, size=n))
    chosen = np.flatnonzero(rng.random(n) < np.where(shop == 0, BAD, ELSEWHERE))
    carried = np.arange(n)
    carried[chosen] = _cycle(chosen, rng)
    return Case(carried, shop, shop == 0)


def _cycle(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each of `rows` gets another one of them."""
    order = rng.permutation(len(rows))
    out = np.empty_like(rows)
    out[order] = rows[np.roll(order, 1)]
    return out


def named(data: Data, case: Case) -> list[Slice]:
    now = data.carrying(case.carried)
    pairs, rows = Pairs(now.image, now.text, now.image_id, now.caption_id), np.arange(len(now.image))
    learned = learn(pairs, rows, method="zero-shot", comparable=True)
    found = judge(pairs, rows, learned, comparable=True)
    assert found.calibration is not None
    assert found.rate is not None
    kinds = learned.kinds(pairs, rows, None)
    columns = {name: np.unique(np.array(now.table[name].to_pylist(), str), return_inverse=True)[1] for name in COLUMNS}
    columns |= {"shard": rows * SHARDS // len(rows), "shop": case.shop, "kind": kinds.text, "picture_kind": kinds.image}
    return uneven_slices(
        found.clean_probability,
        columns,
        prior=found.calibration.prior,
        whole=asdict(found.rate),
        kinds=("kind", "picture_kind"),
    )


def outcome(data: Data, case: Case) -> tuple[bool, bool, float, float, float]:
    """Whether one of the first two slices is right, and the first; pairs, true rate and error of the first."""
    found = named(data, case)
    right = [bool(case.planted[one.rows].mean() >= RIGHT) for one in found[:2]]
    if not found:
        return False, False, np.nan, np.nan, np.nan
    truth = float((data.caption_id[case.carried] != data.caption_id)[found[0].rows].mean())
    return any(right), right[0], len(found[0]), truth, abs(found[0].rate - truth)


def three_faults(data: Data, seed: int) -> list[str]:
    """What the first three findings are of a bad shop, a shifted shard and a slogan."""
    rng, n = np.random.default_rng(seed), len(data.image)
    case = bad_shop(data, seed)
    carried = case.carried.copy()
    shard = int(rng.integers(SHARDS))
    parts = np.array_split(np.arange(n), SHARDS)
    carried[parts[shard]] = np.roll(carried[parts[shard]], 1)
    now = data.carrying(carried)
    text, captions = now.text.copy(), now.caption.copy()
    slogan = rng.choice(np.setdiff1d(np.arange(n), parts[shard]), round(0.05 * n), replace=False)
    text[slogan], captions[slogan] = text[rng.integers(n)], SLOGAN
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "source"
        for folder in ("img_emb", "text_emb", "metadata"):
            (source / folder).mkdir(parents=True)
        for k, part in enumerate(parts):
            np.save(source / f"img_emb/img_emb_{k}.npy", now.image[part])
            np.save(source / f"text_emb/text_emb_{k}.npy", text[part])
            urls = [f"https://shop{case.shop[i]}.example/{i}.jpg" for i in part]
            table = pa.table({"key": [f"k{i}" for i in part], "caption": captions[part], "url": urls})
            pq.write_table(table, source / f"metadata/metadata_{k}.parquet")
        findings = pairclean.clean(source, Path(home) / "run", method="zero-shot").report["findings"]
    return [_planted(one, str(shard)) for one in findings[:3]]


def _planted(finding: dict[str, Any], shard: str) -> str:
    if finding.get("where") == {"domain": "shop0.example"}:
        return "bad shop"
    if finding["kind"] == "shifted" and shard in (finding["first_shard"], finding["last_shard"]):
        return "shifted shard"
    return "slogan" if finding.get("caption") == SLOGAN else str(finding["kind"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--even", type=int, default=20)
    given = parser.parse_args()
    data = load("fashion_unseen")
    data = data.take(np.random.default_rng(5).permutation(len(data.image)))
    print("| planted | runs in which a slice is named |\n|---|---|")
    for rate in (0.0, 0.2, 0.4):
        false = sum(bool(named(data, even(data, rate, seed))) for seed in range(given.even))
        print(f"| even {rate} | {false} of {given.even} |", flush=True)
    print(
        "\n| planted | right among the first two | the first is right | pairs of the first | its rate, true | error |"
    )
    print("|---|---|---|---|---|---|")
    kinds = {
        "a bad kind, captions of any pair": [bad_kind(data, seed, anywhere=True) for seed in range(given.seeds)],
        "a bad kind, captions among the bad": [bad_kind(data, seed, anywhere=False) for seed in range(given.seeds)],
        "a bad shop": [bad_shop(data, seed) for seed in range(given.seeds)],
    }
    for name, cases in kinds.items():
        rows = [outcome(data, case) for case in cases]
        two, one, pairs, truth, error = np.array(rows, float).T
        print(
            f"| {name} | {two.sum():.0f} of {len(rows)} | {one.sum():.0f} of {len(rows)} | "
            f"{np.nanmedian(pairs):.0f} | {np.nanmedian(truth):.2f} | {np.nanmean(error):.3f} |",
            flush=True,
        )
    print("\n| seed | the first three findings |\n|---|---|")
    for seed in range(given.seeds // 2):
        print(f"| {seed} | {', '.join(three_faults(data, seed))} |", flush=True)


if __name__ == "__main__":
    main()
