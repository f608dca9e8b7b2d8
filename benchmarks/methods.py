"""Which way to learn finds mismatches best?  python -m benchmarks.methods [SET ...] [--noise random_0.4] [--seeds 0]

A fifth of the pictures is held out with its true captions; captions are moved or mixed in the rest, which `align` and
`judge` then see. A row a run, as soon as it is done: detection by the method's own scores (`--score aligned`) and by
what the judge chose (`auto`), the error of the mismatch rate, rSum and MAP by article type on the part held out, and
the seconds of `align`. Rows are kept in pairclean/align/measured.json, which `pairclean methods` shows; what is in it
is not done again.

The labels that drcl sees are article types: `drcl` those of the images only, which the captions that come with them are
given too, moved or not; `drcl, both` the type of each picture and of each caption.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import MODELS, Data, detection, judged, load, moved, planted_run
from pairclean.align import ZeroShot
from pairclean.embed import load_encoder
from pairclean.execution import Execution
from pairclean.judge import FOLDS, assign_folds
from pairclean.metrics.retrieval import average_precisions, retrieval
from pairclean.pairs import caption_id
from pairclean.pipeline import advance, redo
from pairclean.run import Run
from pairclean.run.results import open_judgement, open_learned
from pairclean.synthetic.mismatches import mix

KEPT = Path(__file__).parents[1] / "pairclean" / "align" / "measured.json"
NOISES = ("random_0.2", "random_0.4", "random_0.6", "random_0.8", "within_0.4", "partial_0.4")
METHODS: dict[str, dict[str, str]] = {
    "zero-shot": {"method": "zero-shot"},
    "canonical": {"method": "canonical"},
    "l2rm": {"method": "l2rm"},
    "rcar": {"method": "rcar"},
    "drcl": {"method": "drcl", "image_label_column": "image_type"},
    "drcl, both": {"method": "drcl", "image_label_column": "image_type", "caption_label_column": "caption_type"},
}
FIGURES = ("auroc", "average_precision", "auroc_chosen", "rate_error", "rsum", "map", "seconds")


def planted(data: Data, noise: str, seed: int) -> tuple[Data, np.ndarray, list[str]]:
    """The pairs as a method sees them, which of them are mismatched (N,), and the article type of each caption."""
    kind, _, rate = noise.partition("_")
    carried = moved(data, float(rate), seed, within="article_type" if kind == "within" else None)
    types = np.array(data.table["article_type"].to_pylist(), str)
    if kind != "partial":
        return data.carrying(carried), carried != np.arange(len(carried)), types[carried].tolist()
    mixed = half_foreign(data, carried, seed)
    return mixed, mixed.caption != data.caption, types.tolist()


def half_foreign(data: Data, other: np.ndarray, seed: int) -> Data:
    """The pairs with half of each caption from that of pair other[i], where that is another; captions embedded anew."""
    rng, caption = np.random.default_rng(seed), data.caption.copy()
    for i in np.flatnonzero(other != np.arange(len(other))):
        mixed = mix(data.caption[i], data.caption[other[i]], rng)
        caption[i] = caption[i] if mixed is None else mixed[0]
    changed = np.flatnonzero(caption != data.caption)
    encoder, text, ids = load_encoder(MODELS[data.name], device="cpu"), data.text.copy(), data.caption_id.copy()
    for part in np.array_split(changed, len(changed) // 256 + 1):
        text[part] = encoder.encode_captions(caption[part].tolist())
    ids[changed] = [caption_id(c) for c in caption[changed]]
    return replace(data, text=text, caption_id=ids, caption=caption)


def labelled_run(home: Path, data: Data, caption_types: list[str], **options: Any) -> Run:
    """A planted run over a source that has the labels; its pictures are never opened."""
    source = home / "source"
    source.mkdir(parents=True)
    n = len(data.image)
    columns = {
        "key": data.table["key"],
        "jpg": pa.array([b"\xff\xd8"] * n),
        "caption": pa.array(data.caption, pa.string()),
        "image_type": data.table["article_type"],
        "caption_type": pa.array(caption_types, pa.string()),
    }
    pq.write_table(pa.table(columns), source / "all.parquet")
    return planted_run(home / "run", data, source, **options)


def measure(data: Data, method: str, noise: str, seed: int) -> dict[str, float]:
    held_out = assign_folds(data.image_id, data.caption_id, FOLDS) == 0
    test, train = (data.take(np.flatnonzero(part)) for part in (held_out, ~held_out))
    seen, noisy, types = planted(train, noise, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = labelled_run(Path(folder), seen, types, seed=seed, **METHODS[method])
        begun = time.perf_counter()
        advance(run, ("align",), Execution())
        seconds = time.perf_counter() - begun
        chosen = detection(judged(run, ("judge",)), noisy)
        if method != "zero-shot":
            redo(run, "judge", Execution(), score="aligned")
        found = detection(judged(run, ("judge",)), noisy)
        found_rate, learned = open_judgement(run).rate, open_learned(run)
        rate = float("nan") if found_rate is None else found_rate.estimate
        model = learned.aligned[0] if learned.aligned else ZeroShot()
    x, y = model.embed_image(test.image), model.embed_text(test.text)
    recalls = retrieval(x, y, image_id=test.image_id, caption_id=test.caption_id)
    precisions = average_precisions(x, y, test.table["article_type"].to_pylist(), image_id=test.image_id)
    return {
        "auroc": found["auroc"],
        "average_precision": found["average_precision"],
        "auroc_chosen": chosen["auroc"],
        "rate_error": rate - float(noisy.mean()),
        "rsum": float(recalls["rsum"]),
        "map": float(np.mean([precisions[f"{way}_map"][0].mean() for way in ("i2t", "t2i")])),
        "seconds": seconds,
    }


def kept() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    return found


def show(what: tuple[object, ...], figures: dict[str, float]) -> None:
    print(f"| {' | '.join(map(str, what))} | {' | '.join(f'{figures[k]:.3f}' for k in FIGURES)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion_unseen", "fashion"])
    parser.add_argument("--noise", nargs="+", default=NOISES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    print(f"| data | noise | method | seed | {' | '.join(FIGURES)} |\n{'|---' * (len(FIGURES) + 4)}|")
    for name in asked.sets:
        data = load(name)
        for seed, noise, method in product(asked.seeds, asked.noise, asked.methods):
            run = {"data": name, "noise": noise, "method": method, "seed": seed}
            if method == "zero-shot" and not data.comparable:
                continue
            rows = kept()
            row = next((row for row in rows if run.items() <= row.items()), None)
            if row is None:
                row = {**run, **{key: round(v, 4) for key, v in measure(data, method, noise, seed).items()}}
                KEPT.write_text(json.dumps([*kept(), row], indent=0) + "\n", encoding="utf-8")
            show((name, noise, method, seed), row)
    print(f"\nMedians of the seeds\n| data | noise | method | seeds | {' | '.join(FIGURES)} |")
    print("|---" * (len(FIGURES) + 4) + "|")
    for name, noise, method in product(asked.sets, asked.noise, asked.methods):
        same = {"data": name, "noise": noise, "method": method}.items()
        rows = [row for row in kept() if same <= row.items()]
        if rows:
            show((name, noise, method, len(rows)), {k: float(np.nanmedian([row[k] for row in rows])) for k in FIGURES})


if __name__ == "__main__":
    main()
