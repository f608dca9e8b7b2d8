from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import sys, threading, time
    import numpy as np, torch
    from numpy.lib.format import open_memmap
    from pairclean.paper.data import RegionCaptions
    from pairclean.paper.draws import SeededDraws
    from pairclean.paper.networks import Architecture, RetrievalModel
    from pairclean.paper.training import Settings, Training

    def held():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 2**20

    peak = 0.0
    def watch():
        global peak
        while True:
            peak = max(peak, held())
            time.sleep(0.01)

    torch.set_num_threads(1)
    threading.Thread(target=watch, daemon=True).start()
    open_memmap(sys.argv[1], "w+", np.float32, (29_000, 36, 2048))  # sparse: it takes no room on the disk
    images = np.load(sys.argv[1], mmap_mode="r")
    rng = np.random.default_rng(0)
    captions = [rng.integers(4, 500, rng.integers(6, 24)) for _ in range(145_000)]
    data = RegionCaptions(images, captions, np.arange(145_000) // 5)
    training = Training(RetrievalModel(Architecture(words=500)), data, Settings(), SeededDraws(0))
    step = next(training.run_epoch())
    print(np.isfinite(step.loss), peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_a_file_of_the_size_of_flickr30k_opens_and_steps_in_four_gib(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "train_ims.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    finite, peak = done.stdout.split()
    assert finite == "True"
    assert 0.2 < float(peak) < 4, f"{peak} GiB"
