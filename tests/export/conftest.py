"""Verdicts as a run would give them, and everything that a writer makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pairclean.export import kept_pairs, open_writer
from pairclean.pairs import VERDICT_SCHEMA
from pairclean.sources import Source


@pytest.fixture
def export() -> Callable[..., list[str]]:
    """export(source, words, out, to): write all shards, where `words` names the verdict of each pair in order.

    A rematched pair gets the caption of the next pair of the source. Returns the files that were written.
    """

    def write(source: Source, words: list[str], out: Path, to: str = "source", **more: object) -> list[str]:
        pairs = [
            (shard.name, row.row, index, row.pair_id(index), caption)
            for shard in source.shards
            for row in source.rows(shard, images=False)
            for index, caption in enumerate(row.captions)
        ]
        assert len(pairs) == len(words)
        records, donor = [], np.full(len(pairs), -1)
        for i, ((name, row, index, pair_id, _), word) in enumerate(zip(pairs, words, strict=True)):
            record = {"pair_id": pair_id, "shard": name, "row": row, "caption_index": index, "verdict": word}
            record["clean_probability"] = 0.25 if word == "rematched" else 0.75
            if word == "rematched":
                donor[i] = (i + 1) % len(pairs)
                record |= {"rematch_pair_id": pairs[donor[i]][3], "rematch_caption": pairs[donor[i]][4]}
            records.append(record)
        counts = [sum(pair[0] == shard.name for pair in pairs) for shard in source.shards]
        offsets = np.cumsum([0, *counts])
        files = []
        with open_writer(source, to, offsets=offsets, donors=donor[donor >= 0], home=out / "moved", **more) as writer:
            for i, shard in enumerate(source.shards):
                part = slice(offsets[i], offsets[i + 1])
                table = pa.Table.from_pylist(records[part], schema=VERDICT_SCHEMA)
                writer.write(shard, kept_pairs(table, start=offsets[i], donor=donor[part]), out)
                files += writer.files(shard)
                assert (out / files[-1]).is_file()
            writer.finish(out)
        there = sorted(str(f.relative_to(out)) for f in out.rglob("*") if f.is_file())
        assert [f for f in there if "tmp" in f or "moved" in f] == []
        return there

    return write
