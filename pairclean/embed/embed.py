"""Shards of pairs become parts of vectors: decode in threads, encode in batches, each distinct thing once.

While a batch is on its way through the encoder, the next ones are being read, decoded and handed over, so that the
slowest of these works all the time: batches are encoded in threads of their own (`_Encoding`), and two shards are in
hand for every GPU, so that it has work while one of them begins or is written.
"""

from __future__ import annotations

import functools
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from ..execution import available_cores, single_thread
from ..pairs import EMPTY_CAPTION, NO_CAPTION, PAIR_SCHEMA, Row, Shard, UserError, caption_id, content_id
from .decode import Unreadable, decode
from .store import part_is_done, write_part

if TYPE_CHECKING:
    from ..sources.base import Source
    from .encoder import Encoder

T = TypeVar("T")
#: How long to wait before asking again for a shard that another process has in hand, in seconds.
PAUSE = 0.1
# Batches of a shard on their way through the encoder. On a GPU one is computed and two are made ready meanwhile, as
# batches of pictures, which take long, and of captions, which do not, alternate.
_UNDER_WAY = 3


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
    decoding: Executor,
    advance: Callable[[int], None] = _ignore,
    batch_size: BatchSize | None = None,
) -> None:
    """Embeds one shard and writes its part: one pair a caption, in the order of the source.

    Pictures are the same by bytes and captions by text: each is encoded once. A pair that cannot be read has zero
    vectors and a reason.  Memory holds the vectors and the texts of the shard, and the pictures of five batches.
    decoding: the threads that decode.  advance: called with the number of source rows done since the last call.
    batch_size: shared by the shards of one encoder, so that what was halved stays so.
    Raises UserError if the device has not the memory for a single picture or caption.
    """
    batch = batch_size or BatchSize.start(encoder.device)
    with threads(_UNDER_WAY if _on_gpu(encoder.device) else 1, "encode") as pool:
        encoding = _Encoding(pool)
        pairs = _Pairs(shard.name)
        images, captions = _Images(encoder, decoding, encoding, batch), _Captions(encoder, encoding, batch)
        reported = 0
        for count, row in enumerate(source.rows(shard), start=1):
            pairs.add(row, images, captions)
            if any([images.encode_ready(), captions.encode_ready()]):
                advance(count - reported)
                reported = count
        images.encode_rest()
        captions.encode_rest()
        encoding.finish()
        advance(shard.rows - reported)
    write_part(root, shard.name, fingerprint, *pairs.finish(images, captions))


@contextmanager
def threads(count: int, name: str, begin: Callable[[], None] | None = None) -> Iterator[ThreadPoolExecutor]:
    """Not a plain `with ThreadPoolExecutor`: that would wait for what nobody wants any more after an interrupt.

    begin: called by every thread when it starts.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def embed_source(
    source: Source,
    devices: Sequence[str],
    make_encoder: Callable[[str], Encoder],
    root: Path,
    fingerprint_of: Callable[[Shard], str],
    *,
    shards: Sequence[Shard] | None = None,
    wait_for_others: bool = True,
    workers: int | None = None,
    advance: Callable[[int], None] = _ignore,
    on_shard_done: Callable[[Shard], None] = _ignore,
    claim: Callable[[Shard], AbstractContextManager[bool]] = _claim_any,
) -> list[Shard]:
    """Embeds the shards whose parts are not done under their fingerprint; returns them, in the order of the source.
    All parts are there when it returns, also those that other processes made meanwhile.

    shards: those of the source to embed, by default all.
    wait_for_others: False leaves a part that another process is writing to that process, and does not wait for it.

    devices: one encoder each, made by `make_encoder` only when there is work for it; they take shards side by side, a
    GPU two at a time.
    workers: decoding threads in all.  advance, on_shard_done: as progress; shards done before count in `advance`.
    claim: whether a shard may be worked on inside the block; if not, another process has it, and it is asked for again.
    The first error stops all devices and is raised.
    """
    shards = source.shards if shards is None else shards
    todo = [shard for shard in shards if not part_is_done(root, shard.name, fingerprint_of(shard))]
    advance(sum(shard.rows for shard in shards) - sum(shard.rows for shard in todo))
    waiting: queue.SimpleQueue[Shard] = queue.SimpleQueue()
    for shard in todo:
        waiting.put(shard)
    stop = threading.Event()

    def advance_unless_stopped(rows: int) -> None:
        if stop.is_set():
            raise _Stopped
        advance(rows)

    def take_shards(encoder: Encoder, batch_size: BatchSize) -> None:
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
                        decoding=decoding,
                        advance=advance_unless_stopped,
                        batch_size=batch_size,
                    )
            if mine:
                on_shard_done(shard)
            elif wait_for_others:  # whoever has it may not live to finish it
                waiting.put(shard)
                stop.wait(PAUSE)

    def work(device: str) -> None:
        encoder = make_encoder(device)
        batch_size = BatchSize.start(encoder.device)
        _side_by_side([lambda: take_shards(encoder, batch_size)] * (2 if _on_gpu(encoder.device) else 1), stop)

    with threads(workers or available_cores(), "decode", single_thread) as decoding:
        _side_by_side([functools.partial(work, device) for device in devices[: len(todo)]], stop)
    return todo


class _Stopped(Exception):
    """Raised inside a thread when another one has failed."""


def _side_by_side(work: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """All of `work`, in a thread each if there are several; the first error, or an interrupt, stops the others."""
    if len(work) <= 1:
        for only in work:
            only()
        return
    with ThreadPoolExecutor(len(work), thread_name_prefix="device") as pool:
        futures = [pool.submit(one) for one in work]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also on an interrupt, which reaches the main thread only
            if not all(future.done() and future.exception() is None for future in futures):
                stop.set()
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, _Stopped)):
        raise error


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")


class _Encoding:
    """The batches of a shard that are on their way through the encoder, at most _UNDER_WAY of them."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._under_way: deque[Future[None]] = deque()

    def start(self, encode: Callable[[], None]) -> None:
        """Waits for the oldest batch if there are too many.  Raises what an earlier one raised."""
        if len(self._under_way) == _UNDER_WAY:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(encode))

    def finish(self) -> None:
        while self._under_way:
            self._under_way.popleft().result()


class _Vectors(Generic[T]):
    """Vectors by key, in half precision, encoded batch by batch; several threads may do so at once."""

    def __init__(self, encode: Callable[[list[T]], np.ndarray], dim: int, batch: BatchSize, device: str) -> None:
        self._encode, self._batch, self._device = encode, batch, device
        self._parts = [np.zeros((1, dim), np.float16)]  # for keys without a vector
        self._place: dict[Hashable, int] = {}
        self._adding = threading.Lock()

    def encode(self, keys: Sequence[Hashable], items: list[T]) -> None:
        start = 0
        while start < len(items):
            batch = items[start : start + self._batch.value]
            vectors = self._try(batch)
            if vectors is None:
                self._batch.value = min(self._batch.value, len(batch) // 2)
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
        if _on_gpu(self._device):  # after the handler, whose error keeps the tensors of the attempt alive
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
        halves = vectors.astype(np.float16)
        with self._adding:
            first = len(self._place) + 1
            self._place.update(zip(keys, range(first, first + len(keys)), strict=True))
            self._parts.append(halves)


def _is_out_of_memory(error: Exception) -> bool:
    # torch.cuda.OutOfMemoryError is a RuntimeError; the CPU's and mps' allocators raise plain ones.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search("out of memory|can't allocate memory", str(error)))
    )


class _Images:
    """The distinct pictures of a shard, decoded ahead in threads."""

    def __init__(self, encoder: Encoder, decoding: Executor, encoding: _Encoding, batch: BatchSize) -> None:
        self.vectors = _Vectors(encoder.encode_images, encoder.image_dim, batch, encoder.device)
        self.reasons: dict[int, str] = {}
        self._prepare, self._decoding, self._encoding, self._batch = encoder.prepare, decoding, encoding, batch
        self._least_side = encoder.least_side
        self._seen: set[int] = set()
        self._pending: deque[tuple[int, Future[np.ndarray]]] = deque()

    def add(self, data: bytes) -> int:
        """Takes in a picture; returns its identity."""
        identity = content_id(data)
        if identity not in self._seen:
            self._seen.add(identity)
            future = self._decoding.submit(lambda: self._prepare(decode(data, self._least_side)))
            self._pending.append((identity, future))
        return identity

    def encode_ready(self) -> bool:
        """Hands over one batch if two are pending: the threads decode the second meanwhile."""
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
        self._encoding.start(lambda: self.vectors.encode(identities, prepared))


class _Captions:
    """The distinct captions of a shard."""

    def __init__(self, encoder: Encoder, encoding: _Encoding, batch: BatchSize) -> None:
        self.vectors = _Vectors(encoder.encode_captions, encoder.text_dim, batch, encoder.device)
        self._encoding, self._batch = encoding, batch
        self._seen: set[str] = set()
        self._pending: list[str] = []

    def add(self, caption: str) -> None:
        if caption not in self._seen:
            self._seen.add(caption)
            self._pending.append(caption)

    def encode_ready(self) -> bool:
        """Hands over one batch if one is pending."""
        ready = len(self._pending) >= self._batch.value
        if ready:
            self._encode_next()
        return ready

    def encode_rest(self) -> None:
        while self._pending:
            self._encode_next()

    def _encode_next(self) -> None:
        size = self._batch.value
        batch, self._pending = self._pending[:size], self._pending[size:]
        self._encoding.start(lambda: self.vectors.encode(batch, batch))


class _Pairs:
    """The table of a shard's pairs, PAIR_SCHEMA, as it grows."""

    def __init__(self, shard_name: str) -> None:
        self._shard_name = shard_name
        self._columns: dict[str, list[Any]] = {name: [] for name in PAIR_SCHEMA.names}

    def add(self, row: Row, images: _Images, captions: _Captions) -> None:
        """Every caption of a row, and what can be encoded of it."""
        why = [row.reason or why_no_caption(caption) for caption in row.captions]
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


def why_no_caption(caption: str | None) -> str | None:
    """Why a caption cannot be used; None where it can."""
    if caption is None:
        return NO_CAPTION
    return None if caption.strip() else EMPTY_CAPTION
