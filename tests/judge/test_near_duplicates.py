"""Near-copies by their vectors: found where they are, and not among things that are merely alike."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.judge import assign_folds, near_identities
from pairclean.judge import near_duplicates as module
from pairclean.judge.folds import BOILERPLATE
from pairclean.judge.scores import draw_decoys

N, D = 600, 32


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def kinds(seed: int = 0) -> np.ndarray:
    """Twenty kinds of things, thirty alike ones of each."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.standard_normal((20, D)), N // 20, axis=0) + 0.3 * rng.standard_normal((N, D))


def copies(x: np.ndarray, of: np.ndarray, seed: int = 1) -> np.ndarray:
    """Encoded again: moved by a hundredth of what sets things of one kind apart."""
    return x[of] + 0.003 * np.random.default_rng(seed).standard_normal((len(of), x.shape[1]))


def test_planted_copies_are_found_and_nothing_else() -> None:
    of = np.array([3, 3, 77, 140])
    x = np.vstack([kinds(), copies(kinds(), of)])
    ids = np.random.default_rng(2).permutation(len(x)) * 7 - 1000
    found = near_identities(unit(x), ids, np.arange(len(x)))
    groups = [[3, 600, 601], [77, 602], [140, 603]]
    for group in groups:
        assert set(found[group]) == {ids[group].min()}
    others = np.setdiff1d(np.arange(len(x)), np.concatenate(groups))
    assert np.array_equal(found[others], ids[others])


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_how_near_is_near_goes_by_the_data(scale: float) -> None:
    """All in a narrow cone, as encoders have it: what was apart before is apart still."""
    mean = np.zeros(D)
    mean[0] = 6.0
    of = np.arange(0, N, 20)
    x = scale * np.vstack([kinds(), copies(kinds(), of)]) + mean
    found = near_identities(x.astype(np.float32), np.arange(len(x)), np.arange(len(x)))
    assert np.array_equal(found[N:], of)
    assert np.array_equal(found[:N], np.arange(N))


def test_exact_copies_keep_their_identity_and_what_is_not_asked_for_its_own() -> None:
    x = np.vstack([kinds(), copies(kinds(), np.array([5, 6]))])
    ids = np.arange(len(x))
    ids[9] = ids[8]
    x[9] = x[8]
    found = near_identities(unit(x), ids, np.arange(len(x) - 1))
    assert found[600] == 5
    assert found[601] == 601  # a near-copy of 6, were it readable
    assert found[8] == found[9] == 8
    assert np.array_equal(ids[:8], np.arange(8))  # left as they were


def test_a_template_is_no_copy() -> None:
    """Up to BOILERPLATE hang together as copies; more are captions of one mould."""
    for many, joined in ((BOILERPLATE - 1, True), (BOILERPLATE, False)):
        x = np.vstack([kinds(), copies(kinds(), np.full(many, 3))])
        found = near_identities(unit(x), np.arange(len(x)), np.arange(len(x)))
        assert (len(set(found[[3, *range(N, N + many)]])) == 1) == joined


def test_large_data_are_compared_by_their_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    of = np.arange(0, N, 7)
    x = np.hstack([np.vstack([kinds(), copies(kinds(), of)]), np.zeros((N + len(of), 300))])  # and a projection
    exact = near_identities(unit(x), np.arange(len(x)), np.arange(len(x)))
    monkeypatch.setattr(module, "EXACT", 100)
    monkeypatch.setattr(module, "CHUNK", 128)
    monkeypatch.setattr(module, "SKETCHED", 100)
    found = near_identities(unit(x), np.arange(len(x)), np.arange(len(x)))
    assert (found[N:] == of).mean() > 0.95
    for cores in (1, 5):  # what is found does not depend on how many tables are compared side by side
        monkeypatch.setattr(module, "available_cores", lambda cores=cores: cores)
        assert np.array_equal(near_identities(unit(x), np.arange(len(x)), np.arange(len(x))), found)
    assert (exact[N:] == of).all()
    assert np.array_equal(found[:N], np.arange(N))


def test_sketches_find_copies_up_to_the_largest_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand vectors in a narrow cone, a tenth of them copies at up to a sixth of the usual distance."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3000, 64)) + 3
    usual = np.sqrt(2 * 64)  # of what the cone leaves, between unrelated vectors
    far = np.linspace(0.01, 0.12, 300)[:, None] * usual / 8
    x[-300:] = x[:300] + far * rng.standard_normal((300, 64))
    monkeypatch.setattr(module, "EXACT", 100)
    found = near_identities(x.astype(np.float32), np.arange(3000), np.arange(3000))
    assert (found[-300:] == np.arange(300)).mean() > 0.99
    assert np.array_equal(found[:-300], np.arange(2700))


@pytest.mark.parametrize("few", [0, 5])
def test_sketches_leave_templates_and_equal_vectors_apart(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Half of two thousand vectors are of one mould, or all but a few are equal."""
    monkeypatch.setattr(module, "EXACT", 100)
    x = np.random.default_rng(0).standard_normal((2000, 64))
    if few:
        x[few:] = x[0]
    else:
        x[:1000] = x[0] + 0.001 * x[:1000]
    assert np.array_equal(near_identities(x, np.arange(2000), np.arange(2000)), np.arange(2000))


def test_nothing_to_compare_is_no_error() -> None:
    for n in (0, 1, 2):
        ids = np.arange(n)
        assert np.array_equal(near_identities(unit(kinds()[:n]), ids, ids), ids)
    same = np.ones((5, D), np.float16)
    assert len(near_identities(same, np.arange(5), np.arange(5))) == 5


def test_they_stay_on_one_side_of_a_fold_and_are_nobodys_decoy() -> None:
    of = np.arange(0, N, 4)
    x = np.vstack([kinds(), copies(kinds(), of)])
    image, caption = np.arange(len(x)) * 1024, np.arange(len(x)) + 10**6
    near = near_identities(unit(x), image, np.arange(len(x)))
    fold = assign_folds(near, caption, 5)
    assert np.array_equal(fold[N:], fold[of])
    assert (assign_folds(image, caption, 5)[N:] != fold[of]).any()
    near_text = near_identities(unit(x), caption, np.arange(len(x)))
    left, right = draw_decoys(near, near_text, np.random.default_rng(0), limit=len(x))
    assert not (near_text[left] == near_text[right]).any()
    left, right = draw_decoys(image, caption, np.random.default_rng(0), limit=len(x))
    assert (near_text[left] == near_text[right]).any()
