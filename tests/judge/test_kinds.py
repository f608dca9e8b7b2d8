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
from pairclean.judge.languages import language_of, script_codes, script_of, unread_languages, unread_scripts


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
    """Latin is 0 however common it is, and captions without letters are of the most common one."""
    captions = ["红", "ж", "a", "", "ж", "1", "ひ", "ж", "ا"]
    assert script_codes(iter(captions)).tolist() == [2, 1, 0, 1, 1, 1, 2, 1, 3]
    assert script_codes(["红", "ж", "", "1"]).tolist() == [1, 2, 1, 1]  # of equally many, the first one met
    assert script_codes([]).tolist() == []
    assert script_codes(["", None]).tolist() == [0, 0]


class Told:
    """Takes for the share of mismatched pairs what their evidence is on average."""

    def share_among(self, z: np.ndarray) -> float:
        return float(z.mean())


def told(
    monkeypatch: pytest.MonkeyPatch, languages_of: dict[str, tuple[int, float]]
) -> tuple[dict[str, bool], str, list[np.ndarray], np.ndarray]:
    """languages_of: of each kind the number of its captions, and the share that looks mismatched; the name of a kind is
    its language, and what follows after a space. Which kinds are unread, the language of most, and the pairs whose
    captions were asked for.
    """
    monkeypatch.setattr(languages, "language_of", lambda captions: captions[0].split(" ")[0])
    names = list(languages_of)
    count, share = zip(*languages_of.values(), strict=True)
    cluster = np.random.default_rng(0).permutation(np.repeat(np.arange(-1, len(names)), [30, *count]))
    z = np.append(share, 0.3)[cluster]
    asked: list[np.ndarray] = []

    def captions(members: np.ndarray) -> list[str]:
        asked.append(members)
        return [f"{names[k]} {i}" for i, k in zip(members, cluster[members], strict=True)]

    unread, usual = unread_languages(z, cast(DecoyCalibration, Told()), cluster, captions)
    assert not unread[cluster < 0].any()
    for k in range(len(names)):
        assert len(set(unread[cluster == k])) == 1
    return {name: bool(unread[cluster == k][0]) for k, name in enumerate(names)}, usual, asked, cluster


def test_the_captions_of_all_kinds_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"en": (400, 0.3), "fi": (300, 0.95), "en 2": (250, 0.4), "de": (40, 0.5), "": (60, 0.9), "fr": (5, 1.0)}
    unread, usual, asked, cluster = told(monkeypatch, kinds)
    assert [name for name, there in unread.items() if there] == ["fi"]  # of "fr" there are too few
    assert usual == "en"
    assert len(asked) == 1
    assert np.bincount(cluster[asked[0]]).tolist() == [200, 200, 200, 40, 60]
    assert len(np.unique(asked[0])) == len(asked[0])
    unread, usual, asked, _ = told(monkeypatch, {"en": (400, 0.3), "fi": (300, 0.6)})
    assert (list(unread.values()), usual) == ([False, False], "")
    assert not asked  # nothing looks unread, and no language is told


@pytest.mark.parametrize(
    ("kinds", "unread"),
    [
        ({"de": (900, 0.86)}, ["de"]),
        ({"de": (500, 0.9), "de 2": (300, 0.6), "": (100, 0.9)}, ["de", "de 2", ""]),
        ({"de": (600, 0.9), "en": (300, 0.1)}, ["de"]),  # the language of most is not the one that is read
        ({"de": (600, 0.8), "en": (300, 0.7)}, []),  # read as well as English: wrong captions
        ({"de": (600, 0.4), "de 2": (300, 0.95)}, []),  # a bad kind among good ones
        ({"en": (900, 0.9)}, []),
        ({"en": (600, 0.9), "de": (300, 0.2)}, []),
    ],
)
def test_a_language_of_most_captions_can_be_unread_unless_it_is_english(
    monkeypatch: pytest.MonkeyPatch, kinds: dict[str, tuple[int, float]], unread: list[str]
) -> None:
    found = told(monkeypatch, kinds)[0]
    assert [name for name, there in found.items() if there] == unread


@pytest.mark.parametrize(
    ("shares", "unread"),
    [
        ({"LATIN": (600, 0.1), "CJK": (300, 0.95)}, ["CJK"]),
        ({"LATIN": (300, 0.1), "CJK": (600, 0.95)}, ["CJK"]),
        ({"LATIN": (600, 0.95), "CJK": (300, 0.1)}, []),
        ({"LATIN": (300, 0.95), "CJK": (600, 0.1)}, ["LATIN"]),
        ({"LATIN": (300, 0.8), "CJK": (600, 0.9)}, []),
        ({"CJK": (600, 0.95)}, []),  # its language says more
    ],
)
def test_a_script_of_most_captions_can_be_unread_unless_it_is_latin(
    shares: dict[str, tuple[int, float]], unread: list[str]
) -> None:
    code = {"LATIN": 0, "CJK": 1}
    script = np.concatenate([np.full(n, code[name]) for name, (n, _) in shares.items()])
    z = np.concatenate([np.full(n, share) for n, share in shares.values()])
    found = unread_scripts(z, cast(DecoyCalibration, Told()), script)
    assert np.array_equal(found, np.isin(script, [code[name] for name in unread]))


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
