"""Are copies of pictures the ones that CleanVision finds?  python -m benchmarks.copies PYTHON

On the fashion photos, about 1% of which are byte-identical to another one. PYTHON is an interpreter that has
CleanVision (`python -m venv ENV; ENV/bin/pip install cleanvision`), which hashes the pixels; pairclean compares the
encoder's vectors. Counted are pairs of pictures in one group, in brackets how far the pixels of near copies differ.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import SHARED
from pairclean.arrays import Pairs
from pairclean.embed import Embeddings
from pairclean.judge import near_identities
from pairclean.pipeline import embed
from pairclean.run import Run

SOURCE = SHARED / "data" / "fashion"
MODELS = {"hog-tfidf": "hog-tfidf", "tinyclip": f"local-dir:{SHARED}/models/tinyclip"}
CLEANVISION = """
import json, sys
from cleanvision import Imagelab
lab = Imagelab(data_path=sys.argv[1])
lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
json.dump({name: lab.info[name]["sets"] for name in ("exact_duplicates", "near_duplicates")}, open(sys.argv[2], "w"))
"""

Edges = set[tuple[str, str]]


def edges(groups: list[list[str]]) -> Edges:
    return {pair for group in groups for pair in combinations(sorted(group), 2)}


def by_cleanvision(python: str, pictures: dict[str, bytes]) -> tuple[Edges, Edges]:
    """Exact, and exact or near."""
    with tempfile.TemporaryDirectory() as home:
        folder, found = Path(home) / "pictures", Path(home) / "found.json"
        folder.mkdir()
        for key, data in pictures.items():
            (folder / f"{key}.jpg").write_bytes(data)
        subprocess.run([python, "-c", CLEANVISION, folder, found], check=True, stdout=subprocess.DEVNULL)
        sets = json.loads(found.read_text())
    exact, near = (edges([[Path(path).stem for path in one] for one in group]) for group in sets.values())
    return exact, exact | near


def by_pairclean(model: str) -> tuple[Edges, Edges]:
    with tempfile.TemporaryDirectory() as home:
        embed(SOURCE, Path(home) / "run", model=model)
        run = Run.open(Path(home) / "run")
        emb = Embeddings.open(run.embeddings, run.shards)
        pairs: Pairs = emb.pairs
        keys = [key for shard in run.shards for key in emb.pair_table(shard)["pair_id"].to_pylist()]
        rows = np.flatnonzero(emb.readable)
        identities = pairs.image_id, near_identities(pairs.image, pairs.image_id, rows)

    def grouped(identity: np.ndarray) -> Edges:
        groups: dict[int, list[str]] = {}
        for row in rows:
            groups.setdefault(int(identity[row]), []).append(keys[row])
        return edges(list(groups.values()))

    exact, near = map(grouped, identities)
    return exact, near


def difference(pictures: dict[str, bytes], found: Edges) -> str:
    """The median and the largest mean difference of grey values, of 255, at 64 x 64 pixels."""

    def grey(key: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(pictures[key])).convert("L").resize((64, 64)), float)

    gaps = [float(np.abs(grey(a) - grey(b)).mean()) for a, b in sorted(found)]
    return f"{len(gaps)} ({np.median(gaps):.1f}, {max(gaps):.1f})" if gaps else "0"


def main(python: str) -> None:
    tables = [pq.read_table(file, columns=["key", "jpg"]) for file in sorted(SOURCE.glob("*.parquet"))]
    pictures = {
        key: data
        for table in tables
        for key, data in zip(table["key"].to_pylist(), table["jpg"].to_pylist(), strict=True)
        if data is not None
    }
    their_exact, their_near = by_cleanvision(python, pictures)
    print(
        "| encoder | exact: both | only pairclean | only CleanVision "
        "| near: both | only pairclean | only CleanVision |\n|---|---|---|---|---|---|---|"
    )
    for name, model in MODELS.items():
        exact, near = by_pairclean(model)
        cells = [str(len(exact & their_exact)), str(len(exact - their_exact)), str(len(their_exact - exact))]
        cells.append(difference(pictures, (near & their_near) - exact))
        cells += [difference(pictures, near - their_near), difference(pictures, their_near - near)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
