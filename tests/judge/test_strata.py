"""The mismatch rate where some captions tell less than others, on generated evidence of which the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from pairclean.judge import binormal, strata
from pairclean.judge.crossfit import ScoredKinds, Scores
from pairclean.judge.decoy_calibration import DecoyCalibration
from pairclean.judge.decoy_fit import calibrate
from pairclean.judge.evidence import Scored
from pairclean.judge.strata import Sample
from pairclean.metrics.detection import auroc, expected_calibration_error

N, DECOYS = 4000, 60_000
#: Evidence of matched pairs, from the vaguest captions to those that tell most.
VAGUE, TELLING = 1.0, 5.5


def drawn(rate: np.ndarray, seed: int, *, vague: float = VAGUE) -> tuple[Sample, Sample, Sample, np.ndarray]:
    """Pairs of which rate[i] are mismatched at random, from vague captions to telling ones; re-pairings at random and
    within kinds; and which pairs are matched."""
    rng = np.random.default_rng(seed)
    n, tells = len(rate), (np.arange(len(rate)) + 0.5) / len(rate)
    matched = rng.random(n) >= rate
    z = np.where(matched, rng.normal(vague + (TELLING - vague) * tells**0.4, 0.9), rng.standard_normal(n))
    v = np.where(matched, 0.3 + 0.5 * z + rng.normal(0, 0.6, n), rng.normal(0, 0.8, n))
    return Sample(z, v, tells, np.ones(n)), *(_decoys(rng, mean) for mean in (0.0, 1.2)), matched


def _decoys(rng: np.random.Generator, mean: float) -> Sample:
    m = DECOYS
    return Sample(rng.normal(mean, 1, m), rng.normal(0, 0.8, m), rng.random(m), np.ones(m))


def test_one_distribution_of_matched_pairs_takes_vague_captions_for_wrong_ones_and_strata_do_not() -> None:
    errors = []
    for seed in range(3):
        pairs, random, _, matched = drawn(np.full(N, 0.35), seed, vague=0.5)
        true = (~matched).mean()
        assert binormal.fit(binormal.histogram(pairs.z)).mismatched > true + 0.015
        needed = strata.fit_needed(pairs, random, [], by_standing=False)
        assert needed is not None
        found, low, high = needed
        assert low <= true <= high
        assert high - low < 0.1
        errors.append(found.mismatched - true)
        assert len(found.models) == strata.MOST
        assert found.models[0].mu < found.models[4].mu - 0.5
    assert np.mean(errors) == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize("ends", [(0.6, 0.1), (0.1, 0.6)])
def test_each_stratum_has_a_rate_of_its_own(ends: tuple[float, float]) -> None:
    pairs, random, _, matched = drawn(np.linspace(*ends, N), 0)
    needed = strata.fit_needed(pairs, random, [], by_standing=False)
    assert needed is not None
    found, low, high = needed
    assert low <= (~matched).mean() <= high
    true = [(~matched[part]).mean() for part in np.array_split(np.arange(N), strata.MOST)]
    np.testing.assert_allclose([model.mismatched for model in found.models], true, atol=0.12)
    np.testing.assert_allclose([model.mismatched for model in found.models[3:]], true[3:], atol=0.06)


def test_pairs_that_are_alike_have_no_strata() -> None:
    pairs, random, _, _ = drawn(np.full(N, 0.3), 0, vague=TELLING)
    assert strata.fit_needed(pairs, random, [], by_standing=False) is None
    uneven, random, _, _ = drawn(np.linspace(0.1, 0.5, N), 0, vague=TELLING)  # the rate differs, matched pairs do not
    assert strata.fit_needed(uneven, random, [], by_standing=False) is None


def test_too_few_pairs_or_spreads_have_no_strata() -> None:
    pairs, random, _, _ = drawn(np.full(2 * strata.PAIRS, 0.3), 0)
    assert strata.fit_needed(pairs, random, [], by_standing=False) is None
    pairs, random, _, _ = drawn(np.full(N, 0.3), 0)
    for spread in (np.ones(N), np.full(N, np.nan)):
        assert strata.fit_needed(replace(pairs, spread=spread), random, [], by_standing=False) is None


def test_mismatches_within_kinds_are_told_apart_by_their_standing() -> None:
    rng = np.random.default_rng(5)
    pairs, random, within, matched = drawn(np.full(N, 0.4), 5)
    of_kind = np.flatnonzero(~matched)[::2]  # half of the mismatches
    pairs.z[of_kind] = rng.normal(1.2, 1, len(of_kind))
    needed = strata.fit_needed(pairs, random, [within] * 3, by_standing=True)
    assert needed is not None
    found, low, high = needed
    assert low <= (~matched).mean() <= high
    assert found.random == pytest.approx(0.2, abs=0.04)
    assert found.within == pytest.approx(0.2, abs=0.04)
    assert all(joint.mismatched == model.mismatched for joint, model in zip(found.joints, found.models, strict=True))


@pytest.mark.parametrize("by_standing", [False, True])
def test_a_share_that_is_given_is_kept(by_standing: bool) -> None:
    pairs, random, within, _ = drawn(np.full(N, 0.35), 1)
    cuts = strata.cuts_of(pairs.spread)
    found = strata.fit(pairs, random, within, cuts, by_standing=by_standing, mismatched=0.25)
    assert found.mismatched == pytest.approx(0.25, abs=2e-3)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("by_standing", [False, True])
def test_the_gradient_is_that_of_the_likelihood(each: bool, by_standing: bool) -> None:
    pairs, random, within, _ = drawn(np.full(1000, 0.3), 2)
    cuts = strata.cuts_of(pairs.spread)
    problem = strata._Problem.of(pairs, random, within, cuts, by_standing=by_standing, each=each, mismatched=0.4)
    rng, s = np.random.default_rng(0), len(cuts) + 1
    shapes = s if each else 1
    line = [0.1, 0.5, -1.7] if by_standing else []  # c below its least
    at = np.r_[rng.normal(-1, 0.3, s), rng.normal(3, 0.3, shapes), rng.normal(0.1, 0.1, shapes), 0.3, line]
    numeric = approx_fprime(at, lambda x: problem(x)[0], 1e-6)
    np.testing.assert_allclose(problem(at)[1], numeric, rtol=1e-3, atol=1e-5 * np.abs(numeric).max())


def scores_of(seed: int, *, spread: bool) -> tuple[Scores, np.ndarray]:
    """Scores of pairs whose captions tell little to much, and which of them are matched."""
    pairs, random, within, matched = drawn(np.full(N, 0.35), seed)

    def scored(sample: Sample) -> Scored:
        of = Scored.plain(sample.z)
        return replace(of, spread=sample.spread if spread else np.full(len(sample.z), np.nan))

    unknown, zero = np.full(N, np.nan), np.zeros(N, np.int64)
    of_pairs = pairs.spread if spread else unknown
    of_kinds = (scored(within),) * 3
    kinds = ScoredKinds(zero, zero, unknown, of_pairs, scored(random), of_kinds, np.ones(N, np.int64), (1, 1))
    return Scores(pairs.z, pairs.z.astype(np.float32), random.z, [], kinds), matched


def test_probabilities_are_calibrated_where_captions_tell_little() -> None:
    plain, matched = scores_of(0, spread=False)
    scores, _ = scores_of(0, spread=True)
    without, found = calibrate(plain), calibrate(scores)
    assert without.strata is None
    assert found.strata is not None
    p, q = found.clean_probability(scores.scored), without.clean_probability(plain.scored)
    assert expected_calibration_error(p, matched) < 0.02
    assert expected_calibration_error(q, matched) > expected_calibration_error(p, matched) + 0.01
    assert auroc(-p, ~matched) > auroc(-q, ~matched) + 0.001
    assert found.rate.estimate == pytest.approx(1 - p.mean(), abs=2e-3)
    assert found.rate.low <= (~matched).mean() <= found.rate.high


def test_the_same_evidence_says_more_of_a_caption_that_tells_much() -> None:
    scores, _ = scores_of(0, spread=True)
    found = calibrate(scores)
    z = np.full(2, 1.0)
    vague, telling = found.clean_probability(replace(Scored.plain(z), spread=np.array([0.05, 0.95])))
    assert vague > telling + 0.1
    unknown = found.clean_probability(Scored.plain(z))[0]
    assert telling < unknown < vague


def test_strata_are_read_back_as_they_were_written() -> None:
    scores, _ = scores_of(1, spread=True)
    found = calibrate(scores)
    again = DecoyCalibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again.strata is not None
    assert np.array_equal(again.clean_probability(scores.scored), found.clean_probability(scores.scored))
    assert again.to_json() == found.to_json()


def test_other_scores_of_the_same_pairs_keep_the_rate() -> None:
    scores, matched = scores_of(1, spread=True)
    found = calibrate(scores)
    better = replace(scores, score=scores.score + 0.5 * matched)
    like = calibrate(better, like=found)
    assert like.strata is not None
    assert found.strata is not None
    assert like.strata.mismatched == pytest.approx(found.strata.mismatched, abs=2e-3)
    assert 1 - like.clean_probability(better.scored).mean() == pytest.approx(found.rate.estimate, abs=0.01)
