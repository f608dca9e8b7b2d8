"""Stage four: which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

from .. import rematch as rematching
from ..embed import resolve_devices
from ..execution import Execution
from ..run import Run
from ..run.results import open_embeddings, open_judgement, open_learned, save_rematches


def rematch(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("rematch")
    found = rematching.rematch(
        open_embeddings(run).pairs,
        open_learned(run),
        open_judgement(run),
        flag_below=config.flag_below,
        keep_fraction=config.keep_fraction,
        min_precision=config.min_precision,
        capacity=config.capacity,
        pool=config.pool,
        seed=config.seed,
        device=resolve_devices(execution.device)[0],
    )
    save_rematches(run, found)
