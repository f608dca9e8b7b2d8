"""Stage two: look for systematic faults, and learn a common space from the pairs themselves, one model per fold."""

from __future__ import annotations

from dataclasses import replace

from scipy.sparse import csr_matrix

from ..embed import Embeddings, resolve_devices
from ..execution import Execution
from ..judge import FEWEST, faults_before, learn_mended
from ..run import Run
from ..run.results import open_embeddings, open_learned, save_faults, save_learned
from .labels import read_kinds, read_labels


def align(run: Run, execution: Execution) -> None:
    emb, config = open_embeddings(run), run.config
    if run.frozen_from:
        # Its models never saw these pairs, and near-copies are not looked for: each pair is judged by itself.
        learned = open_learned(run.frozen_from)
        faults = faults_before(emb.pairs, emb.readable, learned, comparable=run.comparable, repair=config.repair)
        pairs = faults.mended(emb.pairs)
        learned = replace(
            learned, image_id=pairs.image_id, caption_id=pairs.caption_id, kind_column=None, held_out=None
        )
        save_faults(run, faults)
        save_learned(run, learned)
        return
    enough = int(emb.readable.sum()) >= FEWEST
    learned, faults = learn_mended(
        emb.pairs,
        emb.readable,
        comparable=run.comparable,
        repair=config.repair,
        method=config.method,
        labels=_labels(run, emb) if config.method == "drcl" and enough else (None, None),
        kind_column=None if config.kind_column is None else read_kinds(run, emb, config.kind_column),
        seed=config.seed,
        devices=resolve_devices(execution.device),
        progress=execution.progress,
    )
    save_faults(run, faults)
    save_learned(run, learned)


def _labels(run: Run, emb: Embeddings) -> tuple[csr_matrix | None, csr_matrix | None]:
    """The classes of the images and of the captions; None for a side that takes the classes of the other."""
    config = run.config
    named = (config.image_label_column or config.label_column, config.caption_label_column)
    found = iter(read_labels(run, emb, [column for column in named if column]))
    image, caption = (next(found) if column else None for column in named)
    return image, caption
