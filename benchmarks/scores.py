"""Which score tells mismatches best?  python -m benchmarks.scores [SET ...]

AUROC of each score on pairs with planted mismatches, three noise seeds: baselines on the encoder's own embeddings, and
what `--score auto` judges by (with its choice). `negclip` is at a temperature chosen without labels, the others of its
kind at the published one and at CLIP's 0.07. Rows are printed as they come.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairclean import pipeline
from pairclean.align import ZeroShot
from pairclean.embed import Embeddings
from pairclean.judge import CrossFit, cosine_scores, lemon_scores
from pairclean.judge.scores import TEMPERATURES
from pairclean.metrics.detection import auroc
from pairclean.run import Run
from pairclean.run.results import open_judgement

from .common import CACHE, MODELS, SHARED, Data, judged, load, moved, planted_run

RANDOM: list[tuple[float, str | None]] = [(rate, None) for rate in (0.2, 0.4, 0.6, 0.8)]
NOISE = {
    "fashion_unseen": [*RANDOM, (0.4, "article_type")],
    "flickr8k": RANDOM[:3],
    "flickr8k_clip": RANDOM[:3],
}


def flickr8k_test() -> Data:
    """The 200 photos with five captions each that the small CLIP never saw."""
    source = SHARED / "data" / "flickr8k"
    pipeline.embed(source, CACHE / "flickr8k", model=MODELS["flickr8k"])
    run = Run.open(CACHE / "flickr8k")
    emb = Embeddings.open(run.embeddings, run.shards)
    split = [s for file in sorted(source.glob("*.parquet")) for s in pq.read_table(file)["split"].to_pylist()]
    rows = np.flatnonzero(np.repeat(np.array(split) == "test", len(emb) // len(split)))
    ids = pa.concat_tables([emb.pair_table(name) for name in run.shards])["pair_id"].take(pa.array(rows))
    captions = np.array(emb.captions(rows), object)
    vectors = emb.image[rows], emb.text[rows], emb.image_id[rows], emb.caption_id[rows]
    return Data("flickr8k", *vectors, captions, pa.table({"key": ids}), run.manifest["encoder"])


def scores(data: Data) -> dict[str, np.ndarray]:
    """(n,) by name: what needs no learning."""
    rows, pairs = np.arange(len(data.image)), data.pairs

    def negclip(*temperatures: float) -> np.ndarray:
        return CrossFit.single(ZeroShot(), rows).scores(pairs, temperatures=temperatures).score

    return {
        "clip": cosine_scores(pairs, rows).score,
        "negclip t=.01": negclip(0.01),
        "negclip t=.07": negclip(0.07),
        "negclip": negclip(*TEMPERATURES),
        "lemon": lemon_scores(pairs, rows).score,
    }


def main(names: list[str]) -> None:
    for name in names or NOISE:
        data = flickr8k_test() if name == "flickr8k" else load(name)
        for rate, within in NOISE[name]:
            for seed in range(3):
                carried = moved(data, rate, seed, within=within)
                noisy = (data.caption[carried] != data.caption) & (data.image_id[carried] != data.image_id)
                planted = data.carrying(carried)
                found = scores(planted)
                with tempfile.TemporaryDirectory() as home:
                    run = planted_run(Path(home) / "run", planted)
                    found["auto"] = judged(run)
                    chosen = open_judgement(run).score
                cells = " | ".join(f"{k} {auroc(-s, noisy):.4f}" for k, s in found.items())
                print(f"{name} {within or 'random'} {rate} seed {seed} | {cells} ({chosen})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
