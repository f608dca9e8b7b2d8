"""How fast is the page of `pairclean review`, and does its memory grow?  python -m benchmarks.review_page [--run RUN]

A run over the photos of `coco2k` with four tenths of the captions moved is reviewed in Chromium, 300 questions, by keys
alone, a fifth of a second each. Measured from the key that answers a question to the frame that shows the next picture;
memory of the page (heap after a collection, and resident set of its process) and of the server (resident set) after 50
questions and after all.
"""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import pairclean

from .common import MODELS, SHARED

# The driver of the tests, which are no package.
Chromium = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "review" / "chromium.py"))["Chromium"]
QUESTIONS, EARLY = 300, 50
LOOK = 0.2  # seconds at every picture
WATCH = """
window.marker = true; window.waits = [];
let pressed = 0;
document.addEventListener("keydown", (event) => { if ("123".includes(event.key)) pressed = performance.now(); }, true);
new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => waits.push(performance.now() - pressed), 0)))
  .observe(document.getElementById("figure"), { childList: true });
"""


def reviewed_run(home: Path) -> Path:
    pairclean.plant(SHARED / "data" / "coco2k", home / "planted", rate=0.4)
    return pairclean.clean(home / "planted", home / "run", model=MODELS["coco2k"]).path


def resident(process: int) -> float:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def memory(browser: Any, tab: Any, server: int) -> dict[str, float]:
    """MiB of the page's heap, the page's process and the server."""
    for _ in range(2):
        tab.call("HeapProfiler.collectGarbage")
    heap = tab.call("Runtime.getHeapUsage")["usedSize"] / 2**20
    pages = [one["id"] for one in browser.call("SystemInfo.getProcessInfo")["processInfo"] if one["type"] == "renderer"]
    return {"page, heap": heap, "page, process": max(map(resident, pages)), "server": resident(server)}


def review(browser: Any, address: str, server: int) -> tuple[np.ndarray, list[dict[str, float]]]:
    """(QUESTIONS,) milliseconds until the next picture, and the memory at EARLY and at the end."""
    tab = browser.tab(address)
    tab.wait("typeof busy === 'boolean' && !busy && state !== null")
    tab.run(WATCH)
    found = []
    for number in range(1, QUESTIONS + 1):
        time.sleep(LOOK)
        captions = tab.run("shown.captions.length")
        for _ in range(captions):
            tab.press("13"[number % 2])
        tab.wait(f"!busy && state.answered === {number} && waits.length === {number}")
        if number in (EARLY, QUESTIONS):
            found.append(memory(browser, tab, server))
    assert tab.run("window.marker && performance.getEntriesByType('navigation').length === 1"), "the page was reloaded"
    return np.array(tab.run("waits")), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run that has not been reviewed, instead of a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = options.run or reviewed_run(home)
        command: list[Any] = [Path(sys.executable).with_name("pairclean"), "review", run, "--no-open", "--labels", 300]
        with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                address = server.stderr.readline().split()[4]
                with Chromium(home / "profile") as browser:
                    waits, (early, late) = review(browser, address, server.pid)
            finally:
                server.kill()
    half, most = np.percentile(waits, [50, 95])
    print(f"next picture: median {half:.0f} ms, 95th percentile {most:.0f} ms, longest {waits.max():.0f} ms\n")
    print(f"| MiB | after {EARLY} | after {QUESTIONS} |\n|---|---|---|")
    for name in early:
        print(f"| {name} | {early[name]:.1f} | {late[name]:.1f} |")


if __name__ == "__main__":
    main()
