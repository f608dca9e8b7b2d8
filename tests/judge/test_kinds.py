"""Kinds, evidence, writing systems, and whether two spaces agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from pairclean.arrays import Pairs, unit
from pairclean.judge.agreement import spaces_agree
from pairclean.judge.evidence import EvidenceScale, Scored, probit
from pairclean.judge.kinds import Kinds, PairKinds, Partition, draw_within
from pairclean.judge.languages import language_of, script_codes, script_of


def clustered(n: int = 1200, d: int = 16, kinds: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=n)
    centre = unit(rng.standard_normal((kinds, d)))
    return unit(centre[kind] + 0.1 * rng.standard_normal((n, d))).astype(np.float32), kind


def test_kinds_are_the_clusters_that_there_are() -> None:
    x, kind = clustered()
    ids = np.arange(len(x))
    found = Kinds.fit(x, ids, ids, ids, 18).cluster(x, ids)
    pure = sum(np.bincount(kind[found == k]).max() for k in np.unique(found))
    assert pure > 0.98 * len(x)


def test_a_text_with_many_images_is_a_kind_of_its_own_and_copies_of_a_pair_are_not() -> None:
    x, _ = clustered(300)
    text, image = np.arange(300), np.arange(300)
    text[:20] = 0  # one slogan, twenty images
    text[50:70], image[50:70] = 50, 50  # one pair, twenty times
    kinds = Kinds.fit(x, text, image, np.arange(300), 3)
    assert kinds.repeated.tolist() == [0]
    labels = kinds.with_repeated(kinds.cluster(x, np.arange(300)), text)
    assert (labels[:20] == kinds.clusters).all()
    assert (labels[20:] < kinds.clusters).all()


def test_a_partition_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    x, _ = clustered(400)
    ids = np.arange(400)
    pairs = Pairs(x, x, ids, ids)
    made = Partition.fit(pairs, ids)
    made.save(tmp_path / "kinds.safetensors")
    again = Partition.load(tmp_path / "kinds.safetensors")
    one, other = (PairKinds.of(partition, pairs, ids) for partition in (made, again))
    assert np.array_equal(one.text, other.text)
    assert np.array_equal(one.groups, other.groups)


def test_re_pairings_stay_within_their_group_and_never_meet_their_own() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(-1, 5, size=500)
    image, text = rng.integers(400, size=500), rng.integers(300, size=500)
    left, right = draw_within(groups, image, text, rng, draws=4, limit=10_000)
    assert len(left) > 1000
    assert np.array_equal(groups[left], groups[right])
    assert (groups[left] >= 0).all()
    assert (image[left] != image[right]).all()
    assert (text[left] != text[right]).all()


def test_evidence_of_re_pairings_is_standard_normal_whatever_their_kinds() -> None:
    rng = np.random.default_rng(1)
    image, text = rng.integers(3, size=30_000), rng.integers(4, size=30_000)
    score = rng.standard_normal(30_000) * (1 + text) + 5 * image
    decoys = Scored.of_kinds(score, image, text)
    z = EvidenceScale.fit(decoys)(decoys)
    assert z.mean() == pytest.approx(0, abs=0.02)
    assert z.std() == pytest.approx(1, abs=0.02)


def test_a_probit_is_that_of_the_share_on_either_side_of_a_half() -> None:
    share = np.concatenate([np.geomspace(1e-12, 0.5, 50), 1 - np.geomspace(1e-12, 0.5, 50)])
    np.testing.assert_allclose(probit(np.log(share) - np.log1p(-share)), norm.isf(share), rtol=1e-9, atol=1e-9)
    assert np.isfinite(probit(np.array([-700.0, 0.0, 700.0]))).all()


def test_a_probit_is_exact_in_both_tails() -> None:
    np.testing.assert_allclose(
        probit(np.log([1e-9 / (1 - 1e-9), 0.5 / 0.5, 0.975 / 0.025])), [5.9978, 0, -1.95996], atol=1e-3
    )


@pytest.mark.parametrize(
    ("caption", "script"),
    [("Red shoes, size 9", "LATIN"), ("红色的鞋子 xl", "CJK"), ("Красные туфли", "CYRILLIC"), ("ひらがな 漢字", "CJK")],
)
def test_a_script_is_that_of_most_letters(caption: str, script: str) -> None:
    assert script_of(caption) == script


def test_captions_without_letters_are_of_the_usual_script() -> None:
    assert script_codes(["a", "b", "12", None, "红", ""]).tolist() == [0, 0, 0, 0, 1, 0]


def test_spaces_agree_whoever_is_paired_with_whom_and_foreign_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    image = rng.standard_normal((600, 24)).astype(np.float32)
    text = (image + 0.7 * rng.standard_normal((600, 24)))[rng.permutation(600)].astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((24, 24)))[0].astype(np.float32)
    ids = np.arange(600)
    assert spaces_agree(Pairs(image, text, ids, ids), ids)
    assert not spaces_agree(Pairs(image, text @ turn, ids, ids), ids)


def test_a_language_is_that_of_many_captions() -> None:
    colours, things = ("rotes", "blaues", "grünes", "schwarzes"), ("Hemd", "Kleid", "Fahrrad", "Kissen")
    german = [f"{colour} {thing} für Damen" for colour in colours for thing in things]
    english = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("dress", "bicycle", "shirt")]
    assert language_of(german) == "de"
    assert language_of([*english, "a brown leather wallet for men", "a white shirt with short sleeves"]) == "en"
    assert language_of(["rot"]) == ""
