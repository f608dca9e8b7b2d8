"""Shards become parts: what is encoded, what is not, in what order, and what happens when something fails."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pairclean.embed.embed import BatchSize, embed_shard, embed_source, threads
from pairclean.embed.store import Embeddings, part_is_done
from pairclean.execution import single_thread
from pairclean.pairs import Row, Shard, UserError, caption_id, content_id
from pairclean.run import Run
from pairclean.synthetic.scenes import draw_scenes, write_shards


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


class ListSource:
    """Rows from a dict, one list a shard."""

    def __init__(self, rows: dict[str, list[Row]]) -> None:
        self._rows = rows
        self.shards = [Shard(name, f"{name}.parquet", len(r), f"file {name}") for name, r in rows.items()]

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        return iter(self._rows[shard.name])


def numbered(first: int, count: int) -> list[Row]:
    return [Row(i, f"id{i}", picture(i), (f"a {i}",)) for i in range(first, first + count)]


class ToyEncoder:
    """The red level as an angle, the caption's length as another; counts what it is given."""

    image_dim, text_dim, comparable, least_side = 2, 3, False, None
    description: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, largest: int = 10**9, error: Exception | None = None, device: str = "cpu") -> None:
        self.device = device
        self.images: list[int] = []
        self.captions: list[str] = []
        self.batches: list[int] = []
        self._largest = largest
        self._error = error or torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image)[0, 0, :1]

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        self._check(len(prepared))
        levels = np.concatenate(prepared)
        self.images += levels.tolist()
        angles = levels / 200
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        self._check(len(captions))
        self.captions += captions
        angles = np.array([len(c) for c in captions]) / 50
        return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(captions))], 1).astype(np.float32)

    def _check(self, count: int) -> None:
        self.batches.append(count)
        if count > self._largest:
            raise self._error


def image_vector(level: int) -> np.ndarray:
    return np.array([np.cos(level / 200), np.sin(level / 200)]).astype(np.float16)


def embed_rows(rows: list[Row], root: Path, encoder: ToyEncoder, **options: Any) -> Embeddings:
    source = ListSource({"s": rows})
    with threads(2, "decode") as decoding:
        embed_shard(source, source.shards[0], encoder, root, "f", decoding=decoding, **options)
    assert part_is_done(root, "s", "f")
    return Embeddings.open(root, ["s"])


def test_vectors_in_the_order_of_the_source(tmp_path: Path) -> None:
    encoder = ToyEncoder()
    run = embed_rows(numbered(0, 100), tmp_path, encoder)
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(100)]))
    assert run.captions(np.array([0, 99])) == ["a 0", "a 99"]
    assert run.image_id.tolist() == [content_id(picture(i)) for i in range(100)]
    assert run.caption_id.tolist() == [caption_id(f"a {i}") for i in range(100)]
    assert run.readable.all()
    assert max(encoder.batches) == BatchSize.start("cpu").value


def test_each_distinct_thing_is_encoded_once(tmp_path: Path) -> None:
    rows = [Row(i, str(i), picture(i % 3), ("same" if i % 2 else f"own {i % 4}",)) for i in range(200)]
    encoder = ToyEncoder()
    run = embed_rows(rows, tmp_path, encoder)
    assert sorted(encoder.images) == [0, 1, 2]
    assert sorted(encoder.captions) == ["own 0", "own 2", "same"]
    assert np.array_equal(run.image[:], np.stack([image_vector(i % 3) for i in range(200)]))


def test_several_captions_a_row(tmp_path: Path) -> None:
    rows = [Row(0, "x", picture(7), ("one", None, "three"), many=True), Row(1, "y", picture(9), ("four",), many=True)]
    run = embed_rows(rows, tmp_path, ToyEncoder())
    table = run.pair_table("s")
    assert table["pair_id"].to_pylist() == ["x:0", "x:1", "x:2", "y:0"]
    assert table["row"].to_pylist() == [0, 0, 0, 1]
    assert table["caption_index"].to_pylist() == [0, 1, 2, 0]
    assert table["reason"].to_pylist() == [None, "no caption", None, None]
    zero = np.zeros(2)
    assert np.array_equal(run.image[:], np.stack([image_vector(7), zero, image_vector(7), image_vector(9)]))


def test_reasons(tmp_path: Path) -> None:
    rows = [
        Row(0, "0", picture(1), ("fine",)),
        Row(1, "1", None, ("lost",), reason="failed to download: HTTP 404"),
        Row(2, "2", b"<html>", ("a page",)),
        Row(3, "3", picture(2)[:-30], ("cut off",)),
        Row(4, "4", picture(3), (None,)),
        Row(5, "5", picture(4), (" \n\t",)),
        Row(6, "6", b"", ("nothing",)),
        Row(7, "7", b"<html>", ("the same page",)),
    ]
    encoder = ToyEncoder()
    run = embed_rows(rows, tmp_path, encoder)
    reasons = run.pair_table("s")["reason"].to_pylist()
    assert reasons[:3] == [None, "failed to download: HTTP 404", "not an image (HTML)"]
    assert "PNG" in reasons[3]
    assert reasons[4:] == ["no caption", "empty caption", "empty file", "not an image (HTML)"]
    assert run.readable.tolist() == [True] + [False] * 7
    assert not run.image[1:].any()
    assert not run.text[1:].any()
    assert run.text[:1].any()
    assert encoder.images == [1]  # pictures without a usable caption are not even decoded


def test_vectors_that_are_not_finite_are_unreadable(tmp_path: Path) -> None:
    class Overflowing(ToyEncoder):
        def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
            vectors = super().encode_images(prepared)
            vectors[np.concatenate(prepared) == 5] = np.nan
            return vectors

    run = embed_rows(numbered(0, 10), tmp_path, Overflowing())
    assert np.flatnonzero(~run.readable).tolist() == [5]
    assert run.pair_table("s")["reason"][5].as_py() == "no finite vector"
    assert not run.image[5:6].any()


def test_an_empty_shard(tmp_path: Path) -> None:
    run = embed_rows([], tmp_path, ToyEncoder())
    assert (run.image.shape, run.text.shape) == ((0, 2), (0, 3))


def test_progress_counts_every_row(tmp_path: Path) -> None:
    calls: list[int] = []
    embed_rows(numbered(0, 150), tmp_path, ToyEncoder(), advance=calls.append)
    assert sum(calls) == 150
    assert len(calls) >= 3


@pytest.mark.parametrize(
    "error", [None, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_batches_are_halved_when_memory_runs_out(tmp_path: Path, error: Exception | None) -> None:
    encoder, batch = ToyEncoder(largest=5, error=error), BatchSize(32)
    run = embed_rows(numbered(0, 100), tmp_path, encoder, batch_size=batch)
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(100)]))
    assert encoder.images == list(range(100))
    assert batch.value == 4
    assert sum(count > 5 for count in encoder.batches) == 3  # 32, 16, 8, and never again


def test_no_memory_for_a_single_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The memory of cpu does not suffice for a single item .* smaller --model\."):
        embed_rows(numbered(0, 5), tmp_path, ToyEncoder(largest=0))
    assert not list(tmp_path.rglob("*.*"))


def test_other_errors_are_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        embed_rows(numbered(0, 5), tmp_path, ToyEncoder(largest=0, error=RuntimeError("device-side assert")))


class Together(ToyEncoder):
    """On a GPU; each batch waits until two others are under way too."""

    def __init__(self) -> None:
        super().__init__(device="cuda:0")
        self.most = 0
        self._now = 0
        self._counting = threading.Lock()
        self._three = threading.Barrier(3, timeout=10)

    def _check(self, count: int) -> None:
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)
        self._three.wait()
        time.sleep(0.01)  # a fourth would come now
        with self._counting:
            self._now -= 1


def test_three_batches_are_under_way_on_a_gpu(tmp_path: Path) -> None:
    encoder = Together()
    run = embed_rows(numbered(0, 48), tmp_path, encoder, batch_size=BatchSize(8))  # six batches of each kind
    assert encoder.most == 3
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(48)]))
    assert run.readable.all()


def test_one_batch_at_a_time_elsewhere(tmp_path: Path) -> None:
    encoder = ToyEncoder()
    encoded_in = set()

    def spy(prepared: list[np.ndarray]) -> np.ndarray:
        encoded_in.add(threading.current_thread())
        return ToyEncoder.encode_images(encoder, prepared)

    encoder.encode_images = spy  # type: ignore[method-assign]
    embed_rows(numbered(0, 48), tmp_path, encoder, batch_size=BatchSize(8))
    assert len(encoded_in) == 1
    assert encoder.images == list(range(48))


def test_memory_that_runs_out_later_on_a_gpu(tmp_path: Path) -> None:
    class Shrinking(ToyEncoder):
        def _check(self, count: int) -> None:
            self._largest = 3 if len(self.images) > 20 else 8
            super()._check(count)

    encoder, batch = Shrinking(device="cuda:0"), BatchSize(8)
    run = embed_rows(numbered(0, 100), tmp_path, encoder, batch_size=batch)
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(100)]))
    assert run.readable.all()
    assert sorted(encoder.images) == list(range(100))
    assert batch.value == 2


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_an_error_amid_the_batches_surfaces(tmp_path: Path, device: str) -> None:
    class Failing(ToyEncoder):
        def _check(self, count: int) -> None:
            super()._check(count)
            if len(self.batches) == 5:
                raise ValueError("a bug")

    encoder = Failing(device=device)
    with pytest.raises(ValueError, match="a bug"):
        embed_rows(numbered(0, 100), tmp_path, encoder, batch_size=BatchSize(4))
    assert len(encoder.batches) < 12  # of fifty
    assert not list(tmp_path.rglob("*.*"))


def test_a_gpu_has_two_shards_in_hand(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    class Waiting(ListSource):
        def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
            both.wait()
            return super().rows(shard)

    source = Waiting({f"s{i}": numbered(10 * i, 10) for i in range(4)})
    made: list[str] = []

    def make(device: str) -> ToyEncoder:
        made.append(device)
        return ToyEncoder(device=device)

    embed_source(source, ["cuda:0"], make, tmp_path, fingerprint)
    assert made == ["cuda:0"]
    run = Embeddings.open(tmp_path, [shard.name for shard in source.shards])
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(40)]))


def test_an_interrupt_leaves_promptly(tmp_path: Path) -> None:
    class Slow(ToyEncoder):
        def prepare(self, image: Image.Image) -> np.ndarray:
            time.sleep(0.2)
            return super().prepare(image)

    class Interrupted(ListSource):
        def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
            yield from self._rows[shard.name]
            raise KeyboardInterrupt

    source = Interrupted({"s": numbered(0, 60)})
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), threads(1, "decode") as decoding:
        embed_shard(source, source.shards[0], Slow(), tmp_path, "f", decoding=decoding)
    assert time.perf_counter() - start < 2  # all sixty would take twelve seconds
    assert not part_is_done(tmp_path, "s", "f")


def fingerprint(shard: Shard) -> str:
    return f"toy {shard.fingerprint}"


def test_shards_that_are_done_are_skipped(tmp_path: Path) -> None:
    source = ListSource({name: numbered(10 * i, 10) for i, name in enumerate("abc")})
    rows: list[int] = []
    encoder = ToyEncoder()
    done: list[str] = []
    with threads(2, "decode") as decoding:
        embed_shard(source, source.shards[1], ToyEncoder(), tmp_path, fingerprint(source.shards[1]), decoding=decoding)
    embedded = embed_source(
        source,
        ["cpu"],
        lambda _: encoder,
        tmp_path,
        fingerprint,
        advance=rows.append,
        on_shard_done=lambda shard: done.append(shard.name),
    )
    assert [shard.name for shard in embedded] == done == ["a", "c"]
    assert encoder.images == [*range(10), *range(20, 30)]
    assert sum(rows) == 30

    def no_encoder(_: str) -> ToyEncoder:
        raise AssertionError("nothing is left to do")

    assert embed_source(source, ["cpu", "cpu"], no_encoder, tmp_path, fingerprint) == []
    assert np.array_equal(Embeddings.open(tmp_path, ["c"]).image[:1], [image_vector(20)])


def test_several_devices_work_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=10)

    class Waiting(ToyEncoder):
        def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
            if not self.images:
                together.wait()  # breaks unless both devices are at work at once
            return super().encode_images(prepared)

    source = ListSource({f"s{i}": numbered(10 * i, 10) for i in range(6)})
    encoders = {"cuda:0": Waiting(), "cuda:1": Waiting()}
    embed_source(source, list(encoders), encoders.__getitem__, tmp_path, fingerprint)
    assert sorted(encoders["cuda:0"].images + encoders["cuda:1"].images) == list(range(60))
    run = Embeddings.open(tmp_path, [shard.name for shard in source.shards])
    assert np.array_equal(run.image[:], np.stack([image_vector(i) for i in range(60)]))


@pytest.mark.parametrize("devices", [["cpu", "mps"], ["cuda:0", "cuda:1"]])
def test_the_first_error_stops_all_devices(tmp_path: Path, devices: list[str]) -> None:
    source = ListSource({f"s{i}": numbered(0, 3) for i in range(200)})

    class Steady(ToyEncoder):
        def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
            time.sleep(0.02)
            return super().encode_images(prepared)

    steady = Steady(device=devices[0])
    broken = ToyEncoder(largest=0, error=ValueError("a bug"), device=devices[1])
    with pytest.raises(ValueError, match="a bug"):
        embed_source(
            source, devices, dict(zip(devices, (steady, broken), strict=True)).__getitem__, tmp_path, fingerprint
        )
    assert len(steady.images) < 100


def test_hog_tfidf_needs_no_pytorch(tmp_path: Path) -> None:
    write_shards(draw_scenes(12, seed=0), tmp_path / "shards")
    code = (
        "import sys\n"
        "from pairclean.pipeline import embed\n"
        "embed(sys.argv[1], sys.argv[2], model='hog-tfidf')\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'faiss', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "shards"), str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
    run = Run.open(tmp_path / "run")
    assert Embeddings.open(run.embeddings, run.shards).image.shape == (12, 1152)
    assert run.manifest["device"] == "cpu (float32)"


def test_threads_that_decode_do_not_share_their_work_with_others() -> None:
    """Each resizes on its own; the thread that started them keeps all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads(2, "decode", single_thread) as decoding:
            assert set(decoding.map(lambda _: torch.get_num_threads(), range(20))) == {1}
        with threads(1, "encode") as encoding:
            assert encoding.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
