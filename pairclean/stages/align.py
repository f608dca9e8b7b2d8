"""Stage two: learn a common space from the noisy pairs themselves, one model a fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np

from ..align import L2RM, Alignment, Canonical, Method, ZeroShot
from ..judge import FEWEST, FOLDS, assign_folds, cannot_judge, cross_scores, judge_scores
from ..pairs import UserError
from ..rematch import HELD_OUT, draw_sure
from ..run import Execution, Run
from .common import emptied, learning_device, open_embeddings, save_array, side_by_side


def align(run: Run, execution: Execution) -> None:
    """Two rounds: the first learns without trusting any pair (or nothing, where the encoder is aligned already); what
    its out-of-fold scores say about each pair is what the second learns from, and the rematcher.
    """
    device = learning_device(execution)
    start, learn = _rounds(run, device)
    home = emptied(run.path / "model")
    if run.frozen_from:
        shutil.copytree(run.frozen_from.path / "model", home, dirs_exist_ok=True)
        return
    emb, seed, progress = open_embeddings(run), run.config.seed, execution.progress
    rows = np.flatnonzero(emb.readable)
    if len(rows) < FEWEST:
        return
    progress.start("align", FOLDS * (start is not None) + (FOLDS + 1) * (learn is not None))
    fold = assign_folds(emb.image_id[rows], emb.caption_id[rows], FOLDS)
    pairs = (emb.image, emb.text, emb.image_id, emb.caption_id)

    def fit(
        make: Callable[[], Method], names: list[str], learn_from: list[np.ndarray], clean: np.ndarray | None
    ) -> list[Alignment]:
        def one(i: int) -> Alignment:
            model = make().fit(*pairs, rows=learn_from[i], clean_probability=clean)
            model.save(home / f"{names[i]}.safetensors")
            progress.advance()
            return model

        return side_by_side(one, len(names), device)

    others = [rows[fold != k] for k in range(FOLDS)]
    if start is None:
        models: list[Alignment] = [ZeroShot()]
        models[0].save(home / "first_0.safetensors")
    else:
        models = fit(start, [f"first_{k}" for k in range(FOLDS)], others, None)
    first = cross_scores(models, *pairs, rows, fold, seed=seed)
    if learn and not cannot_judge(first):
        clean = np.zeros(len(emb))
        clean[rows] = judge_scores(first, first, seed=seed).clean_probability(first.score)
        held_out = draw_sure(clean, HELD_OUT, np.random.default_rng(seed))
        save_array(home / "held_out.npy", held_out)
        rest = np.setdiff1d(rows, held_out)
        fit(learn, [f"aligned_{k}" for k in range(FOLDS)] + ["rematcher"], [*others, rest], clean)


def _rounds(run: Run, device: str) -> tuple[Callable[[], Method] | None, Callable[[], Method] | None]:
    """How the models of the two rounds are made; None for the encoder as it is, and for no second round."""
    config, comparable = run.config, run.comparable

    def canonical() -> Method:
        return Canonical(device=device)

    if config.method == "zero-shot":
        if not comparable:
            raise UserError(f"{config.model} tells nothing without learning: choose --method l2rm or canonical")
        return None, None
    if config.method == "canonical":
        return canonical, canonical
    return (None if comparable else canonical), lambda: L2RM(comparable=comparable, device=device, seed=config.seed)
