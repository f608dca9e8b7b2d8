"""What does everything after embedding cost, for 10^4, 10^5, 10^6 and more pairs?  And against exact assignment?

    python -m benchmarks.scale [--sizes N ...] [--method METHOD] [--device DEVICE]
    python -m benchmarks.scale --against scipy [--suspects N]

Pairs are those of `benchmarks.generated`, 40% of their captions moved. Each size is a process of its own, which has
been through a small run before, so that nothing is loaded any more. Seconds are of the clock, `CPU` those that the
process was at work (of all its threads; what counts where something else wants the cores); `exponent` is how that grew
since the size before. `GiB` is the most that the process held itself: what is mapped from files comes and goes with
the page cache. `found` is the share of the moved captions that came home, `precision` the share of what was emitted
that is right, 0.9 being asked for.

Vectors stay in files and come in chunks; on the disk of the run those of the suspects and of their cells take 4 KiB
for each suspect of 512 dimensions, and its edges, some 47, 1.3: 8 bytes each by image, of which room is taken for 64,
8 by caption, and 8 for their masses. 10^7 pairs, half of them suspects, take 25 GiB there, and 20 for the vectors of
the run. In memory, `align` holds 0.6 KiB for each pair while it looks for moved captions, and at most 0.3 more for
spectra of large data; `rematch` 0.4 to 0.65 KiB for each suspect, and 0.1 for each pair. What is freed, of arrays
below 32 MiB, is not all given back to the system: some hundreds of MiB. With little memory for the page cache, each
step of a plan reads all edges from the disk. On a GPU the search takes 3 KiB for a suspect and a side, 30 GiB of 10^7
pairs; what a plan takes there has not been counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.optimize import linear_sum_assignment

from pairclean.arrays import Pairs, chunks, unit
from pairclean.execution import Execution
from pairclean.judge import Reference, reference_rows
from pairclean.metrics.detection import auroc
from pairclean.pipeline import advance
from pairclean.rematch import Pool, RematchOptions, candidates, fit_temperature, propose
from pairclean.rematch.pool import FEWEST_ORPHANS
from pairclean.rematch.products import HalfScorer
from pairclean.run.results import open_judgement, open_rematches
from pairclean.synthetic.mismatches import plant

from .generated import CHUNK, draw, generated_run

SIZES, WARM, SUSPECTS, RATE = (10_000, 100_000, 1_000_000), 2000, 20_000, 0.4
STAGES = ("align", "judge", "rematch")


def measure(home: Path, n: int, method: str, device: str, seed: int = 0) -> dict[str, Any]:
    """Seconds of each stage, and how good what it says is; n pairs, in this process."""
    execution = Execution(device=device)
    advance(generated_run(home / "small", WARM, RATE, seed, method=method)[0], STAGES, execution)
    run, scene = generated_run(home / "one", n, RATE, seed, method=method)
    peak, begun = Peak(), time.process_time()
    advance(run, STAGES, execution)
    cpu = time.process_time() - begun
    seconds = {stage: run.manifest["stages"][stage]["seconds"] for stage in STAGES}
    judged, partner = open_judgement(run), np.array(open_rematches(run).partner)
    clean = np.nan_to_num(judged.clean_probability, nan=0.5)
    assert judged.rate is not None
    noisy, given = scene[:, 0] != scene[:, 1], partner >= 0
    right = given & (scene[partner, 1] == scene[:, 0])
    return {
        **seconds,
        "sum": sum(seconds.values()),
        "CPU": cpu,
        "GiB": peak.stop(),
        "rate error": abs(judged.rate.estimate - float(noisy.mean())),
        "AUROC": auroc(-clean, noisy),
        "found": float(right[noisy].mean()),
        "emitted": int(given.sum()),
        "precision": float(right.sum() / max(1, given.sum())),
    }


def against_scipy(suspects: int, seed: int = 0) -> None:
    """Pairs whose captions were all moved among them: who brings more of them home, and in what time, once each.

    scipy has the exact assignment of largest similarity; what a row or a column adds to all its entries, such as
    hubness, changes no assignment. Both begin with unit vectors in memory.
    """
    n = suspects
    drawn = [draw(part.start, part.stop, seed) for part in chunks(n, CHUNK)]
    image, text = (
        unit(np.concatenate([getattr(d, side) for d in drawn]).astype(np.float32)) for side in ("image", "text")
    )
    scene, image_id, caption_id = (
        np.concatenate([getattr(d, name) for d in drawn]) for name in ("scene", "image_id", "caption_id")
    )
    carried = plant(np.zeros(n), 1.0, np.random.default_rng(seed))
    pairs = Pairs(image, text[carried], image_id, caption_id[carried])
    pool = Pool(pairs, np.full(n, 0.01))
    fitted = fit_temperature(image[:4000], text[:4000])
    rows = reference_rows(np.arange(n), np.random.default_rng(seed))
    reference = Reference(image[rows], text[rows], image_id[rows], caption_id[rows])

    def ours() -> np.ndarray:
        return propose(pool, HalfScorer(reference, fitted), RematchOptions(orphans=FEWEST_ORPHANS)).partner

    def in_cells() -> np.ndarray:
        with mock.patch.object(candidates, "EXACT", 0):
            return ours()

    def exact() -> np.ndarray:
        cost = pairs.image[:] @ pairs.text[:].T
        np.negative(cost, out=cost)
        np.fill_diagonal(cost, 1.0)  # what it has
        return np.asarray(linear_sum_assignment(cost)[1])

    titles = ("suspects", "who", "proposed", "right, of all", "of the proposed", "seconds", "CPU")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for who, rematch in (("pairclean", ours), ("pairclean, cells", in_cells), ("scipy", exact)):
        begun, at = time.perf_counter(), time.process_time()
        partner = rematch()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - at
        proposed = partner >= 0
        right = proposed & (scene[carried][partner] == scene)
        shares = f"{proposed.mean():.4f} | {right.mean():.4f} | {right.sum() / proposed.sum():.4f}"
        print(f"| {n:,} | {who} | {shares} | {seconds:.1f} | {cpu:.1f} |", flush=True)


class Peak:
    """The most memory of its own that this process holds from now on: anonymous pages, looked at ten times a second."""

    def __init__(self) -> None:
        self._most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            self._most = max(self._most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    def stop(self) -> float:
        """GiB."""
        self._over.set()
        self._thread.join()
        return self._most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--method", default="zero-shot")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--against", choices=["scipy"])
    parser.add_argument("--suspects", type=int, default=SUSPECTS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.against:
        against_scipy(args.suspects)
    elif args.one:
        with tempfile.TemporaryDirectory(prefix="pairclean-scale-") as folder:
            print(json.dumps(measure(Path(folder), args.one, args.method, args.device)))
    else:
        grow(args.sizes, args.method, args.device)


def grow(sizes: list[int], method: str, device: str) -> None:
    before: tuple[int, float] | None = None
    for n in sizes:
        command = [sys.executable, "-m", "benchmarks.scale", "--one", str(n), "--method", method]
        out = subprocess.run([*command, "--device", device], check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(out.splitlines()[-1])
        if before is None:
            print("| pairs |", " | ".join([*found, "exponent"]), "|")
            print("|---" * (len(found) + 2) + "|")
        shown = [_shown(key, value) for key, value in found.items()]
        shown.append("" if before is None else f"{np.log(found['CPU'] / before[1]) / np.log(n / before[0]):.2f}")
        print(f"| {n:,} |", " | ".join(shown), "|", flush=True)
        before = n, found["CPU"]


def _shown(key: str, value: float) -> str:
    return f"{value:,.1f}" if key in (*STAGES, "sum", "CPU") else f"{value:.3f}" if value < 100 else f"{value:,}"


if __name__ == "__main__":
    main()
