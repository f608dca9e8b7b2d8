"""Do damaged files ever end in anything but a sentence for the user, or lose pairs silently?

    pip install atheris
    python -m benchmarks.fuzz_readers tar 100000     # one of READERS; the number of inputs
    python -m benchmarks.fuzz_readers all 100000     # all of them, one after another, as a table

Every input is a file of its kind whose bytes libFuzzer changes, moves, cuts off or makes up, guided toward inputs that
take new paths through the code of the reader. A reader may raise UserError. If it opens the file, its rows have to be
numbered without gaps, and no fewer than another library finds, unless the source has a note or a broken file. Every
other outcome is printed with its traceback, and the input is kept in a file `crash-...`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["pairclean"]):
    from pairclean.embed.decode import Unreadable, decode
    from pairclean.pairs import UserError
    from pairclean.sources import Source, open_source
    from pairclean.sources.base import IMAGES

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


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((6, 4), np.float16))
    return file.getvalue()


def sidecar() -> bytes:
    file = io.BytesIO()
    rows = [f"{k:03d}" for k in range(3)]
    pq.write_table(pa.table({"key": rows, "caption": rows, "status": ["success"] * 3}), file, row_group_size=2)
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


def read(files: dict[str, bytes], least_rows: Callable[[], int] = lambda: 0) -> None:
    """Open the files as a source and read all rows.  least_rows: how many pairs another library finds in them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            place = Path(folder) / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
        try:
            source = open_source(folder)
            for shard in source.shards:
                numbers = [row.row for row in source.rows(shard)]
                if numbers != list(range(shard.rows)):
                    raise AssertionError(f"{len(numbers)} rows of {shard.rows}")
        except UserError:
            return
    rows = sum(shard.rows for shard in source.shards)
    if not source.broken and rows + left_out(source) < (least := least_rows()):
        raise AssertionError(f"{rows} rows where there are {least}, and nothing is said: {source.notes}")


def left_out(source: Source) -> int:
    """How many members, lines or rows the notes say are left out."""
    return sum(int(count.replace(",", "")) for note in source.notes.values() for count in COUNT.findall(note))


COUNT = re.compile(r"has ([\d,]+) ")


def pictures(data: bytes) -> int:
    """The keys of the pictures in a tar."""
    with (
        suppress(tarfile.TarError, ValueError, OverflowError, EOFError),
        tarfile.open(fileobj=io.BytesIO(data)) as found,
    ):
        names = [name.rpartition("/")[2] for name in (one.name for one in found if one.isreg())]
        return len({name.partition(".")[0] for name in names if name.rpartition(".")[2].lower() in IMAGES} - {""})
    return 0


def unpacked(data: bytes) -> bytes:
    with suppress(OSError, EOFError, ValueError):
        return gzip.decompress(data)
    return b""


def arrow_rows(data: bytes) -> int:
    with suppress(pa.ArrowException, OSError, UnicodeDecodeError):
        return sum(len(batch) for batch in pa.ipc.open_stream(data))
    return 0


def lines(data: bytes) -> int:
    """The lines of a text that are not blank."""
    return sum(bool(line.strip()) for line in data.split(b"\n")) if data.isascii() else 0


def records_of_csv(data: bytes) -> int:
    """As many as lines, where no quote joins some; without the one of names."""
    return (
        max(0, sum(bool(line.strip(b"\r\n")) for line in data.splitlines()) - 1)
        if data.isascii() and b'"' not in data
        else 0
    )


def objects(data: bytes) -> int:
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict):
            found = found.get("images")
        return len(found) if isinstance(found, list) else 0
    return 0


def tar_of_names(data: bytes) -> bytes:
    """A tar whose members have these lines as their names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in data.decode("utf-8", "surrogateescape").split("\n"):
            member = tarfile.TarInfo(name)
            member.size = 4
            with suppress(ValueError):  # the name cannot be written
                archive.addfile(member, io.BytesIO(b"text"))
    return file.getvalue()


def read_names(data: bytes) -> None:
    archive = tar_of_names(data)
    read({"0.tar": archive}, lambda: pictures(archive))


def read_image(data: bytes) -> None:
    with suppress(Unreadable):
        decode(data)


NAMES = [b"a.jpg\na.txt\nb.jpg\nb.txt", b"x 22.05.jpg\nx 22.05.txt\ny.depth.png\ny.png\ny.txt\nf/z.input.jpg\nf/z.txt"]
SEEDS = {
    "parquet": [table(jpg=[picture("JPEG")] * 6)],
    "tar": [tar()],
    "names": NAMES,
    "gzip": [gzip.compress(tar(), mtime=0)],
    "sidecar": [sidecar()],
    "files": [b"number 0", "größer".encode("cp1252"), "number 2".encode("utf-16"), b'{"caption": "number 3"}'],
    "npz": [npz()],
    "npy": [npy()],
    "arrow": [arrow()],
    "csv": [csv(), csv().decode().encode("utf-16"), b"filepath\ttitle\na.png\tx\n"],
    "jsonl": ["\n".join(map(json.dumps, rows)).encode() for rows in (records(), conversations())],
    "json": [json.dumps(content).encode() for content in (records(), conversations(), coco())],
    "image": [picture(format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")],
}
PLAIN, TAR, PNG, NPY = table(), tar(), picture("PNG"), npy()
READERS: dict[str, Callable[[bytes], None]] = {
    "parquet": lambda data: read({"0.parquet": data}),
    "tar": lambda data: read({"0.tar": data}, lambda: pictures(data)),
    "names": read_names,
    "gzip": lambda data: read({"0.tar.gz": data}, lambda: pictures(unpacked(data))),
    "sidecar": lambda data: read({"0.tar": TAR, "0.parquet": data}, lambda: 3),
    "files": lambda data: read(
        {"0.png": PNG, "0.txt": b"plain", "1.png": PNG, "1.txt": data, "1.json": data}, lambda: 2
    ),
    "npz": lambda data: read({"0.parquet": PLAIN, "0.npz": data}, lambda: 6),
    "npy": lambda data: read(
        {"metadata/metadata_0.parquet": PLAIN, "img_emb/img_emb_0.npy": data, "text_emb/text_emb_0.npy": NPY}, lambda: 6
    ),
    "arrow": lambda data: read({"0.arrow": data}, lambda: arrow_rows(data)),
    "csv": lambda data: read({"0.csv": data}, lambda: records_of_csv(data)),
    "jsonl": lambda data: read({"0.jsonl": data}, lambda: lines(data)),
    "json": lambda data: read({"0.json": data}, lambda: objects(data)),
    "image": read_image,
}


def fuzz(reader: str, inputs: str) -> None:
    corpus = Path(tempfile.mkdtemp())
    for k, seed in enumerate(SEEDS[reader]):
        (corpus / str(k)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-runs={inputs}", "-max_len=20000"], READERS[reader])
    atheris.Fuzz()


def fuzz_all(inputs: str) -> None:
    print("| reader | inputs | crashes or silent losses | seconds |\n|---|---|---|---|")
    for reader in READERS:
        start = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.fuzz_readers", reader, inputs]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        done = re.search(r"Done (\d+) runs", ended.stderr)
        print(
            f"| {reader} | {done[1] if done else '?'} | {int(not done)} | {time.monotonic() - start:.0f} |", flush=True
        )
        if not done:
            print(ended.stdout[-2000:], ended.stderr[-4000:], file=sys.stderr)


if __name__ == "__main__":
    (fuzz_all(sys.argv[2]) if sys.argv[1] == "all" else fuzz(sys.argv[1], sys.argv[2]))
