"""The mismatch rate and the clean probability, on generated scores of which the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pairclean.judge.binormal import ratio_to_random
from pairclean.judge.crossfit import ScoredKinds, Scores
from pairclean.judge.decoy_calibration import DecoyCalibration
from pairclean.judge.decoy_fit import calibrate
from pairclean.judge.decoys import DecoyScale
from pairclean.judge.evidence import Scored
from pairclean.metrics.detection import auroc

N, DECOYS = 4000, 40_000


def scores(rate: float, seed: int, *, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed scores, decoys, and (n,) bool which of the observed are matched. Skewed, as scores of pairs are."""
    rng = np.random.default_rng([seed, round(1000 * rate)])
    matched = np.ones(n, bool)
    matched[: round(rate * n)] = False
    return np.exp((rng.standard_normal(n) + 3 * matched) / 3), np.exp(rng.standard_normal(DECOYS) / 3), matched


def fitted_on(observed: np.ndarray, decoys: np.ndarray) -> DecoyCalibration:
    return calibrate(Scores(observed, observed.astype(np.float32), decoys, []))


def probability(fitted: DecoyCalibration, score: np.ndarray) -> np.ndarray:
    return fitted.clean_probability(Scored.plain(score))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.8])
def test_the_mismatch_rate_is_found(rate: float) -> None:
    found = [fitted_on(*scores(rate, seed)[:2]).rate for seed in range(3)]
    assert [r.estimate for r in found] == pytest.approx([rate] * 3, abs=0.03)
    for r in found:
        assert 0 <= r.low <= r.estimate <= r.high <= 1
        assert r.high - r.low < 0.1


@pytest.mark.slow
def test_the_interval_covers_the_rate() -> None:
    found = [fitted_on(*scores(0.4, seed)[:2]).rate for seed in range(20)]
    assert sum(r.low <= 0.4 <= r.high for r in found) >= 17
    assert np.mean([r.high - r.low for r in found]) < 0.08


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_probabilities_are_calibrated(rate: float) -> None:
    observed, decoys, matched = scores(rate, 7, n=12_000)
    p = probability(fitted_on(observed, decoys), observed)
    bins = np.minimum((p * 10).astype(int), 9)
    error = sum(abs(p[bins == b].mean() - matched[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert error < 0.02
    assert p.mean() == pytest.approx(1 - rate, abs=0.03)
    assert p[matched].mean() > 0.7
    assert p[~matched].mean() < 0.3


def test_probabilities_rise_strictly_with_the_score() -> None:
    for rate in (0.0, 0.3, 0.9):
        observed, decoys, _ = scores(rate, 1)
        fitted = fitted_on(observed, decoys)
        grid = np.linspace(observed.min() - 1, observed.max() + 1, 5000)
        p = probability(fitted, grid)
        assert (np.diff(p) > 0).all()
        assert p.min() >= 0
        assert p.max() <= 1


def test_float32_makes_no_ties_of_scores_that_differ() -> None:
    """By a hundredth of their spread: also where all are surely clean, or surely not."""
    for rate in (0.0, 0.3, 0.9):
        observed, decoys, _ = scores(rate, 2)
        fitted = fitted_on(observed, decoys)
        grid = np.arange(*np.quantile(observed, [0.001, 0.999]), 1e-2 * observed.std())
        p = probability(fitted, grid).astype(np.float32)
        assert (np.diff(p) > 0).all()


def test_the_ranking_is_that_of_the_score() -> None:
    observed, decoys, _ = scores(0.3, 3)
    p = probability(fitted_on(observed, decoys), observed)
    assert np.array_equal(np.argsort(p), np.argsort(observed))


def test_it_is_read_back_as_it_was_written() -> None:
    observed, decoys, _ = scores(0.4, 5)
    fitted = fitted_on(observed, decoys)
    again = DecoyCalibration.from_json(json.loads(json.dumps(fitted.to_json())))
    grid = np.linspace(-1, 10, 999)
    assert np.array_equal(probability(again, grid), probability(fitted, grid))
    assert again.rate == fitted.rate
    assert again.to_json() == fitted.to_json()


def test_scales_of_scores_do_not_matter() -> None:
    observed, decoys, _ = scores(0.4, 10)
    one, other = fitted_on(observed, decoys), fitted_on(1e4 * observed - 7, 1e4 * decoys - 7)
    assert other.rate.estimate == pytest.approx(one.rate.estimate, abs=1e-3)
    np.testing.assert_allclose(probability(other, 1e4 * observed - 7), probability(one, observed), atol=2e-3)


def test_the_scale_is_the_logit_of_the_share_above() -> None:
    decoys = np.random.default_rng(0).uniform(size=100_000)
    scale = DecoyScale.fit(decoys)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert scale(np.array([1 - share]))[0] == pytest.approx(np.log(share / (1 - share)), abs=0.2)
    assert (np.diff(scale(np.linspace(-2, 3, 1000))) < 0).all()


@pytest.mark.parametrize("values", [2, 3, 5])
def test_few_distinct_decoys_are_no_error(values: int) -> None:
    rng = np.random.default_rng(0)
    decoys = rng.integers(values, size=2000).astype(float)
    observed = np.r_[rng.integers(values, size=60).astype(float), np.full(40, values + 1.0)]
    p = probability(fitted_on(observed, decoys), np.array([0.0, values - 1.0, values + 1.0]))
    assert np.isfinite(p).all()
    assert p[0] < p[1] < p[2]


def kinds_of(
    n: int, decoys: np.ndarray, within: np.ndarray, text: np.ndarray | None = None, standing: np.ndarray | None = None
) -> ScoredKinds:
    """One cluster of images and one of captions; `text` names kinds of repeated texts from 1 on.

    Re-pairings stand among others as chance has it.  standing: (n,) of the pairs; None knows of none.
    """
    zero = np.zeros(n, np.int64)
    text = zero if text is None else text
    rng = np.random.default_rng(9)
    random = Scored.of_kinds(decoys, np.zeros(len(decoys), np.int64), np.resize(text, len(decoys)))
    random = replace(random, standing=rng.normal(0, 0.8, len(decoys)))
    of_kind = replace(Scored.plain(within), standing=rng.normal(0, 0.8, len(within)))
    standing = np.full(n, np.nan) if standing is None else standing
    return ScoredKinds(zero, text, standing, np.full(n, np.nan), random, (of_kind,) * 3, np.ones(n, np.int64), (1, 1))


def test_mismatches_within_kinds_are_counted_and_named() -> None:
    """Their scores lie between those of random mismatches and of matches, and they stand out from nothing."""
    rng = np.random.default_rng(0)
    matched = np.arange(3000) >= 1200
    score = np.where(matched, rng.normal(2.9, 0.6, 3000), rng.normal(1.8, 1.0, 3000))
    standing = np.where(matched, 1.7 + 0.8 * (score - 2.9) + rng.normal(0, 0.5, 3000), rng.normal(0, 0.8, 3000))
    decoys, within = rng.standard_normal(DECOYS), rng.normal(1.8, 1.0, 20_000)
    kinds = kinds_of(3000, decoys, within, standing=standing)
    scores = Scores(score, score.astype(np.float32), decoys, [], kinds)
    found = calibrate(scores)
    assert found.rate.estimate == pytest.approx(0.4, abs=0.04)
    assert found.rate.low <= 0.4 <= found.rate.high
    assert found.rate.parts["within_kind"]["estimate"] == pytest.approx(0.4, abs=0.05)
    assert found.rate.parts["random"]["estimate"] < 0.03
    p = found.clean_probability(scores.scored)
    assert ((p < 0.5) == ~matched).mean() > 0.9
    assert found.resembles(scores.scored)[~matched].mean() > 0.9
    again = DecoyCalibration.from_json(json.loads(json.dumps(found.to_json())))
    assert np.array_equal(again.clean_probability(scores.scored), p)


def in_kinds(rates: np.ndarray, n: int = 4000, seed: int = 0) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Scores of n pairs of as many kinds of captions as rates, mismatched within their kinds; the kinds, and which
    pairs are matched."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % len(rates)
    matched = rng.random(n) >= rates[kind]
    score = np.where(matched, rng.normal(2.9, 0.6, n), rng.normal(1.8, 1.0, n))
    standing = np.where(matched, 1.7 + 0.8 * (score - 2.9) + rng.normal(0, 0.5, n), rng.normal(0, 0.8, n))
    decoys, within = rng.standard_normal(DECOYS), rng.normal(1.8, 1.0, 20_000)
    one, ten = kinds_of(n, decoys, within, standing=standing), (1, len(rates))
    random, *parts = (
        replace(part, text_kind=np.arange(len(part.score)) % len(rates)) for part in (one.decoys, *one.within)
    )
    kinds = replace(one, text=kind, decoys=random, within=tuple(parts), clusters=ten)
    return Scores(score, score.astype(np.float32), decoys, [], kinds), kind, matched


def test_a_kind_that_is_far_worse_than_the_others_has_a_rate_of_its_own() -> None:
    rates = np.full(10, 0.01)
    rates[3] = 0.9
    scores, kind, matched = in_kinds(rates)
    found = calibrate(scores)
    assert list(found.apart) == [3]
    assert found.apart[3].mismatched == pytest.approx(0.9, abs=0.05)
    assert found.rate.low <= (~matched).mean() <= found.rate.high
    assert found.rate.estimate == pytest.approx(0.099, abs=0.015)
    assert found.rate.parts["within_kind"]["estimate"] == pytest.approx(0.09, abs=0.015)
    p = found.clean_probability(scores.scored)
    assert (p[(kind == 3) & ~matched] < 0.5).mean() > 0.97
    assert (p[(kind != 3) & matched] < 0.5).mean() < 0.01
    assert found.resembles(scores.scored)[(kind == 3) & ~matched].mean() > 0.9
    again = DecoyCalibration.from_json(json.loads(json.dumps(found.to_json())))
    assert np.array_equal(again.clean_probability(scores.scored), p)
    better = replace(scores, score=scores.score + 0.0)
    assert calibrate(better, like=found).apart[3].mismatched == found.apart[3].mismatched


def test_kinds_with_rates_that_differ_little_share_one() -> None:
    scores, _, matched = in_kinds(np.linspace(0.25, 0.55, 10))
    found = calibrate(scores)
    assert found.apart == {}
    assert found.rate.low <= (~matched).mean() <= found.rate.high


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_no_mismatches_within_kinds_are_seen_where_there_are_none(rate: float) -> None:
    rng = np.random.default_rng(1)
    matched = rng.random(3000) >= rate
    observed = np.where(matched, rng.normal(2.9, 0.6, 3000), rng.standard_normal(3000))
    standing = np.where(matched, 1.7 + 0.8 * (observed - 2.9) + rng.normal(0, 0.5, 3000), rng.normal(0, 0.8, 3000))
    decoys, within = rng.standard_normal(DECOYS), rng.normal(1.8, 1.0, 20_000)
    kinds = kinds_of(3000, decoys, within, standing=standing)
    found = calibrate(Scores(observed, observed.astype(np.float32), decoys, [], kinds))
    assert found.rate.estimate == pytest.approx(rate, abs=0.03)
    assert found.rate.parts["within_kind"]["estimate"] == 0


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_standing_counts_without_mismatches_within_kinds_where_other_captions_speak(rate: float) -> None:
    rng = np.random.default_rng(4)
    matched = rng.random(3000) >= rate
    observed = np.where(matched, rng.normal(1.6, 0.9, 3000), rng.standard_normal(3000))
    standing = np.where(matched, 1.7 + 0.4 * (observed - 1.6) + rng.normal(0, 0.5, 3000), rng.normal(0, 0.8, 3000))
    kinds = kinds_of(3000, rng.standard_normal(DECOYS), rng.normal(1.2, 1.0, 20_000), standing=standing)
    scores = Scores(observed, observed.astype(np.float32), rng.standard_normal(DECOYS), [], kinds)
    alone, spoken_for = calibrate(scores), calibrate(replace(scores, kinds=replace(kinds, siblings=1.0)))
    assert alone.joint is None
    assert spoken_for.joint is not None
    assert spoken_for.rate.low <= (~matched).mean() <= spoken_for.rate.high
    assert spoken_for.rate.high > 0.0012  # no mismatch among 3,000 pairs leaves 1 - .025 ** (1 / 3,000) in doubt
    if rate:
        areas = [auroc(-found.clean_probability(scores.scored), ~matched) for found in (alone, spoken_for)]
        assert areas[1] > areas[0] + 0.03


def test_a_repeated_text_has_a_rate_of_its_own() -> None:
    """A slogan scores well above random re-pairings with any image: its own re-pairings show that it says nothing."""
    rng = np.random.default_rng(2)
    text = np.repeat([0, 1, 2], [2400, 300, 300])  # a cluster, a slogan, and a class name of which a tenth moved
    matched = np.r_[np.ones(2400, bool), np.zeros(300, bool), np.arange(300) >= 30]
    score = np.where(matched, rng.normal(3.2, 0.5, 3000), rng.standard_normal(3000))
    score[text == 1] = rng.normal(2.5, 0.3, 300)
    decoys = rng.standard_normal(DECOYS)
    slogan = np.resize(text, DECOYS) == 1
    decoys[slogan] = rng.normal(2.5, 0.3, int(slogan.sum()))
    kinds = kinds_of(3000, decoys, rng.standard_normal(20_000) - 9, text)
    scores = Scores(score, score.astype(np.float32), decoys, [], kinds)
    found = calibrate(scores)
    p = found.clean_probability(scores.scored)
    assert (p[text == 1] < 0.5).mean() > 0.9
    assert found.identities.generic(scores.scored)[text == 1].all()
    assert not found.identities.generic(scores.scored)[text != 1].any()
    assert found.rate.estimate == pytest.approx(0.11, abs=0.015)
    assert found.rate.parts["generic"]["estimate"] == pytest.approx(0.1, abs=0.01)
    assert (p[(text == 2) & ~matched] < 0.5).mean() > 0.8


def test_a_weak_encoder_gives_a_range_and_decides_little() -> None:
    rng = np.random.default_rng(3)
    decoys = rng.standard_normal(DECOYS)
    for rate in (0.0, 0.3):
        observed = np.where(rng.random(2000) < rate, rng.standard_normal(2000), rng.normal(0.8, 1.0, 2000))
        found = fitted_on(observed, decoys)
        assert found.rate.low <= rate <= found.rate.high
        p, undecided = probability(found, observed), found.undecided(Scored.plain(observed))
        assert ((p < 0.5) & ~undecided).mean() < 0.03
    assert found.rate.why_wide is not None
    assert found.rate.high - found.rate.low > 0.25


def test_an_encoder_that_tells_kinds_and_nothing_within_them_decides_nothing() -> None:
    """All its pairs look like re-pairings within kinds, whether they are right or wrong."""
    rng = np.random.default_rng(5)
    score, within = rng.exponential(1.4, 3000), rng.exponential(1.4, 20_000)
    kinds = kinds_of(3000, rng.standard_normal(DECOYS), within, standing=rng.normal(0, 0.8, 3000))
    scores = Scores(score, score.astype(np.float32), kinds.decoys.score, [], kinds)
    found = calibrate(scores)
    assert found.rate.high == 1
    assert found.rate.why_wide is not None
    p, undecided = found.clean_probability(scores.scored), found.undecided(scores.scored)
    assert ((p < 0.5) & ~undecided).mean() < 0.01


def test_the_rate_does_not_depend_on_evidence_beyond_the_scale() -> None:
    """Among few captions that resemble one another, some re-pairings fit as well as matches, and what lies beyond most
    of them is crowded together."""
    observed, decoys, _ = scores(0.3, 8, n=400)
    few = np.sort(decoys[:4000])
    crowded = few.copy()
    crowded[-40:] = np.linspace(few[-40], np.quantile(observed, 0.97), 40)
    rates = [fitted_on(observed, some).rate for some in (few, crowded)]
    assert rates[0].estimate == pytest.approx(0.3, abs=0.05)
    assert rates[1].estimate == pytest.approx(rates[0].estimate, abs=0.01)


def test_pairs_beyond_the_fitted_evidence_are_matched_wherever_they_are_crowded() -> None:
    """All matched pairs lie between z = 2.3 and 2.8, so that nothing tells what else they look like."""
    rng = np.random.default_rng(6)
    matched = np.arange(400) >= 240
    observed = np.where(matched, rng.uniform(2.3, 2.8, 400), rng.standard_normal(400))
    found = fitted_on(observed, np.sort(rng.standard_normal(DECOYS)))
    assert found.rate.estimate == pytest.approx(0.6, abs=0.02)
    assert ((probability(found, observed) < 0.5) == ~matched).mean() > 0.98


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_crowded_evidence_is_no_mismatch_within_kinds(seed: int) -> None:
    """As above; a matched density with a narrow peak, and mismatches within kinds below it, would fit the crowd."""
    rng = np.random.default_rng(seed)
    matched = rng.random(400) >= 0.3
    score = np.where(matched, rng.normal(3, 1, 400), rng.standard_normal(400))
    standing = np.where(matched, 1.7 + 0.5 * (score - 3) + rng.normal(0, 0.5, 400), rng.normal(0, 0.8, 400))
    decoys = np.sort(rng.standard_normal(4000))
    decoys[-25:] = np.linspace(decoys[-25], np.quantile(score, 0.97), 25)
    kinds = kinds_of(400, decoys, rng.normal(1, 1, 4000), standing=standing)
    found = calibrate(Scores(score, score.astype(np.float32), decoys, [], kinds))
    assert found.joint is None
    assert found.rate.estimate == pytest.approx((~matched).mean(), abs=0.03)


def test_scores_of_another_model_keep_the_rate() -> None:
    observed, decoys, _ = scores(0.4, 6)
    first = fitted_on(observed, decoys)
    better = np.log(observed) * 4
    second = calibrate(Scores(better, better.astype(np.float32), np.log(decoys) * 3, []), like=first)
    assert second.rate == first.rate
    assert second.clean_probability(Scored.plain(better)).mean() == pytest.approx(0.6, abs=0.05)


def test_copies_of_a_pair_count_once() -> None:
    """One mismatched pair, found a thousand times, does not make the interval narrow."""
    observed, decoys, _ = scores(0.1, 7, n=1000)
    again = np.r_[observed, np.full(1000, np.quantile(decoys, 0.3))]
    kinds = kinds_of(2000, decoys, decoys[:100] - 9)
    copies = np.r_[np.ones(1000, np.int64), np.full(1000, 1000)]
    about = ScoredKinds(**{**vars(kinds), "copies": copies})
    found = calibrate(Scores(again, again.astype(np.float32), decoys, [], about))
    assert found.model.mismatched == pytest.approx(0.1, abs=0.03)
    assert found.rate.estimate == pytest.approx(0.55, abs=0.05)


def test_the_rate_among_some_pairs_is_where_its_iteration_ends() -> None:
    observed, decoys, matched = scores(0.4, 3)
    fitted = fitted_on(observed, decoys)
    for some, rate in ((matched | (np.arange(N) % 4 == 0), None), (~matched, 1.0), (matched, 0.0)):
        z = fitted.scale(Scored.plain(observed[some]))
        ratio = ratio_to_random(fitted.model, z)
        share = 0.5
        for _ in range(200):
            share = float(np.mean(share / (share + (1 - share) * ratio)))
        assert fitted.share_among(z) == share
        assert share == pytest.approx(float((~matched[some]).mean()) if rate is None else rate, abs=0.05)
