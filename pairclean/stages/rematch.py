"""Stage four: which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

from .. import rematch as rematching
from ..embed import resolve_devices
from ..execution import Execution
from ..options import THRESHOLD_RULES
from ..run import Run
from ..run.results import open_embeddings, open_faults, open_judgement, open_learned, save_rematches
from ..scratch import Scratch


def rematch(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("rematch")
    found = rematching.rematch(
        open_embeddings(run).pairs,
        open_learned(run),
        open_judgement(run),
        open_faults(run),
        **{rule: getattr(config, rule) for rule in THRESHOLD_RULES},
        min_precision=config.min_precision,
        capacity=config.capacity,
        pool=config.pool,
        seed=config.seed,
        device=resolve_devices(execution.device)[0],
        scratch=Scratch(run.path),
    )
    save_rematches(run, found)
