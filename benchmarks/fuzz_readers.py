"""Do damaged files ever end in anything but a sentence for the user?  For longer than a suite of tests may take.

    pip install atheris
    python -m benchmarks.fuzz_readers parquet 60   # or: tar, gzip, npz, arrow, csv, jsonl, json, image; seconds

Every input is a file of its kind with bytes changed, moved, cut off or made up by libFuzzer, guided to what takes
new ways through the code that reads it. What ends otherwise than it should is printed with its traceback and kept as a
file `crash-...`. libFuzzer prints the number of inputs at the end.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["pairclean"]):
    from pairclean.embed.decode import Unreadable, decode
    from pairclean.pairs import UserError
    from pairclean.sources import open_source

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).save(file, format)
    return file.getvalue()


def table(**more: object) -> bytes:
    file = io.BytesIO()
    columns = {"uid": [f"{k:032x}" for k in range(6)], "text": [f"number {k}" for k in range(6)], **more}
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for k in range(3):
            for ending, data in (("png", picture("PNG")), ("txt", f"number {k}".encode()), ("json", b'{"a": 1}')):
                member = tarfile.TarInfo(f"{k:03d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, b32_img=np.ones((6, 4), np.float16), b32_txt=np.ones((6, 4), np.float16))
    return file.getvalue()


def arrow() -> bytes:
    file = io.BytesIO()
    columns = pq.read_table(io.BytesIO(table(jpg=[picture("JPEG")] * 6)))
    with pa.ipc.new_stream(file, columns.schema) as writer:
        writer.write_table(columns, max_chunksize=2)
    return file.getvalue()


def records() -> list[dict[str, str]]:
    image = base64.b64encode(picture("PNG")).decode()
    return [{"image": image, "caption": f"number {k}, é"} for k in range(3)]


def conversations() -> list[dict[str, object]]:
    said = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a thing"}]
    return [{"id": k, "image": f"{k}.png", "conversations": said} for k in range(3)]


def coco() -> dict[str, object]:
    notes = [{"id": k, "image_id": k % 3, "caption": f"number {k}"} for k in range(6)]
    return {"images": [{"id": k, "file_name": f"{k}.png"} for k in range(3)], "annotations": notes}


def csv() -> bytes:
    rows = "".join(f'{record["image"]},"{record["caption"]}"\n' for record in records())
    return f"image,caption\n{rows}".encode()


def read(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            source = open_source(folder)
            for shard in source.shards:
                rows = [row.row for row in source.rows(shard)]
                if rows != list(range(shard.rows)):
                    raise AssertionError(f"{len(rows)} rows of {shard.rows}")
        except UserError:
            pass


def read_image(data: bytes) -> None:
    with suppress(Unreadable):
        decode(data)


SEEDS = {
    "parquet": [table(jpg=[picture("JPEG")] * 6)],
    "tar": [tar()],
    "gzip": [gzip.compress(tar(), mtime=0)],
    "npz": [npz()],
    "arrow": [arrow()],
    "csv": [csv(), csv().decode().encode("utf-16"), b"filepath\ttitle\na.png\tx\n"],
    "jsonl": ["\n".join(map(json.dumps, rows)).encode() for rows in (records(), conversations())],
    "json": [json.dumps(content).encode() for content in (records(), conversations(), coco())],
    "image": [picture(format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")],
}
PLAIN = table()
READ = {
    "parquet": lambda data: read({"0.parquet": data}),
    "tar": lambda data: read({"0.tar": data}),
    "gzip": lambda data: read({"0.tar.gz": data}),
    "arrow": lambda data: read({"0.arrow": data}),
    "csv": lambda data: read({"0.csv": data}),
    "jsonl": lambda data: read({"0.jsonl": data}),
    "json": lambda data: read({"0.json": data}),
    "npz": lambda data: read({"0.parquet": PLAIN, "0.npz": data}),
    "image": read_image,
}


def main(kind: str, seconds: str) -> None:
    corpus = Path(tempfile.mkdtemp())
    for k, seed in enumerate(SEEDS[kind]):
        (corpus / str(k)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=20000"], READ[kind])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
