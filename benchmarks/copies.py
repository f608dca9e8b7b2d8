"""Are copies of pictures the ones that other programs find?  python -m benchmarks.copies PYTHON

On the fashion photos, about 1% of which are byte-identical to another one. PYTHON is an interpreter that has
CleanVision and imagededup (`python -m venv ENV; ENV/bin/pip install cleanvision imagededup`), which hash the pixels;
pairclean compares the encoder's vectors. Counted are pairs of pictures in one group, in brackets how far the pixels of
near copies differ.
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
#: Programs that write their exact and near duplicates as lists of groups of files: as they come, with their defaults.
CLEANVISION = """
import json, sys
from cleanvision import Imagelab
lab = Imagelab(data_path=sys.argv[1])
lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
json.dump([lab.info[name]["sets"] for name in ("exact_duplicates", "near_duplicates")], open(sys.argv[2], "w"))
"""
IMAGEDEDUP = """
import json, sys
from imagededup.methods import PHash
hashed = PHash(verbose=False)
codes = hashed.encode_images(sys.argv[1], num_enc_workers=0)
found = []
for distance in (0, 10):
    near = hashed.find_duplicates(encoding_map=codes, max_distance_threshold=distance, num_dist_workers=0)
    found.append([[name, other] for name, others in near.items() for other in others])
json.dump(found, open(sys.argv[2], "w"))
"""
PROGRAMS = {"CleanVision": CLEANVISION, "imagededup": IMAGEDEDUP}

Edges = set[tuple[str, str]]


def edges(groups: list[list[str]]) -> Edges:
    return {pair for group in groups for pair in combinations(sorted(group), 2)}


def by_program(python: str, script: str, pictures: dict[str, bytes]) -> tuple[Edges, Edges]:
    """Exact, and exact or near."""
    with tempfile.TemporaryDirectory() as home:
        folder, found = Path(home) / "pictures", Path(home) / "found.json"
        folder.mkdir()
        for key, data in pictures.items():
            (folder / f"{key}.jpg").write_bytes(data)
        subprocess.run([python, "-c", script, folder, found], check=True, stdout=subprocess.DEVNULL)
        sets = json.loads(found.read_text())
    exact, near = (edges([[Path(path).stem for path in one] for one in group]) for group in sets)
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
    ours = {name: by_pairclean(model) for name, model in MODELS.items()}
    print(
        "| encoder | against | exact: both | only pairclean | only the other "
        "| near: both | only pairclean | only the other |\n|---|---|---|---|---|---|---|---|"
    )
    for program, script in PROGRAMS.items():
        their_exact, their_near = by_program(python, script, pictures)
        for name, (exact, near) in ours.items():
            cells = [str(len(exact & their_exact)), str(len(exact - their_exact)), str(len(their_exact - exact))]
            cells.append(difference(pictures, (near & their_near) - exact))
            cells += [difference(pictures, near - their_near), difference(pictures, their_near - near)]
            print(f"| {name} | {program} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
