"""Shards of pairs become parts of vectors: decode in threads, encode in batches, each distinct thing once."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from ..pairs import PAIR_SCHEMA, Row, Shard, UserError, caption_id, content_id
from .decode import Unreadable, decode
from .store import part_is_done, write_part

if TYPE_CHECKING:
    from ..sources.base import Source
    from .encoder import Encoder

T = TypeVar("T")
#: How long to wait before asking again for a shard that another process has in hand, in seconds.
PAUSE = 0.1


def _ignore(_: object) -> None:
    pass


def _claim_any(_: Shard) -> AbstractContextManager[bool]:
    return nullcontext(True)


@dataclass
class BatchSize:
    """How many pictures, or captions, go through an encoder at once; halved, and kept so, when memory runs out."""

    value: int

    @classmethod
    def start(cls, device: str) -> BatchSize:
        return cls(256 if device.startswith("cuda") else 32)


def embed_shard(
    source: Source,
    shard: Shard,
    encoder: Encoder,
    root: Path,
    fingerprint: str,
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = _ignore,
    batch_size: BatchSize | None = None,
) -> None:
    """Embeds one shard and writes its part: one pair a caption, in the order of the source.

    Pictures are the same by bytes and captions by text: each is encoded once. A pair that cannot be read has zero
    vectors and a reason.  Memory holds the vectors and the texts of the shard, and the pictures of two batches.
    workers: decoding threads, as many as there are cores unless given.  advance: called with the number of source rows
    done since the last call.  batch_size: shared by the shards of one encoder, so that what was halved stays so.
    Raises UserError if the device has not the memory for a single picture or caption.
    """
    batch = batch_size or BatchSize.start(encoder.device)
    pool = ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="decode")
    try:
        pairs = _Pairs(shard.name)
        images, captions = _Images(encoder, pool, batch), _Captions(encoder, batch)
        reported = 0
        for count, row in enumerate(source.rows(shard), start=1):
            pairs.add(row, images, captions)
            if images.encode_ready() or captions.encode_ready():
                advance(count - reported)
                reported = count
        images.encode_rest()
        captions.encode_rest()
        advance(shard.rows - reported)
    finally:  # not `with`: that would wait for pictures nobody wants any more after an interrupt
        pool.shutdown(wait=False, cancel_futures=True)
    write_part(root, shard.name, fingerprint, *pairs.finish(images, captions))


def embed_source(
    source: Source,
    devices: Sequence[str],
    make_encoder: Callable[[str], Encoder],
    root: Path,
    fingerprint_of: Callable[[Shard], str],
    *,
    workers: int | None = None,
    advance: Callable[[int], None] = _ignore,
    on_shard_done: Callable[[Shard], None] = _ignore,
    claim: Callable[[Shard], AbstractContextManager[bool]] = _claim_any,
) -> list[Shard]:
    """Embeds the shards whose parts are not done under their fingerprint; returns them, in the order of the source.
    All parts are there when it returns, also those that other processes made meanwhile.

    devices: one encoder each, made by `make_encoder` only when there is work for it; they take shards side by side.
    workers: decoding threads in all.  advance, on_shard_done: as progress; shards done before count in `advance`.
    claim: whether a shard may be worked on inside the block; if not, another process has it, and it is asked for again.
    The first error stops all devices and is raised.
    """
    todo = [shard for shard in source.shards if not part_is_done(root, shard.name, fingerprint_of(shard))]
    advance(sum(shard.rows for shard in source.shards) - sum(shard.rows for shard in todo))
    devices = devices[: len(todo)]
    waiting: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    for shard in todo:
        waiting.put(shard)
    stop = threading.Event()
    threads = max(1, (workers or available_cores()) // max(1, len(devices)))

    def advance_unless_stopped(rows: int) -> None:
        if stop.is_set():
            raise _Stopped
        advance(rows)

    def work(device: str) -> None:
        encoder = make_encoder(device)
        batch_size = BatchSize.start(encoder.device)
        while not stop.is_set():
            try:
                shard = waiting.get_nowait()
            except queue.Empty:
                return
            with claim(shard) as mine:
                if mine and part_is_done(root, shard.name, fingerprint_of(shard)):  # by another process, meanwhile
                    advance_unless_stopped(shard.rows)
                elif mine:
                    embed_shard(
                        source,
                        shard,
                        encoder,
                        root,
                        fingerprint_of(shard),
                        workers=threads,
                        advance=advance_unless_stopped,
                        batch_size=batch_size,
                    )
            if mine:
                on_shard_done(shard)
            else:  # whoever has it may not live to finish it
                waiting.put(shard)
                stop.wait(PAUSE)

    if len(devices) == 1:
        work(devices[0])
    elif devices:
        _side_by_side(work, devices, stop)
    return todo


class _Stopped(Exception):
    """Raised inside a device's thread when another one has failed."""


def _side_by_side(work: Callable[[str], None], devices: Sequence[str], stop: threading.Event) -> None:
    with ThreadPoolExecutor(len(devices), thread_name_prefix="device") as pool:
        futures = [pool.submit(work, device) for device in devices]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also on an interrupt, which reaches this thread only
            stop.set()
        failed = [future for future in done if future.exception()]
    for future in [*failed, *futures]:
        future.result()


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Vectors(Generic[T]):
    """Vectors by key, in half precision, encoded batch by batch."""

    def __init__(self, encode: Callable[[list[T]], np.ndarray], dim: int, batch: BatchSize, device: str) -> None:
        self._encode, self._batch, self._device = encode, batch, device
        self._parts = [np.zeros((1, dim), np.float16)]  # for keys without a vector
        self._place: dict[Hashable, int] = {}

    def encode(self, keys: Sequence[Hashable], items: list[T]) -> None:
        start = 0
        while start < len(items):
            batch = items[start : start + self._batch.value]
            vectors = self._try(batch)
            if vectors is None:
                self._batch.value = len(batch) // 2
                continue
            self._add(keys[start : start + len(batch)], vectors)
            start += len(batch)

    def _try(self, batch: list[T]) -> np.ndarray | None:
        """The vectors, or None if the memory does not suffice for them."""
        try:
            return self._encode(batch)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise UserError(
                    f"The memory of {self._device} does not suffice for a single item at a time; free some of it, "
                    "or use --device cpu or a smaller --model."
                ) from error
        if self._device.startswith("cuda"):  # after the handler, whose error keeps the tensors of the attempt alive
            import torch

            torch.cuda.empty_cache()
        return None

    def gather(self, keys: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
        """(n, dim) float16, zero for keys without a vector; and (n,) bool, which have one that is finite."""
        vectors = np.concatenate(self._parts)
        finite: np.ndarray = np.all(np.isfinite(vectors), axis=1)
        finite[0] = False
        places = np.array([self._place.get(key, 0) for key in keys], np.intp)
        return np.where(finite[:, None], vectors, 0)[places], finite[places]

    def _add(self, keys: Sequence[Hashable], vectors: np.ndarray) -> None:
        self._place.update(zip(keys, range(len(self._place) + 1, len(self._place) + 1 + len(keys)), strict=True))
        self._parts.append(vectors.astype(np.float16))


def _is_out_of_memory(error: Exception) -> bool:
    # torch.cuda.OutOfMemoryError is a RuntimeError; the CPU's and mps' allocators raise plain ones.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search("out of memory|can't allocate memory", str(error)))
    )


class _Images:
    """The distinct pictures of a shard, decoded ahead in threads."""

    def __init__(self, encoder: Encoder, pool: ThreadPoolExecutor, batch: BatchSize) -> None:
        self.vectors = _Vectors(encoder.encode_images, encoder.image_dim, batch, encoder.device)
        self.reasons: dict[int, str] = {}
        self._prepare, self._pool, self._batch = encoder.prepare, pool, batch
        self._least_side = encoder.least_side
        self._seen: set[int] = set()
        self._pending: deque[tuple[int, Future[np.ndarray]]] = deque()

    def add(self, data: bytes) -> int:
        """Takes in a picture; returns its identity."""
        identity = content_id(data)
        if identity not in self._seen:
            self._seen.add(identity)
            self._pending.append((identity, self._pool.submit(lambda: self._prepare(decode(data, self._least_side)))))
        return identity

    def encode_ready(self) -> bool:
        """Encodes one batch if two are pending: the threads decode the second meanwhile."""
        ready = len(self._pending) >= 2 * self._batch.value
        if ready:
            self._encode_next()
        return ready

    def encode_rest(self) -> None:
        while self._pending:
            self._encode_next()

    def _encode_next(self) -> None:
        identities: list[int] = []
        prepared: list[np.ndarray] = []
        for _ in range(min(self._batch.value, len(self._pending))):
            identity, future = self._pending.popleft()
            try:
                prepared.append(future.result())
                identities.append(identity)
            except Unreadable as error:
                self.reasons[identity] = str(error)
        self.vectors.encode(identities, prepared)


class _Captions:
    """The distinct captions of a shard."""

    def __init__(self, encoder: Encoder, batch: BatchSize) -> None:
        self.vectors = _Vectors(encoder.encode_captions, encoder.text_dim, batch, encoder.device)
        self._batch = batch
        self._seen: set[str] = set()
        self._pending: list[str] = []

    def add(self, caption: str) -> None:
        if caption not in self._seen:
            self._seen.add(caption)
            self._pending.append(caption)

    def encode_ready(self) -> bool:
        ready = len(self._pending) >= self._batch.value
        if ready:
            self.encode_rest()
        return ready

    def encode_rest(self) -> None:
        self.vectors.encode(self._pending, self._pending)
        self._pending = []


class _Pairs:
    """The table of a shard's pairs, PAIR_SCHEMA, as it grows."""

    def __init__(self, shard_name: str) -> None:
        self._shard_name = shard_name
        self._columns: dict[str, list[Any]] = {name: [] for name in PAIR_SCHEMA.names}

    def add(self, row: Row, images: _Images, captions: _Captions) -> None:
        """Every caption of a row, and what can be encoded of it."""
        why = [row.reason or _why_not(caption) for caption in row.captions]
        image_id = 0 if row.image is None or all(why) else images.add(row.image)
        for index, (caption, reason) in enumerate(zip(row.captions, why, strict=True)):
            if caption is not None and reason is None:
                captions.add(caption)
            pair = (
                row.pair_id(index),
                self._shard_name,
                row.row,
                index,
                caption,
                0 if reason else image_id,
                0 if reason or caption is None else caption_id(caption),
                reason,
            )
            for column, value in zip(self._columns.values(), pair, strict=True):
                column.append(value)

    def finish(self, images: _Images, captions: _Captions) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """The table, and (n, image_dim) and (n, text_dim) float16 vectors aligned with it."""
        reasons, identities = self._columns["reason"], self._columns["image_id"]
        image, has_image = images.vectors.gather(identities)
        text, has_text = captions.vectors.gather(self._columns["caption"])
        readable = has_image & has_text & np.array([reason is None for reason in reasons], bool)
        for place in np.flatnonzero(~readable):
            reasons[place] = reasons[place] or images.reasons.get(identities[place], "no finite vector")
        image[~readable] = text[~readable] = 0
        return pa.table(self._columns, schema=PAIR_SCHEMA), image, text


def _why_not(caption: str | None) -> str | None:
    if caption is None:
        return "no caption"
    return None if caption.strip() else "empty caption"
