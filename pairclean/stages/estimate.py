"""How long a run would take: embedding is tried on a few pairs, the later stages are estimated by a formula.

And how much of the run's disk rematching takes.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from ..config import Config
from ..embed import embed_source, encoder_devices, keep_source, load_encoder, weights_are_here
from ..embed.store import metadata_path
from ..execution import Execution
from ..methods import FEW
from ..pairs import Shard, UserError
from ..rematch.candidates import CANDIDATES, EXACT
from ..run.directory import limited
from ..sources import Source, has_vectors

#: Rows that are embedded to measure the speed: on a CPU, on a GPU, and where the source has vectors.
ROWS, ROWS_ON_GPU, ROWS_OF_VECTORS = 256, 1024, 20_000

#: Seconds that align, judge and rematch took for so many pairs (benchmarks/RESULTS.md: two cores, vectors of length
#: 512, nothing learned).
MEASURED = {10_000: (3.1, 4.8, 5.3), 100_000: (10.8, 18.0, 31.4), 1_000_000: (47.4, 56.3, 205.6)}
#: Seconds of learning with l2rm for LONGEST pairs and more, from which on the number of steps stays the same (the same
#: file, 100,000 pairs), and seconds however few pairs there are: with hog-tfidf align took 4.3 s for 240 pairs, 9.8 s
#: for 1,500 and 14.2 s for 4,000 (drawn scenes, two cores).
LEARNING, LEARNING_AT_LEAST, LONGEST = 92.4 - 10.8, 4.0, 27_000
#: Seconds more that judge took for 100,000 pairs with l2rm (the same file).
SCORING = 43.1 - 18.0
#: Processor seconds of export and report for 1,500 and 6,000 small pictures (the same file); linear between and beyond.
WRITING = {"export": (0.29, 0.49), "report": (2.46, 6.22)}
FEWER, MORE = 1_500, 6_000
#: Edges that a suspect has on average, and bytes of an edge, or of its two masses.
EDGES, BYTES_OF_EDGE = 47, 8


def pairs_per_second(source: Source, config: Config, execution: Execution) -> float:
    """The speed of `embed` on this machine, measured on the first rows of the source, without loading the model.

    Raises UserError if the model is not here, or cannot be loaded.
    """
    whole = [shard for shard in source.shards if shard.rows and not shard.broken]
    with tempfile.TemporaryDirectory() as home:
        if has_vectors(source):
            shards = limited(whole, ROWS_OF_VECTORS)
            return _speed(lambda: keep_source(source, Path(home), lambda _: "try", shards=shards), Path(home), shards)
        if not weights_are_here(config.model, config.pretrained):
            raise UserError(f"the weights of {config.model} would have to be downloaded first")
        devices = encoder_devices(config.model, execution.device)
        encoder = load_encoder(
            config.model,
            pretrained=config.pretrained,
            device=devices[0],
            dtype=config.dtype,
            exact=config.exact_preprocessing,
        )

        def embed(shards: list[Shard], folder: Path) -> None:
            embed_source(
                source,
                devices[:1],
                lambda _: encoder,
                folder,
                lambda _: "try",
                shards=shards,
                workers=execution.workers,
            )

        embed(limited(whole, 8), Path(home, "first"))  # which takes longer
        shards = limited(whole, ROWS if devices[0] == "cpu" else ROWS_ON_GPU)
        return len(devices) * _speed(lambda: embed(shards, Path(home, "timed")), Path(home, "timed"), shards)


def _speed(work: Callable[[], object], folder: Path, shards: list[Shard]) -> float:
    """Pairs a second of work that writes the parts of these shards."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return sum(pq.read_metadata(metadata_path(folder, shard.name)).num_rows for shard in shards) / seconds


def later_stages(pairs: int, method: str, *, comparable: bool) -> dict[str, float]:
    """Seconds that the stages after `embed` are estimated to take on two cores, for `pairs` pairs.

    align, judge and rematch: between the sizes that were measured, and beyond them, the time is taken to grow by the
    power of n that leads from one measured size to the next; beyond the largest at least in proportion to n. A learned
    method adds a constant and a share in proportion to n; learning with l2rm takes no longer for more than LONGEST
    pairs.  export and report are linear in n; the time to read and write large pictures comes on top.

    method: of `Config`.  comparable: whether the encoder's image and text vectors are.

    >>> {stage: round(seconds) for stage, seconds in later_stages(100_000, "l2rm", comparable=True).items()}
    {'align': 92, 'judge': 43, 'rematch': 31, 'export': 5, 'report': 85}
    """
    seconds = dict(zip(("align", "judge", "rematch"), (_power(pairs, stage) for stage in range(3)), strict=True))
    learned = method not in ("zero-shot", "canonical") and not (method == "auto" and comparable and pairs < FEW)
    if learned:
        learning = min(pairs, LONGEST) if method in ("auto", "l2rm") else pairs
        seconds["align"] += LEARNING_AT_LEAST + (LEARNING - LEARNING_AT_LEAST) * learning / LONGEST
        seconds["judge"] += SCORING * pairs / 100_000
    for stage, (fewer, more) in WRITING.items():
        seconds[stage] = fewer + (more - fewer) * (pairs - FEWER) / (MORE - FEWER)
    return seconds


def room_to_rematch(pairs: int, dims: tuple[int, int], *, on_cpu: bool) -> int:
    """Bytes that `rematch` takes on the disk of the run while it works, if half of the pairs may be mismatched.

    Their vectors in half precision, and on a CPU from EXACT on once more by cell (in single precision where the
    processor has no instructions for bfloat16, which is not counted here). Their edges by image, with room for as
    many as a suspect can have, and by caption, and the masses of these.

    >>> room_to_rematch(10_000_000, (512, 512), on_cpu=True) // 2**30
    24
    """
    suspects = pairs // 2
    vectors = 2 * sum(dims) * (2 if on_cpu and suspects > EXACT else 1)
    return suspects * (vectors + BYTES_OF_EDGE * (2 * CANDIDATES + 2 * EDGES))


def _power(pairs: int, stage: int) -> float:
    sizes = sorted(MEASURED)
    low = sizes[0] if pairs < sizes[1] else sizes[1]
    high = sizes[sizes.index(low) + 1]
    before, after = MEASURED[low][stage], MEASURED[high][stage]
    exponent = math.log(after / before) / math.log(high / low)
    if pairs > high:
        return float(after * (pairs / high) ** max(1.0, exponent))
    return float(before * (max(pairs, 1) / low) ** exponent)
