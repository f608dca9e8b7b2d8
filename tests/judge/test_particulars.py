"""Captions like the pair's own show what random decoys cannot."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import Alignment, ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import CrossFit, keeps_particulars, near_ranks, particulars, separates_better

KINDS, EACH = 12, 40


class OnlyKinds(Alignment):
    """Sees what kind a picture or a caption is of, with less noise than the encoder, and nothing else."""

    def embed_image(self, image: np.ndarray) -> np.ndarray:
        kind = np.asarray(image[:], np.float32).copy()
        kind[:, KINDS:] *= 0.02
        return kind / np.linalg.norm(kind, axis=1, keepdims=True)

    embed_text = embed_image


def world(seed: int = 0) -> Pairs:
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
    return Pairs(x.astype(np.float32), y.astype(np.float32), np.arange(n), 10_000 + carried)


def test_a_model_that_forgets_particulars_is_found_out() -> None:
    pairs = world()
    rows, ranks = np.arange(KINDS * EACH), {}
    for name, model in (("encoder", ZeroShot()), ("kinds", OnlyKinds())):
        cross_fit = CrossFit.single(model, rows)
        ranks[name] = near_ranks(cross_fit, pairs, cross_fit.scores(pairs))
    assert ranks["encoder"].mean() > ranks["kinds"].mean() + 0.05
    assert not keeps_particulars(ranks["kinds"], ranks["encoder"])
    assert keeps_particulars(ranks["encoder"], ranks["kinds"])
    assert keeps_particulars(ranks["encoder"], ranks["encoder"] - 1e-3 * np.linspace(-1, 3, len(rows)))


def test_many_pairs_are_sampled_and_every_space_is_asked_about_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = world(2)
    cross_fit = CrossFit(
        [ZeroShot(), ZeroShot()], np.arange(len(pairs)), np.random.default_rng(0).integers(0, 2, len(pairs))
    )
    single = CrossFit.single(ZeroShot(), np.arange(len(pairs)))
    every = near_ranks(single, pairs, single.scores(pairs))
    monkeypatch.setattr(particulars, "COMPARED", 100)
    of_two, of_one = (near_ranks(of, pairs, of.scores(pairs)) for of in (cross_fit, single))
    np.testing.assert_allclose(of_two, of_one)
    some = np.sort(np.random.default_rng(0).choice(len(pairs), 100, replace=False))
    np.testing.assert_allclose(of_one, every[some])


def test_near_ranks_are_those_of_the_plain_formula() -> None:
    pairs = world(1)
    image, text, _, caption_id = vars(pairs).values()
    cross_fit = CrossFit.single(ZeroShot(), np.arange(len(pairs)))
    scores = cross_fit.scores(pairs)
    found = near_ranks(cross_fit, pairs, scores)
    t = scores.scorers[0].temperature
    similarity = (image @ text.T).astype(np.float64)
    penalty = t * (np.logaddexp.reduce(similarity / t, axis=0) - np.log(len(image)))
    fit = similarity - penalty / 2
    for i in (0, 7, 200, 479):
        like = text @ text[i]
        like[caption_id == caption_id[i]] = -np.inf
        near = np.argsort(-like)[:20]
        assert np.isclose(found[i], (fit[i, near] < fit[i, i]).mean(), atol=0.051)


def test_the_same_scores_are_not_better() -> None:
    pairs = world(2)
    scores = CrossFit.single(ZeroShot(), np.arange(len(pairs))).scores(pairs)
    assert not separates_better(scores, scores)
