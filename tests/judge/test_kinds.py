"""Kinds, evidence, writing systems, and whether two spaces agree."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.stats import norm

from pairclean.arrays import Pairs, unit
from pairclean.judge import evidence, languages
from pairclean.judge import kinds as kinds_module
from pairclean.judge.agreement import spaces_agree
from pairclean.judge.decoy_calibration import DecoyCalibration
from pairclean.judge.evidence import EvidenceScale, Scored, probit
from pairclean.judge.kinds import Kinds, PairKinds, Partition, clusters_of, draw_within
from pairclean.judge.languages import language_of, script_codes, script_of, unread_languages


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_clusters_are_the_nearest_centroids_of_each(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_module, "CHUNK", 32)
    x, _ = clustered(300)
    x = (3 * x).astype(dtype)
    several = [Kinds(unit(x[:count].astype(np.float32)), np.zeros(0, np.int64)) for count in (1, 5, 3)]
    rows = np.arange(290, 10, -2)
    found = clusters_of(several, x, rows)
    for of, kinds in zip(found, several, strict=True):
        assert np.array_equal(of, [(kinds.centroids @ x[row].astype(np.float32)).argmax() for row in rows])
    assert not clusters_of(several[:1], x, rows).any()


def test_the_finest_clusters_are_known_also_where_the_data_bring_kinds_along() -> None:
    x, kind = clustered(400)
    ids = np.arange(400)
    pairs = Pairs(x, x[::-1], ids, ids)
    partition, rows = Partition.fit(pairs, ids), np.arange(0, 400, 3)
    expected = partition.fine.cluster(pairs.text, rows)
    for column in (None, kind):
        assert np.array_equal(PairKinds.of(partition, pairs, rows, column).fine, expected)


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


def test_evidence_in_spans_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    decoys = Scored.of_kinds(rng.standard_normal(3000), rng.integers(3, size=3000), rng.integers(4, size=3000))
    scored = Scored.of_kinds(rng.standard_normal(500), rng.integers(4, size=500), rng.integers(5, size=500))
    whole = EvidenceScale.fit(decoys)(scored)
    monkeypatch.setattr(evidence, "SPAN", 64)
    np.testing.assert_array_equal(EvidenceScale.fit(decoys)(scored), whole)
    assert EvidenceScale.fit(decoys)(scored.take(slice(0, 0))).shape == (0,)


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


def slow_script(caption: str) -> str:
    """By the names of all letters that are looked at."""
    letters = [c for c in caption[: 4 * languages.LETTERS] if c.isalpha()][: languages.LETTERS]
    count = Counter(unicodedata.name(c, "").split(" ")[0].split("-")[0] for c in letters)
    name = count.most_common(1)[0][0] if count else ""
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "HANGUL") else name


def test_a_script_is_that_of_the_letters_that_are_looked_at() -> None:
    """Also where the first letter, or the first of another script, stands at the limit."""
    looked_at = 4 * languages.LETTERS
    rng = np.random.default_rng(0)
    alphabet = np.array([*"ab 1,.é", *"жщ", *"红ひカ한", "\u0378", "\U0001f600"])
    captions = ["".join(rng.choice(alphabet, rng.integers(0, 12))) for _ in range(500)]
    captions += ["1" * (looked_at - 1 + more) + letter for more in (0, 1) for letter in "aж"]
    captions += ["a" * some + "ж" * languages.LETTERS for some in (99, 100, 101, 199, 200)]
    captions += ["a" + "1" * looked_at + "жжж", " " * (looked_at - 2) + "жaaa"]
    found = [script_of(caption) for caption in captions]
    assert found == [slow_script(caption) for caption in captions]
    assert {"", "LATIN", "CYRILLIC", "CJK"} <= set(found)


def test_scripts_are_numbered_by_how_common_they_are() -> None:
    captions = ["红", "ж", "a", "", "ж", "1", "b", "ひ", "ж", "ا"]
    assert script_codes(iter(captions)).tolist() == [1, 0, 2, 0, 0, 0, 2, 1, 0, 3]  # of equally many, the first one met
    assert script_codes([]).tolist() == []
    assert script_codes(["", None]).tolist() == [0, 0]


class Told:
    """Takes for the share of mismatched pairs what their evidence is on average."""

    def share_among(self, z: np.ndarray) -> float:
        return float(z.mean())


def test_the_captions_of_all_kinds_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "language_of", lambda captions: captions[0].split(" ")[0])
    rng = np.random.default_rng(0)
    name = np.array(["en", "fi", "en", "de", ""])
    cluster = rng.permutation(np.repeat([-1, 0, 1, 2, 3, 4, 7], [30, 400, 300, 250, 40, 60, 5]))  # 7: too few to judge
    z = np.array([0.3, 0.95, 0.4, 0.5, 0.9])[np.minimum(cluster, 4)]
    asked: list[np.ndarray] = []

    def captions(members: np.ndarray) -> list[str]:
        asked.append(members)
        return [f"{name[k]} {i}" for i, k in zip(members, cluster[members], strict=True)]

    calibration = cast(DecoyCalibration, Told())
    unread = unread_languages(z, calibration, cluster, captions)
    assert np.array_equal(unread, cluster == 1)
    assert len(asked) == 1
    assert np.bincount(cluster[asked[0]]).tolist() == [200, 200, 200, 40, 60]
    assert len(np.unique(asked[0])) == len(asked[0])
    assert not unread_languages(np.full(len(z), 0.5), calibration, cluster, captions).any()
    assert len(asked) == 1  # nothing looks unread, and no language is told


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
