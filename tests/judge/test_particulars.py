"""Captions like the pair's own show what random decoys cannot."""

from __future__ import annotations

import numpy as np

from pairclean.align import Alignment, ZeroShot
from pairclean.judge import cross_scores, keeps_particulars, near_ranks, separates_better

KINDS, EACH = 12, 40


class OnlyKinds(Alignment):
    """Sees what kind a picture or a caption is of, with less noise than the encoder, and nothing else."""

    def embed_image(self, image: np.ndarray) -> np.ndarray:
        kind = np.asarray(image[:], np.float32).copy()
        kind[:, KINDS:] *= 0.02
        return kind / np.linalg.norm(kind, axis=1, keepdims=True)

    embed_text = embed_image


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a kind (the first KINDS dimensions) with particulars of their own, 40% swapped inside their kind."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(KINDS), EACH)
    n = len(kind)
    meaning = np.hstack([1.2 * np.eye(KINDS)[kind], 0.35 * rng.standard_normal((n, 24))])
    image, text = (meaning + 0.12 * rng.standard_normal(meaning.shape) for _ in range(2))
    carried = np.arange(n)
    for k in range(KINDS):
        chosen = rng.permutation(np.flatnonzero(kind == k))[: int(0.4 * EACH)]
        carried[chosen] = np.roll(chosen, 1)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text[carried]))
    return x.astype(np.float32), y.astype(np.float32), np.arange(n), 10_000 + carried


def test_a_model_that_forgets_particulars_is_found_out() -> None:
    pairs = world()
    rows, fold = np.arange(KINDS * EACH), np.zeros(KINDS * EACH, np.int64)
    ranks = {}
    for name, model in (("encoder", ZeroShot()), ("kinds", OnlyKinds())):
        scores = cross_scores([model], *pairs, rows, fold)
        ranks[name] = near_ranks([model], scores, *pairs, rows, fold)
    assert ranks["encoder"].mean() > ranks["kinds"].mean() + 0.05
    assert not keeps_particulars(ranks["kinds"], ranks["encoder"])
    assert keeps_particulars(ranks["encoder"], ranks["kinds"])
    assert keeps_particulars(ranks["encoder"], ranks["encoder"] - 1e-3 * np.linspace(-1, 3, len(rows)))


def test_near_ranks_are_those_of_the_plain_formula() -> None:
    image, text, image_id, caption_id = world(1)
    rows, fold = np.arange(len(image)), np.zeros(len(image), np.int64)
    scores = cross_scores([ZeroShot()], image, text, image_id, caption_id, rows, fold)
    found = near_ranks([ZeroShot()], scores, image, text, image_id, caption_id, rows, fold)
    t = scores.scorers[0].temperature
    similarity = (image @ text.T).astype(np.float64)
    level = t * (np.logaddexp.reduce(similarity / t, axis=0) - np.log(len(image)))
    fit = similarity - level / 2
    for i in (0, 7, 200, 479):
        like = text @ text[i]
        like[caption_id == caption_id[i]] = -np.inf
        near = np.argsort(-like)[:20]
        assert np.isclose(found[i], (fit[i, near] < fit[i, i]).mean(), atol=0.051)


def test_the_same_scores_are_not_better() -> None:
    pairs = world(2)
    rows, fold = np.arange(KINDS * EACH), np.zeros(KINDS * EACH, np.int64)
    scores = cross_scores([ZeroShot()], *pairs, rows, fold)
    assert not separates_better(scores, scores)
