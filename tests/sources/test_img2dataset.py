"""What img2dataset itself wrote (tests/sources/img2dataset), in its three formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from pairclean.embed.decode import decode
from pairclean.sources import open_source

HOME = Path(__file__).parent / "img2dataset"
CAPTIONS = [
    "a red square, on white",
    "ein Kreis – blau",
    "«triangle» with a\ttab",
    "line one\nline two",
    "déjà vu 😀",
    ' "quoted" ',
    " ",
    "not there",
]
KEYS = ["000000", "000001", "000002", "000003", "000004", "000010", "000011", "000012"]
FORMATS = ["files", "webdataset", "parquet"]


@pytest.mark.parametrize("written", FORMATS)
def test_every_row_is_read(written: str) -> None:
    source = open_source(HOME / written)
    assert source.layout == ("img2dataset" if written == "parquet" else written)
    assert (source.roles.image, source.roles.id, source.notes) == ("jpg", "key", {})
    assert [(shard.name, shard.rows) for shard in source.shards] == [("00000", 5), ("00001", 3)]
    rows = [row for shard in source.shards for row in source.rows(shard)]
    assert [row.id for row in rows] == KEYS
    assert [row.captions for row in rows] == [(caption,) for caption in CAPTIONS]
    reasons = [row.reason for row in rows]
    assert reasons == [None] * 7 + ["failed_to_download: HTTP Error 404: File not found"]
    sizes = [decode(row.image, None).size for row in rows[:7] if row.image is not None]
    assert sizes == [(24, 16 + i) for i in range(7)]
    (batch,) = source.batches(source.shards[0], ["number", "url"])
    assert batch.column("number").to_pylist() == [0, 1, 2, 3, 4]
