"""A run over vectors that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import Config
from ..embed import write_part
from .directory import Run
from .source import part_fingerprints

Part = tuple[str, "pa.Table", np.ndarray, np.ndarray]


def embedded_run(
    path: str | Path,
    config: Config,
    parts: Iterable[Part],
    *,
    encoder: dict[str, Any],
    source: str | Path | None = None,
) -> Run:
    """A new run directory that is done up to `embed`, to be continued from `align`.

    parts: for each shard its name, its pairs (PAIR_SCHEMA, n rows), and their image (n, d) and text (n, e) vectors.
    encoder: what the manifest says of it; at least `comparable`.
    source: what the vectors were made from; it has to exist. Without one, the run can be taken as far as `rematch`.
    """
    run = Run.create(path, source or Path(path) / "embeddings", config)
    run.manifest["encoder"] = encoder
    with run.locked("embed"):
        names = []
        for name, pairs, image, text in parts:
            write_part(run.embeddings, name, "given", pairs, image, text)
            names.append(name)
        given = dict.fromkeys(names, "given")
        run.begin_parts(given if source is None else part_fingerprints(run.open_source(), encoder))
        run.set_done("embed", 0.0)
    return run
