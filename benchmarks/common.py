"""What the benchmarks share: the development data embedded once, and runs over it with captions moved."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pairclean
from pairclean import pipeline
from pairclean.arrays import Pairs
from pairclean.config import Config
from pairclean.embed import Embeddings
from pairclean.execution import Execution
from pairclean.metrics.detection import auroc, average_precision, expected_calibration_error
from pairclean.pairs import PAIR_SCHEMA, caption_id, content_id
from pairclean.pipeline import advance
from pairclean.run import Run
from pairclean.run.embedded import embedded_run
from pairclean.run.results import open_judgement
from pairclean.synthetic.mismatches import plant

SHARED = Path(os.environ.get("PAIRCLEAN_TEST_DATA", "../shared")).resolve()
MODELS = {
    "fashion": "hog-tfidf",
    "fashion_unseen": f"local-dir:{SHARED}/models/tinyclip",
    "coco2k": f"local-dir:{SHARED}/models/tinyclip",
    "flickr8k": f"local-dir:{SHARED}/models/tinyclip",
    "flickr8k_clip": "ViT-B-32",  # whose vectors lie beside the captions
}
CACHE = Path(tempfile.gettempdir()) / f"pairclean-benchmarks-{pairclean.__version__}"


@dataclass(frozen=True)
class Data:
    """One set as it is, without noise.  image, text: (N, d) float16; ids: (N,) int64; caption: N texts; table: the
    source's other columns, N rows."""

    name: str
    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray
    caption: np.ndarray
    table: pa.Table
    encoder: dict[str, Any]

    @property
    def comparable(self) -> bool:
        return bool(self.encoder["comparable"])

    @property
    def pairs(self) -> Pairs:
        return Pairs(self.image, self.text, self.image_id, self.caption_id)

    def take(self, rows: np.ndarray) -> Data:
        arrays = (self.image, self.text, self.image_id, self.caption_id, self.caption)
        return Data(self.name, *(a[rows] for a in arrays), self.table.take(pa.array(rows)), self.encoder)

    def carrying(self, carried: np.ndarray) -> Data:
        """The same pictures, pair i with the caption of pair carried[i]."""
        text, ids, caption = (a[carried] for a in (self.text, self.caption_id, self.caption))
        return Data(self.name, self.image, text, self.image_id, ids, caption, self.table, self.encoder)


def load(name: str, caption_column: str | None = None) -> Data:
    """A set of the development data, embedded by MODELS[name]; the vectors are kept for the next time.

    caption_column: what is taken as the captions, such as the names of classes; None takes those that are there.
    """
    source = SHARED / "data" / name
    if name == "flickr8k_clip":
        return _flickr8k_clip(source)
    run = CACHE / (f"{name}-{caption_column}" if caption_column else name)
    pipeline.embed(source, run, model=MODELS[name], caption_column=caption_column)
    made = Run.open(run)
    emb = Embeddings.open(made.embeddings, made.shards)
    rows = np.arange(len(emb))
    table = pa.concat_tables(
        [
            pq.read_table(file, columns=[c for c in pq.read_schema(file).names if c not in ("jpg", "png", "webp")])
            for file in sorted(source.glob("*.parquet"))
        ]
    )
    texts = np.array(emb.captions(rows), object)
    return Data(
        name, emb.image[rows], emb.text[rows], emb.image_id, emb.caption_id, texts, table, made.manifest["encoder"]
    )


def _flickr8k_clip(source: Path) -> Data:
    """One hundred photos with the first of their five captions each, embedded by CLIP ViT-B/32 before."""
    table = pq.read_table(source / "00000000.parquet")
    first = np.unique(np.array(table["image_id"].to_pylist(), str), return_index=True)[1]
    with np.load(source / "00000000.npz") as vectors:
        image, text = vectors["b32_img"][first], vectors["b32_txt"][first]
    table = table.take(pa.array(first)).rename_columns(["key", "caption", "photo"])
    texts = np.array(table["caption"].to_pylist(), object)
    image_id = np.array([content_id(vector.tobytes()) for vector in image])
    text_id = np.array([caption_id(caption) for caption in texts])
    encoder = {"comparable": True}
    return Data("flickr8k_clip", image, text, image_id, text_id, texts, table, encoder)


def moved(data: Data, rate: float, seed: int, *, within: str | None = None) -> np.ndarray:
    """Which caption each pair carries, (N,) int64: a share `rate` moved at random, or only among equals of a column."""
    groups = np.zeros(len(data.image)) if within is None else np.array(data.table[within].to_pylist(), str)
    return plant(groups, rate, np.random.default_rng(seed))


def planted_run(home: Path, data: Data, source: Path | None = None, **options: Any) -> Run:
    """A run directory over these pairs that is done up to `embed`.  source: where they are, for stages that read it."""
    n = len(data.image)
    columns = {
        "pair_id": data.table["key"].combine_chunks().cast(pa.string()),
        "shard": pa.array(["all"] * n),
        "row": pa.array(np.arange(n)),
        "caption_index": pa.array(np.zeros(n, np.int32)),
        "caption": pa.array(data.caption, pa.string()),
        "image_id": pa.array(data.image_id),
        "caption_id": pa.array(data.caption_id),
        "reason": pa.nulls(n, pa.string()),
    }
    parts = [("all", pa.table(columns, schema=PAIR_SCHEMA), data.image, data.text)]
    config = Config.make(model=MODELS[data.name], **options)
    return embedded_run(home, config, parts, encoder=data.encoder, source=source)


def judged(run: Run, stages: tuple[str, ...] = ("align", "judge")) -> np.ndarray:
    """Do these stages; (N,) clean probability of each pair, 0.5 where nothing was judged."""
    advance(run, stages, Execution())
    return np.nan_to_num(open_judgement(run).clean_probability, nan=0.5)


def detection(clean_probability: np.ndarray, noisy: np.ndarray) -> dict[str, float]:
    return {
        "auroc": auroc(-clean_probability, noisy),
        "average_precision": average_precision(-clean_probability, noisy),
        "ece": expected_calibration_error(clean_probability, ~noisy),
    }
