"""Stage two: learn a common space from the noisy pairs themselves, one model a fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix

from ..align import DRCL, L2RM, RCAR, Alignment, Canonical, Method, ZeroShot
from ..embed import Embeddings
from ..files import write_json
from ..judge import FEWEST, FOLDS, assign_folds, cannot_judge, cross_scores, judge_scores
from ..methods import choose
from ..pairs import UserError
from ..rematch import draw_sure
from ..run import Execution, Run
from ..run.common import emptied, open_embeddings, save_array
from ..run.execution import learning_device, side_by_side
from .identities import find_identities
from .labels import read_labels


def align(run: Run, execution: Execution) -> None:
    """Two rounds: the first learns without trusting any pair (or nothing, where the encoder is aligned already); what
    its out-of-fold scores say about each pair is what the second learns from.

    The first fold's model is the rematcher too: its fold has the pairs to calibrate it with.
    """
    device = learning_device(execution)
    home = emptied(run.path / "model")
    if run.frozen_from:
        shutil.copytree(run.frozen_from.path / "model", home, dirs_exist_ok=True)
        return
    emb, seed, progress = open_embeddings(run), run.config.seed, execution.progress
    rows = np.flatnonzero(emb.readable)
    image_id, caption_id = find_identities(emb, rows, home)
    if len(rows) < FEWEST:
        return
    method = choose(run.config.method, comparable=run.comparable, pairs=len(rows))
    start, learn = _rounds(method, run, emb, device, run.comparable)
    progress.start("align", FOLDS * (start is not None) + FOLDS * (learn is not None))
    fold = assign_folds(image_id[rows], caption_id[rows], FOLDS)
    pairs = (emb.image, emb.text, image_id, caption_id)

    def fit(
        make: Callable[[], Method], names: list[str], learn_from: list[np.ndarray], clean: np.ndarray | None
    ) -> list[Alignment]:
        def one(i: int) -> Alignment:
            return make().fit(*pairs, rows=learn_from[i], clean_probability=clean)

        def keep(i: int, model: Alignment) -> None:
            model.save(home / f"{names[i]}.safetensors")
            progress.advance()

        return side_by_side(one, len(names), device, keep)

    others = [rows[fold != k] for k in range(FOLDS)]
    if start is None:
        models: list[Alignment] = [ZeroShot(device=device)]
        models[0].save(home / "first_0.safetensors")
        if run.config.method == "zero-shot":  # asked for by name: there is nothing to find out
            write_json(home / "method.json", {"method": method})
            return
    else:
        models = fit(start, [f"first_{k}" for k in range(FOLDS)], others, None)
    first = cross_scores(models, *pairs, rows, fold, seed=seed)
    if start is None and cannot_judge(first):
        # The two spaces have as many dimensions and no more in common: learn from nothing, as for spaces that differ.
        method = "l2rm" if method == "zero-shot" else method
        start, learn = _rounds(method, run, emb, device, False)
        assert start is not None
        progress.start("align", 2 * FOLDS)
        models = fit(start, [f"first_{k}" for k in range(FOLDS)], others, None)
        first = cross_scores(models, *pairs, rows, fold, seed=seed)
    judged = None if cannot_judge(first) else judge_scores(first, first, seed=seed)
    if run.config.method == "auto":
        progress.say(f"--method auto took {method}")
    write_json(home / "method.json", {"method": method})
    if learn and judged:
        clean = np.zeros(len(emb))
        clean[rows] = judged.clean_probability(first.score)
        fit(learn, [f"aligned_{k}" for k in range(FOLDS)], others, clean)
        unseen = np.zeros(len(emb))
        unseen[rows[fold == 0]] = clean[rows[fold == 0]]
        save_array(home / "held_out.npy", draw_sure(unseen, np.random.default_rng(seed)))


def _rounds(
    method: str, run: Run, emb: Embeddings, device: str, comparable: bool
) -> tuple[Callable[[], Method] | None, Callable[[], Method] | None]:
    """How the models of the two rounds are made; None for the encoder as it is, and for no second round."""
    seed = run.config.seed

    def canonical() -> Method:
        return Canonical(device=device)

    first = None if comparable else canonical
    if method == "zero-shot":
        if not comparable:
            raise UserError(f"{run.config.model} tells nothing without learning: choose --method l2rm or canonical")
        return None, None
    if method == "canonical":
        return canonical, canonical
    if method == "drcl":
        image_label, caption_label = _labels(run, emb)
        return first, lambda: DRCL(image_label, caption_label, device=device, seed=seed)
    learner = {"l2rm": L2RM, "rcar": RCAR}[method]
    return first, lambda: learner(comparable=comparable, device=device, seed=seed)


def _labels(run: Run, emb: Embeddings) -> tuple[csr_matrix | None, csr_matrix | None]:
    """The classes of the images and of the captions; None where they have to be taken from the other side."""
    config = run.config
    named = (config.image_label_column or config.label_column, config.caption_label_column)
    found = iter(read_labels(run, emb, [column for column in named if column]))
    image, caption = (next(found) if column else None for column in named)
    return image, caption
