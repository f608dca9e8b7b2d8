"""Captions of which one phrase is another's: they are counted, flagged, and the phrase is named."""

from __future__ import annotations

import numpy as np
import pytest

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs, unit
from pairclean.judge import NOISE_KINDS, CrossFit, Judgement, Learned, Words, judge, learn, read_calibration
from pairclean.judge.decoy_calibration import DecoyCalibration
from pairclean.judge.phrased import PhraseReader
from pairclean.metrics.detection import auroc
from pairclean.pairs import caption_id

N, D, VOCABULARY = 2400, 64, 600
RNG = np.random.default_rng(0)
VECTOR = {f"w{i}": v for i, v in enumerate(unit(RNG.standard_normal((VOCABULARY, D))))}
PARTLY = "partial"


def encode(texts: list[str]) -> np.ndarray:
    """The sum of the words' vectors; noise that is the same for the same text makes the encoder imperfect."""
    return unit(np.array([_sum(text) for text in texts], np.float32))


def _sum(text: str) -> np.ndarray:
    rng = np.random.default_rng(abs(caption_id(text)))
    return np.sum([VECTOR[word] for word in text.split()], 0) + 0.05 * rng.standard_normal(D)


def data(share: float, complete: float = 0.0, seed: int = 1) -> tuple[Pairs, list[str], np.ndarray, list[str]]:
    """Pairs, captions of six words, the kind of each mismatch, and the three words that are another's."""
    rng = np.random.default_rng(seed)
    own = [[f"w{i}" for i in rng.choice(VOCABULARY, 6, replace=False)] for _ in range(N)]
    image = encode([" ".join(words) for words in own]) + 0.2 * rng.standard_normal((N, D))
    kind, captions, wrong = np.full(N, "", object), [" ".join(words) for words in own], [""] * N
    mixed = rng.permutation(N)[: round((share + complete) * N)]
    for i, j in zip(mixed, np.roll(mixed, 1), strict=True):
        kind[i] = PARTLY if rng.random() < share / (share + complete) else "complete"
        if kind[i] == PARTLY:
            start = rng.integers(4)
            wrong[i] = " ".join(own[j][:3])
            captions[i] = " ".join([*own[i][:start], *own[j][:3], *own[i][start + 3 :]])
        else:
            captions[i] = " ".join(own[j])
    ids = np.array([caption_id(caption) for caption in captions])
    return Pairs(unit(image), encode(captions), np.arange(1, N + 1), ids), captions, kind, wrong


def judged(pairs: Pairs, captions: list[str], *, read: bool = True) -> tuple[Judgement, Learned]:
    rows = np.arange(N)
    learned = learn(pairs, rows, method="zero-shot", comparable=True)
    words = Words(lambda rows: [captions[i] for i in rows], encode) if read else None
    return judge(pairs, rows, learned, words=words, comparable=True), learned


@pytest.fixture(scope="module")
def partly_wrong() -> tuple[Judgement, Pairs, list[str], np.ndarray, list[str], Learned]:
    pairs, captions, kind, wrong = data(0.4)
    found, learned = judged(pairs, captions)
    return found, pairs, captions, kind, wrong, learned


Found = tuple[Judgement, Pairs, list[str], np.ndarray, list[str], Learned]


def test_captions_that_are_partly_wrong_are_counted_and_found(partly_wrong: Found) -> None:
    found, pairs, captions, kind, _, _ = partly_wrong
    assert found.rate is not None
    assert found.rate.low <= 0.4 <= found.rate.high
    assert found.rate.parts["partly"]["estimate"] > 0.3
    without, _ = judged(pairs, captions, read=False)
    noisy = kind == PARTLY
    assert auroc(-found.clean_probability, noisy) > auroc(-without.clean_probability, noisy) + 0.01
    flagged = found.clean_probability < 0.5
    assert (found.noise_kind[noisy & flagged] == NOISE_KINDS.index(PARTLY)).mean() > 0.9


def test_the_words_that_do_not_fit_are_named(partly_wrong: Found) -> None:
    found, _, captions, kind, wrong, _ = partly_wrong
    hits = []
    for i in np.flatnonzero(kind == PARTLY):
        start, stop = found.wrong_phrase[i]
        named = captions[i][start:stop].split() if start >= 0 else []
        hits.append(len(set(named) & set(wrong[i].split())) >= 2)
    assert np.mean(hits) > 0.8
    assert (found.wrong_phrase[found.clean_probability >= 0.9] == -1).all()


def test_without_such_captions_nothing_changes() -> None:
    for complete in (0.0, 0.3):
        pairs, captions, _, _ = data(0.0, complete) if complete else data(0.0, 1e-9)
        with_words, without = judged(pairs, captions)[0], judged(pairs, captions, read=False)[0]
        assert (with_words.clean_probability == without.clean_probability).all()
        assert with_words.rate == without.rate


def test_what_was_fitted_can_be_written_down(partly_wrong: Found) -> None:
    calibration = partly_wrong[0].calibration
    assert isinstance(calibration, DecoyCalibration)
    assert calibration.partial is not None
    again = read_calibration(calibration.to_json())
    assert isinstance(again, DecoyCalibration)
    assert again.partial is not None
    assert again.to_json() == calibration.to_json()


def test_the_weakest_phrase_is_the_one_that_fits_least() -> None:
    pairs, captions, _, _ = data(0.0, 1e-9)
    captions[0] = "Shoes"
    cross_fit = CrossFit.single(ZeroShot(), np.arange(N))
    scorers = cross_fit.scores(pairs).scorers
    reader = PhraseReader(cross_fit, scorers, pairs, Words(lambda rows: [captions[i] for i in rows], encode))
    u, span = reader.weakest(np.array([0, 1]))
    assert np.isnan(u[0])
    assert span[0].tolist() == [-1, -1]
    foreign = captions[1].split()[:3] + captions[2].split()[:3]
    v, span = reader.weakest(np.array([1]), [" ".join(foreign)])
    assert v[0] < u[1]
    start, stop = span[0]
    assert " ".join(foreign)[start:stop] == " ".join(foreign[3:])
