"""Stage four: which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

from .. import rematch as rematching
from ..align import ZeroShot
from ..arrays import Space
from ..embed import resolve_devices
from ..execution import Execution
from ..judge import Finding, Learned, find_faults, mend
from ..run import Run
from ..run.results import open_embeddings, open_judgement, open_learned, save_rematches


def rematch(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("rematch")
    emb, learned = open_embeddings(run), open_learned(run)
    # Where captions moved, the judgement itself is of no use: faults are looked for without it.
    space = _space(run, learned)
    findings: list[Finding] = [] if space is None else find_faults(emb.pairs, emb.readable, space)
    found = rematching.rematch(
        emb.pairs,
        learned,
        open_judgement(run),
        flag_below=config.flag_below,
        keep_fraction=config.keep_fraction,
        min_precision=config.min_precision,
        capacity=config.capacity,
        pool=config.pool,
        findings=findings,
        mending=mend(emb.pairs, emb.readable, space, findings) if space is not None and config.repair else None,
        seed=config.seed,
        device=resolve_devices(execution.device)[0],
    )
    save_rematches(run, found)


def _space(run: Run, learned: Learned) -> Space | None:
    """A space in which images and captions can be compared: the encoder's own, or the first that was learned."""
    if run.comparable:
        return ZeroShot()
    return learned.first[0] if learned.first else None
