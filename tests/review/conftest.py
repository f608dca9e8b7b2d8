"""A run that is done as far as its manifest says, with verdicts that a test can choose: nothing is learned for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairclean.align import ZeroShot
from pairclean.config import Config
from pairclean.judge import DecoyScale, Faults, Folds, Judgement, Learned, Rate
from pairclean.judge.binormal import RANDOM, Binormal
from pairclean.judge.decoy_calibration import DecoyCalibration
from pairclean.judge.evidence import EvidenceScale
from pairclean.judge.identities import Identities
from pairclean.judge.kinds import Kinds, Partition
from pairclean.options import STAGES
from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA, caption_id
from pairclean.rematch import Rematches
from pairclean.run import Run
from pairclean.run.embedded import embedded_run
from pairclean.run.results import save_faults, save_judgement, save_learned, save_rematches

COLOURS = ("red", "green", "blue", "grey", "pink")
ENCODER = {"description": {"model": "made"}, "comparable": True}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def make_run(folder: Path, shards: Sequence[dict[str, list[Any]]], probability: Sequence[list[float | None]]) -> Run:
    """A finished run over shards with these further columns.

    probability: of every pair; None is unjudged, nan unreadable.  Pair i of the whole has a vector of its own for its
    picture, near that of pair i + 1, and its caption has the same one.
    """
    source = folder / "source"
    source.mkdir(parents=True)
    total = sum(len(part) for part in probability)
    angle = np.linspace(0, np.pi / 2, total)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = 0
    home, parts = folder / "run", []
    tables = {}
    for number, (columns, clean) in enumerate(zip(shards, probability, strict=True)):
        name, n = f"{number:05d}", len(clean)
        keys = [f"{name}{row:04d}" for row in range(n)]
        captions = [f"a {COLOURS[(start + row) % 5]} thing, number {start + row}" for row in range(n)]
        pictures = [png((start + row) % 256) for row in range(n)]
        pq.write_table(
            pa.table({"key": keys, "caption": captions, "jpg": pictures, **columns}), source / f"{name}.parquet"
        )
        place = {"pair_id": keys, "shard": [name] * n, "row": list(range(n)), "caption_index": [0] * n}
        verdicts = [verdict_of(value) for value in clean]
        known = [value if value is not None and value == value else None for value in clean]
        table = place | {
            "verdict": verdicts,
            "is_noisy": [None if value is None else value < 0.5 for value in known],
            "clean_probability": known,
            "reason": ["no rematch is sure enough" if verdict != "clean" else None for verdict in verdicts],
        }
        nothing = dict.fromkeys(VERDICT_SCHEMA.names, [None] * n)
        tables[name] = pa.table({**nothing, **table}, VERDICT_SCHEMA)
        identity = {"caption": captions, "image_id": range(start, start + n), "caption_id": map(caption_id, captions)}
        broken = [None if verdict != "unreadable" else "truncated" for verdict in verdicts]
        pairs = {**place, **{k: list(v) for k, v in identity.items()}, "reason": broken}
        part = vectors[start : start + n]
        parts.append((name, pa.table(pairs, PAIR_SCHEMA), part, part))
        start += n
    run = embedded_run(home, Config.make(model="hog-tfidf"), parts, encoder=ENCODER, source=source)
    (home / "verdicts").mkdir()
    for name, table in tables.items():
        pq.write_table(table, home / "verdicts" / f"{name}.parquet")
    clean = np.array([np.nan if value is None else value for part in probability for value in part], float)
    one = Kinds(np.ones((1, 1), np.float32), NONE)
    ids = np.arange(total)
    partition = Partition(one, one, one, one)
    save_learned(run, Learned("zero-shot", [ZeroShot()], [], Folds(NONE, NONE), ids, ids, partition))
    save_faults(run, Faults([], ids, np.full(total, np.nan), False))
    save_judgement(run, judgement_of(clean))
    save_rematches(run, rematches_of(clean))
    with run.locked("align"):
        for stage in list(STAGES)[1:-1]:
            run.set_done(stage, 0.0)
    return run


NONE = np.zeros(0, np.int64)


def judgement_of(clean: np.ndarray) -> Judgement:
    """clean: (N,) clean probability, NaN where not judged."""
    n, judged = len(clean), clean[~np.isnan(clean)]
    floats = np.full(n, np.nan, np.float32)
    rate = Rate(*(1 - judged.mean() + d for d in (0, -0.05, 0.05))) if len(judged) else None
    return Judgement(
        unjudged=None if len(judged) else "nothing to judge by",
        notes=[],
        clean_probability=clean,
        similarity=floats,
        aligned_similarity=floats,
        noise_kind=np.zeros(n, np.int8),
        wrong_phrase=np.full((n, 2), -1, np.int32),
        unjudged_reason=np.zeros(n, np.int8),
        decoy_clean_probability=np.full(100, 0.01),
        mixed_clean_probability=np.zeros(0),
        score="clip",
        calibration=rate and calibration_of(rate),
        rate=rate,
    )


def calibration_of(rate: Rate) -> DecoyCalibration:
    knots = np.array([0.0, 1.0])
    scale = DecoyScale(knots, -knots)
    model = Binormal(rate.estimate, 0.0, 3.0, 0.6, RANDOM, 0.0)
    return DecoyCalibration(EvidenceScale(scale, {}, {}, scale), model, Identities.none(), rate)


def rematches_of(clean: np.ndarray) -> Rematches:
    n = len(clean)
    nothing = (
        np.full(n, np.nan, np.float32),
        np.zeros(n, np.int8),
        np.zeros(0, np.float32),
        np.zeros((0, 3), np.float32),
    )
    return Rematches(clean, np.full(n, -1), *nothing, flag_below=0.5)


def verdict_of(probability: float | None) -> str:
    if probability is None:
        return "unjudged"
    if probability != probability:
        return "unreadable"
    return "clean" if probability >= 0.5 else "noisy"


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Run]:
    def make(shards: Sequence[dict[str, list[Any]]], probability: Sequence[list[float | None]], name: str = "a") -> Run:
        return make_run(tmp_path / name, shards, probability)

    return make
