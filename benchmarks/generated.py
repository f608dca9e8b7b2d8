"""Pairs of embeddings that look like CLIP's of web data, as many as wanted, and a run over them with captions moved.

A pair shows a scene: a topic (of TOPICS, their sizes falling as in Zipf's law) and what is particular to it, both with
a spectrum that falls by a power. Its picture and its caption are that scene seen with noise of their own, more or less
of it from pair to pair, on top of one large vector a modality (the gap: two pictures or two captions resemble each
other more than a picture resembles its own caption). GENERIC of the captions and pictures say little of their scene and
lie near the middle of everything: hubs. COPIED of the pairs show the scene of another pair: half of these have its
picture, half its caption; half of the copies are exact, half are near (saved again, a full stop more). Vectors are of
DIM dimensions, unit length and half precision.

A picture and a caption belong together if they are of one scene. Chunks of CHUNK pairs are drawn from the seed and
their number, so that whole chunks of a larger set are those of a smaller one; copies are within a chunk.
As drawn here, on 10,000 pairs: cosine AUROC .98 against random re-pairings; the caption nearest to a picture is of its
scene for 72% (`python -m benchmarks.generated` prints both).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib.format import open_memmap

from pairclean.arrays import chunks, unit
from pairclean.config import Config
from pairclean.embed.embed import available_cores
from pairclean.metrics.detection import auroc
from pairclean.pairs import PAIR_SCHEMA
from pairclean.run import Run
from pairclean.run.embedded import Part, embedded_run
from pairclean.synthetic.mismatches import plant

DIM, CHUNK, TOPICS = 512, 65_536, 2000
GENERIC, COPIED = 0.02, 0.06
FALL = 0.4  # deviations along the axes fall by this power
TOPIC = 0.6  # share of a scene's variance that is its topic's
NOISE, UNEVEN = 0.75, 0.6  # deviation of a view's own noise, over that of its scene; spread of its logarithm
GAP, SHARED = 1.0, 0.4  # length of a modality's own vector over that of a scene; cosine of the two modalities'
NEAR = 0.02  # deviation of a near copy, over that of its noise


@dataclass(frozen=True)
class Pairs:
    """image, text: (n, DIM) float16; ids: (n,) int64, the same for exact copies; scene: (n,) int64."""

    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    caption_id: np.ndarray
    scene: np.ndarray


def draw(start: int, stop: int, seed: int = 0) -> Pairs:
    """Pairs start to stop, from one chunk's first on and of one chunk at most."""
    world = np.random.default_rng(seed)
    width = _widths()
    topics = world.standard_normal((TOPICS, DIM), np.float32) * width
    common, *own = unit(world.standard_normal((3, DIM), np.float32))
    gaps = [GAP * (SHARED**0.5 * common + (1 - SHARED) ** 0.5 * x) for x in own]
    rng = np.random.default_rng((seed, start))
    n = stop - start
    popularity = 1 / np.arange(1, TOPICS + 1) ** 0.7
    topic = rng.choice(TOPICS, n, p=popularity / popularity.sum())
    of = np.arange(n)  # whose scene
    copies = np.flatnonzero((rng.random(n) < COPIED) & (of > 0))
    originals = np.setdiff1d(of, copies)
    of[copies] = originals[rng.integers(0, np.maximum(1, np.searchsorted(originals, copies)))]
    scene = TOPIC**0.5 * topics[topic] + (1 - TOPIC) ** 0.5 * rng.standard_normal((n, DIM), np.float32) * width
    kind = rng.random((2, n))
    views, ids = [], []
    for side, gap in enumerate(gaps):
        view = _seen(scene[of], width, gap, rng)
        identity = (rng.permutation(1 << 20)[:n] + 2 * (start << 20)) * 2 + side
        same = copies[(kind[0, copies] < 0.5) == (side == 0)]
        exact = kind[1, same] < 0.5
        view[same] = view[of[same]]
        identity[same[exact]] = identity[of[same[exact]]]
        near = same[~exact]
        view[near] += NEAR * NOISE * width * rng.standard_normal((len(near), DIM), np.float32)
        views.append(unit(view).astype(np.float16))
        ids.append(identity)
    return Pairs(views[0], views[1], ids[0], ids[1], start + of)


def _widths() -> np.ndarray:
    """(DIM,) deviations of a scene along the axes: one in all."""
    width = np.arange(1, DIM + 1) ** -FALL
    found: np.ndarray = (width / np.linalg.norm(width)).astype(np.float32)
    return found


def _seen(scene: np.ndarray, width: np.ndarray, gap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(scene)
    noise = NOISE * np.exp(UNEVEN * rng.standard_normal((n, 1), np.float32))
    told = np.where(rng.random((n, 1)) < GENERIC, np.float32(0.25), np.float32(1))
    return gap + told * (scene + noise * rng.standard_normal((n, DIM), np.float32) * width)


def generated_run(home: Path, n: int, rate: float = 0.4, seed: int = 0, **options: Any) -> tuple[Run, np.ndarray]:
    """A run directory over n pairs, a chunk a shard, embedded already, `rate` of the captions moved.

    Returns the run, and (n, 2) int64 scenes of each pair's picture and of the caption it carries. What is held in
    memory is one chunk per core and the numbers of each pair; captions on their way lie in a file.
    """
    home.mkdir(parents=True)
    carried = plant(np.zeros(n, np.int8), rate, np.random.default_rng(seed))
    scene, caption_id = np.empty((2, n), np.int64)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        texts = open_memmap(Path(folder) / "texts.npy", "w+", np.float16, (n, DIM))
        for part, drawn in _drawn(n, seed):
            texts[part], caption_id[part], scene[part] = drawn.text, drawn.caption_id, drawn.scene

        def parts() -> Iterator[Part]:
            for part, drawn in _drawn(n, seed):
                pairs = _table(part, drawn.image_id, caption_id[carried[part]])
                yield _shard(part), pairs, drawn.image, texts[carried[part]]

        config = Config.make(model="ViT-B-32", seed=seed, **options)
        run = embedded_run(home / "run", config, parts(), encoder={"model": "generated", "comparable": True})
    return run, np.stack([scene, scene[carried]], axis=1)


def _drawn(n: int, seed: int) -> Iterator[tuple[slice, Pairs]]:
    """All chunks in order; as many as there are cores are drawn at once."""
    parts = list(chunks(n, CHUNK))
    with ThreadPoolExecutor(available_cores()) as pool:
        for some in chunks(len(parts), available_cores()):
            yield from zip(
                parts[some], pool.map(lambda part: draw(part.start, part.stop, seed), parts[some]), strict=True
            )


def _shard(part: slice) -> str:
    return f"{part.start // CHUNK:05d}"


def _table(part: slice, image_id: np.ndarray, caption_id: np.ndarray) -> pa.Table:
    n = len(image_id)
    columns = {
        "pair_id": pa.array(np.arange(part.start, part.stop)).cast(pa.string()),
        "shard": pa.repeat(_shard(part), n),
        "row": pa.array(np.arange(n)),
        "caption_index": pa.repeat(pa.scalar(0, pa.int32()), n),
        "caption": pa.array(caption_id).cast(pa.string()),
        "image_id": pa.array(image_id),
        "caption_id": pa.array(caption_id),
        "reason": pa.nulls(n, pa.string()),
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def main(n: int = 10_000) -> None:
    drawn = draw(0, n)
    image, text = (x.astype(np.float32) for x in (drawn.image, drawn.text))
    similarity = image @ text.T
    own, other = np.diag(similarity), similarity[np.arange(n), np.roll(np.arange(n), 1)]
    label = np.repeat([True, False], n)
    nearest = drawn.scene[similarity.argmax(1)] == drawn.scene
    print(f"cosine AUROC {auroc(np.concatenate([own, other]), label):.3f}, nearest caption right {nearest.mean():.3f}")
    print(f"cosines: own {own.mean():.3f} ({own.std():.3f}), other {other.mean():.3f} ({other.std():.3f}),", end=" ")
    within = [float((x[1:] * x[:-1]).sum(1).mean()) for x in (image, text)]
    print(f"two pictures {within[0]:.3f}, two captions {within[1]:.3f}")


if __name__ == "__main__":
    main()
