"""What the other captions of an image say of one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs, unit
from pairclean.judge import PairScorers, judge, learn
from pairclean.judge import siblings as siblings_module
from pairclean.judge.crossfit import CrossFit
from pairclean.judge.embedded import Vectors
from pairclean.judge.judgement import Judgement
from pairclean.judge.kinds import PairKinds, Partition
from pairclean.judge.siblings import FEWEST_LOW, HALF, STEEP, Siblings
from pairclean.metrics.detection import auroc

PHOTOS, CAPTIONS = 300, 8


def drawn(seed: int, *, wrong: float = 0.0, together: bool = False) -> tuple[Pairs, np.ndarray]:
    """Photos with captions that the encoder knows little of, and that resemble one another; which pairs are wrong.

    wrong: the share of captions that belong to other photos of the same sort, one by one or all of a photo together.
    """
    rng = np.random.default_rng(seed)
    sort = rng.standard_normal((6, 48))[np.arange(PHOTOS) % 6]
    shown = 1.2 * sort + rng.standard_normal((PHOTOS, 48))
    image = unit((shown + 2.2 * rng.standard_normal(shown.shape)).astype(np.float32))
    said = shown + 0.9 * rng.standard_normal(shown.shape)  # what all captions of a photo have in common
    of = np.repeat(np.arange(PHOTOS), CAPTIONS)
    text = unit((said[of] + 0.8 * rng.standard_normal((len(of), 48))).astype(np.float32))
    carried = np.arange(len(of))
    for members in (np.flatnonzero(np.arange(PHOTOS) % 6 == k) for k in range(6)):
        if together:
            photos = members[rng.random(len(members)) < wrong]
            for photo, other in zip(photos, np.roll(photos, 1), strict=True):
                carried[of == photo] = np.flatnonzero(of == other)
        else:
            rows = np.flatnonzero(np.isin(of, members))
            rows = rows[rng.random(len(rows)) < wrong]
            carried[rows] = rng.permutation(rows)
    pairs = Pairs(image[of], text[carried], of + 10, carried + 10**6)
    return pairs, of[carried] != of


def found(pairs: Pairs) -> Judgement:
    rows = np.arange(len(pairs))
    return judge(pairs, rows, learn(pairs, rows, method="zero-shot", comparable=True), comparable=True)


@pytest.mark.parametrize("chunk", [10, 1000])
def test_agreement_is_with_the_other_captions_of_the_image_by_their_weight(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings_module, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    text = unit(rng.standard_normal((72, 8)).astype(np.float32))
    image_id = np.repeat(np.arange(24), 3)
    image_id[69:] = [90, 91, 92]  # with one caption each
    caption_id = np.arange(72)
    text[1], caption_id[1] = text[0], caption_id[0]  # a copy of pair 0
    standing = 1 + 0.3 * rng.standard_normal(72)
    standing[2::3] = -0.3  # one caption of each image
    standing[7] = np.nan
    siblings = Siblings.of(Vectors(unit, text, np.arange(72)), image_id, caption_id, standing)
    assert siblings is not None
    left, right = rng.integers(0, 72, 200), rng.integers(0, 72, 200)
    agreement, weight = siblings.agreement(left, right)
    mean = text.mean(0)
    trust = np.where(np.isnan(standing), 0, expit(STEEP * (np.nan_to_num(standing) - HALF)))
    for i, j, value, w in zip(left, right, agreement, weight, strict=True):
        others: dict[int, list[np.intp]] = {}
        for k in np.flatnonzero(image_id == image_id[i]):
            if caption_id[k] != caption_id[i]:
                others.setdefault(int(caption_id[k]), []).append(k)
        total = sum(np.mean(trust[ks]) for ks in others.values())
        assert w == pytest.approx(total, abs=1e-5)
        if total > 2e-3:
            expected = sum(np.mean(trust[ks]) * (text[ks[0]] - mean) @ (text[j] - mean) for ks in others.values())
            assert value == pytest.approx(expected / total, abs=1e-4)
        elif total < 5e-4:
            assert np.isnan(value)


def test_other_captions_are_asked_only_where_captions_are_wrong_one_by_one() -> None:
    shares = {}
    for name, moved, together in (("none", 0.0, False), ("one", 0.3, False), ("all", 0.3, True)):
        pairs, _ = drawn(1, wrong=moved, together=together)
        rows = np.arange(len(pairs))
        kinds = PairKinds.of(Partition.fit(pairs, rows), pairs, rows)
        scores = CrossFit.single(ZeroShot(), rows).scores(pairs, kinds)
        assert scores.kinds is not None
        shares[name] = scores.kinds.siblings
    assert shares["none"] == 0
    assert shares["one"] > 0.9
    assert shares["all"] == 0


def test_other_captions_tell_near_misses_that_the_encoder_does_not() -> None:
    pairs, wrong = drawn(2, wrong=0.3)
    with_others = found(pairs)
    # Every pair with a photo of its own: nothing is known but the encoder's similarity.
    alone = found(pairs.with_ids(np.arange(len(pairs)), pairs.caption_id))
    assert auroc(-with_others.clean_probability, wrong) > auroc(-alone.clean_probability, wrong) + 0.1
    assert with_others.rate is not None
    assert with_others.rate.low <= wrong.mean() <= with_others.rate.high
    flagged = with_others.clean_probability < 0.5
    assert wrong[flagged].mean() > 0.9
    assert flagged[wrong].mean() > 0.8


def test_captions_that_moved_together_are_judged_as_if_they_were_alone() -> None:
    pairs, wrong = drawn(3, wrong=0.3, together=True)
    assert auroc(-found(pairs).clean_probability, wrong) > 0.8


def test_a_scorer_does_not_compare_captions() -> None:
    pairs = drawn(1, wrong=0.3)[0].take(np.arange(800))
    rows = np.arange(len(pairs))

    class Products:
        def score(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("ij,ij->i", pairs.image[image_rows], pairs.text[text_rows]))

    scorers = PairScorers.of([Products()], np.zeros(len(rows), np.int64), rows, rows)
    kinds = PairKinds.of(Partition.fit(pairs, rows), pairs, rows)
    scores = scorers.cross_fit(rows).scores(scorers.pairs(pairs), kinds)
    assert scores.kinds is not None
    assert scores.kinds.siblings == 0


def test_too_few_low_captions_say_nothing() -> None:
    rng = np.random.default_rng(4)
    text = unit(rng.standard_normal((100, 8)).astype(np.float32))
    captions = Vectors(unit, text, np.arange(100))
    for low, expected in ((FEWEST_LOW - 1, None), (FEWEST_LOW, Siblings)):
        standing = np.ones(100)
        standing[: 2 * low : 2] = -1  # one of two captions
        made = Siblings.of(captions, np.repeat(np.arange(50), 2), np.arange(100), standing)
        assert made is None if expected is None else isinstance(made, expected)
