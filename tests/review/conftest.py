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

from pairclean.config import Config
from pairclean.embed.store import write_part
from pairclean.files import write_json
from pairclean.options import STAGES
from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA, caption_id
from pairclean.run import Run
from pairclean.run.common import part_fingerprints, save_array

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
    run = Run.create(folder / "run", source, Config.make(model="hog-tfidf"))
    (run.path / "verdicts").mkdir(parents=True)
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
        pq.write_table(pa.table({**nothing, **table}, VERDICT_SCHEMA), run.path / "verdicts" / f"{name}.parquet")
        identity = {"caption": captions, "image_id": range(start, start + n), "caption_id": map(caption_id, captions)}
        broken = [None if verdict != "unreadable" else "truncated" for verdict in verdicts]
        pairs = {**place, **{k: list(v) for k, v in identity.items()}, "reason": broken}
        part = vectors[start : start + n]
        write_part(run.embeddings, name, "made", pa.table(pairs, PAIR_SCHEMA), part, part)
        start += n
    judged = [value for part in probability for value in part if value is not None and value == value]
    rate = 1 - float(np.mean(judged)) if judged else None
    content: dict[str, Any] = {"score": "clip", "notes": [], "unjudged": None if judged else "nothing to judge by"}
    if rate is not None:
        content["mismatch_rate"] = {"estimate": rate, "low": rate - 0.05, "high": rate + 0.05, "level": 0.95}
        content["calibration"] = {"prior": rate}
    write_json(run.path / "judge" / "judge.json", content)
    judge_says = [np.nan if value is None else value for part in probability for value in part]
    save_array(run.path / "judge" / "clean_probability.npy", np.array(judge_says, float))
    write_json(run.path / "rematch" / "rematch.json", {"flag_below": 0.5})
    run.manifest |= {"shards": [f"{k:05d}" for k in range(len(shards))], "encoder": ENCODER}
    run.manifest["parts"] = part_fingerprints(run.open_source(), ENCODER)
    for stage in list(STAGES)[:-1]:
        run.manifest["stages"][stage] = {"fingerprint": None, "seconds": 0.0}
        run.manifest["stages"][stage]["fingerprint"] = run._due(stage)
    run.save()
    return run


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
