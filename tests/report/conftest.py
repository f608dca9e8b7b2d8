"""A fabricated run for the report: a few hundred drawn pictures, verdicts and facts, without any stage having run."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from pairclean.pairs import PAIR_SCHEMA, VERDICT_SCHEMA, Roles, Row, Shard

COLOURS = {"red": "#c8402f", "green": "#3f8f4f", "blue": "#3566b0", "yellow": "#e3b53a", "violet": "#7d4fa0"}
GROUNDS = {"white": "#f4f1ea", "grey": "#9b978f", "black": "#22211f", "orange": "#e58a3c"}
SHAPES = ("circle", "square", "triangle")
HOSTILE = (
    "<script>document.title = 'owned'; alert(1)</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></title><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %} </li></ul></section>",
    "\u202etxet desrever\u202c and \u2067an isolate \x00\x07 with controls",
    "Z" + "\u0300\u0301\u0302\u0303\u0304\u0305" * 40 + "algo",
    "very long " + "word " * 20_000,
    "W" * 100_000,
    "صورة دائرة حمراء على خلفية بيضاء",
    "🏳️‍🌈 一个红色的圆形",
)


@dataclass
class FabricatedRun:
    """Stands in for a source (shards, image, rows) and holds what the later stages would have written."""

    shards: list[Shard]
    pictures: dict[tuple[str, int], bytes]
    captions: dict[tuple[str, int], str]
    verdicts: list[pa.Table]
    metadata: list[pa.Table]
    facts: dict[str, Any]
    image_calls: list[tuple[str, int]] = field(default_factory=list)
    roles: Roles = field(default_factory=lambda: Roles("jpg", "caption", "key"))

    def image(self, shard: Shard, row: int) -> bytes:
        self.image_calls.append((shard.name, row))
        return self.pictures[shard.name, row]

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        for row in range(shard.rows):
            yield Row(row, f"{shard.name}{row:04d}", None, (self.captions[shard.name, row],))


def draw(shape: str, colour: str, ground: str, size: tuple[int, int] = (224, 168)) -> bytes:
    image = Image.new("RGB", size, GROUNDS[ground])
    pen = ImageDraw.Draw(image)
    x, y, r = size[0] // 2, size[1] // 2, min(size) // 3
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    else:
        pen.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def _cut(threshold: float, kept: int, wrong: float, lost: float | None) -> dict[str, Any]:
    counts = {
        name: {"estimate": at, "low": at and at - 0.5, "high": at and at + 0.5}
        for name, at in (("wrong_left", wrong), ("right_lost", lost))
    }
    return {"threshold": threshold, "kept": kept, **counts}


def fabricate(shard_rows: tuple[int, ...] = (150, 150, 120), seed: int = 7) -> FabricatedRun:
    rng = random.Random(seed)
    shards = [Shard(f"{i:05d}", f"{i:05d}.parquet", rows, str(i)) for i, rows in enumerate(shard_rows)]
    pictures, captions, tables, metadata = {}, {}, [], []
    hostile = iter(HOSTILE)
    edges = [-0.2 + i * 0.02 for i in range(51)]
    observed, decoys = [0] * 50, [0.0] * 50
    for shard in shards:
        records = []
        for row in range(shard.rows):
            shape, colour, ground = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(GROUNDS))
            truth = f"a {colour} {shape} on a {ground} ground"
            moved = f"a {rng.choice(list(COLOURS))} {rng.choice(SHAPES)}, {rng.choice(list(GROUNDS))} behind it"
            mismatched = rng.random() < 0.4
            size = (224, 168) if row % 3 else (150, 260)
            pictures[shard.name, row] = draw(shape, colour, ground, size)
            captions[shard.name, row] = moved if mismatched else truth
            aligned = rng.gauss(0.15, 0.07) if mismatched else rng.gauss(0.52, 0.11)
            observed[min(max(int((aligned + 0.2) / 0.02), 0), 49)] += 1
            clean = 1 / (1 + 2.718281828 ** (-28 * (aligned - 0.31)))
            record: dict[str, Any] = {
                "pair_id": f"{shard.name}{row:04d}", "shard": shard.name, "row": row, "caption_index": 0,
                "verdict": "clean", "is_noisy": False, "clean_probability": clean,
                "similarity": aligned / 2, "aligned_similarity": aligned,
                "rematch_pair_id": None, "rematch_caption": None, "rematch_probability": None, "reason": None,
            }  # fmt: skip
            nothing = {"is_noisy": None, "clean_probability": None, "similarity": None, "aligned_similarity": None}
            if row % 37 == 5:
                why = "the image is truncated" if row % 2 else "failed_to_download: HTTP 404"
                record |= nothing | {"verdict": "unreadable", "reason": why}
            elif row % 61 == 7:
                record |= nothing | {"verdict": "unjudged", "reason": "its fold is too small"}
            elif clean < 0.5 and rng.random() < 0.6:
                record |= {
                    "verdict": "rematched", "is_noisy": True, "rematch_pair_id": f"{shard.name}{row:04d}x",
                    "rematch_caption": truth, "rematch_probability": 0.9 + 0.099 * rng.random(),
                }  # fmt: skip
            elif clean < 0.5:
                record |= {"verdict": "noisy", "is_noisy": True, "reason": "no candidate was sure enough"}
            if mismatched and clean < 0.02 and (text := next(hostile, None)):
                captions[shard.name, row] = text
                record |= {"clean_probability": 1e-6, "rematch_caption": record["rematch_caption"] and text[:2000]}
            records.append(record)
        tables.append(pa.Table.from_pylist(records, schema=VERDICT_SCHEMA))
        metadata.append(
            pa.Table.from_pylist(
                [
                    {k: record[k] for k in ("pair_id", "shard", "row", "caption_index", "reason")}
                    | {"caption": captions[shard.name, record["row"]], "image_id": 1, "caption_id": 1}
                    for record in records
                ],
                schema=PAIR_SCHEMA,
            )
        )
    pairs = sum(shard_rows)
    for i in range(50):
        decoys[i] = 0.41 * pairs * 0.02 / 0.07 / 2.5066 * 2.718281828 ** (-(((edges[i] + 0.01 - 0.15) / 0.07) ** 2) / 2)
    facts = {
        "version": "0.1.0", "source": "/data/shops/<i>autumn catalogue", "layout": "img2dataset",
        "model": "ViT-B-32 (laion2b_s34b_b79k)", "method": "l2rm", "score": "aligned", "calibration": "decoy",
        "flag_below": 0.5, "min_precision": 0.9, "device": "cpu (float32)",
        "seconds": {"embed": 83.25, "align": 41.5, "judge": 6.125, "rematch": 2.75, "export": 1.4},
        "mismatch_rate": {"estimate": 0.4123456789, "low": 0.3871, "high": 0.4402, "level": 0.95},
        "rematch": {"emitted": 1, "expected_precision": 0.9312345},
        "retrieval": {
            "pairs": 123,
            "learned": True,
            "zero_shot": {"i2t_r1": 31.25, "i2t_r5": 55.0, "i2t_r10": 66.1, "t2i_r1": 30.0, "t2i_r5": 52.5,
                          "t2i_r10": 64.2, "rsum": 299.05},
            "aligned": {"i2t_r1": 44.75, "i2t_r5": 70.3, "i2t_r10": 81.9, "t2i_r1": 43.2, "t2i_r5": 69.0,
                        "t2i_r10": 63.9, "rsum": 373.05},
        },
        "notes": ["Retrieval is measured on pairs that were judged clean, held out from learning.",
                  "Mismatches inside a group of look-alikes score higher than decoys; the rate is then a lower bound."],
        "score_histogram": {"edges": edges, "observed": observed, "decoys": decoys},
        "calibration_check": {
            "edges": [i / 10 for i in range(11)], "pairs": [150, 30, 3, 0, 1, 2, 1, 4, 25, 180], "gap": 0.0213,
            "said": [0.01, 0.14] + [None] * 6 + [0.86, 0.98], "found": [0.0, 0.2] + [None] * 6 + [0.8, 0.99],
            "low": [0.0, 0.1] + [None] * 6 + [0.7, 0.97], "high": [0.02, 0.3] + [None] * 6 + [0.9, 1.0],
        },
        "thresholds": [_cut(0.05, 401, 160.25, 1.5), _cut(0.5, 260, 21.5, 12.25), _cut(0.99, 0, 0.0, 248.0)],
        "human": {
            "mismatched": {"estimate": 0.45, "low": 0.38, "high": 0.52, "labels": 200},
            "at_least_partly": {"estimate": 0.5, "low": 0.43, "high": 0.57, "labels": 200},
            "labels": {"belongs": 100, "partly": 10, "does_not": 90, "cannot_tell": 3}, "disagreement": None,
            "thresholds": [_cut(0.05, 401, 170.0, None), _cut(0.5, 260, 30.5, 10.0), _cut(0.99, 0, 0.0, 240.0)],
        },
        "rematch_curve": {"taken": [1, 50, 90, 120], "expected": [0.99, 0.96, 0.9, 0.72],
                          "measured": [None, 0.97, 0.91, 0.75]},
        "groups": [
            {"column": "<b>shop", "count": 14, "groups": [
                {"name": HOSTILE[0], "pairs": 80, "judged": 78, "unjudged": 1, "unreadable": 1, "mismatched": 62.4,
                 "rate": 0.8, "low": 0.71, "high": 0.88, "small": False},
                {"name": None, "pairs": 9, "judged": 9, "unjudged": 0, "unreadable": 0, "mismatched": 1.8,
                 "rate": 0.2, "low": 0.05, "high": 0.44, "small": True},
                {"name": "of nothing", "pairs": 2, "judged": 0, "unjudged": 2, "unreadable": 0, "mismatched": None,
                 "rate": None, "low": None, "high": None, "small": True},
            ]},
        ],
        "findings": [
            {"kind": "uneven", "where": {"shop": HOSTILE[0]}, "pairs": 80, "share": 0.25, "mended": 3, "rate": 0.9,
             "low": 0.8, "high": 0.95, "rest": 0.02, "p_value": 1e-9, "sentence": f"Of the 80 pairs {HOSTILE[0]}",
             "command": "pairclean audit RUN --by '<b>shop'"},
            {"kind": "generic_caption", "caption": HOSTILE[1], "pair_id": "p", "pairs": 1, "share": 0.003,
             "mended": 0, "sentence": f"1 picture has {HOSTILE[1]}", "command": "pairclean show RUN p"},
        ],
        "broken": {"00007.parquet": "the file ends in the middle of a row group <i>"},
    }  # fmt: skip
    return FabricatedRun(shards, pictures, captions, tables, metadata, facts)


@pytest.fixture
def fabricated_run() -> FabricatedRun:
    return fabricate()
