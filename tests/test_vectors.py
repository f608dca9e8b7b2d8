"""Vectors in memory get the verdicts that a run over the same vectors in files gives them."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pairclean
from pairclean import UserError, Verdict, clean_vectors, vectors
from pairclean.pairs import VERDICT_SCHEMA

N, D = 300, 24


def pairs(seed: int = 0, moved: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of two aligned views; the first `moved` texts belong to the next image."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((N, D))
    text = image + 0.7 * rng.standard_normal((N, D))
    text[:moved] = np.roll(text[:moved], 1, axis=0)
    return image, text


@pytest.mark.parametrize(
    "options", [{}, {"score": "lemon", "method": "zero-shot"}, {"method": "canonical", "pool": "all"}]
)
def test_verdicts_are_those_of_a_run_over_files(options: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "flickr8k_clip"
    run = pairclean.clean(source, tmp_path / "run", **options)
    table = pq.read_table(source / "00000000.parquet")
    with np.load(source / "00000000.npz") as arrays:
        image, text = arrays["b32_img"], arrays["b32_txt"]
    ids, captions = table["uid"].to_pylist(), table["text"].to_pylist()
    found = clean_vectors(image, text, captions=captions, ids=ids, **options)
    expected = run.verdicts()
    assert len(found.verdicts) == 500
    assert found.verdicts.schema == expected.schema == VERDICT_SCHEMA
    assert found.verdicts.drop_columns("shard").equals(expected.drop_columns("shard"))
    assert set(found.verdicts["shard"].to_pylist()) == {"memory"}
    assert found.mismatch_rate == run.report["mismatch_rate"]


def test_noisy_pairs_of_two_modalities_are_found_and_rematched() -> None:
    image, text = pairs()
    text = np.tanh(text @ np.random.default_rng(1).standard_normal((D, 40)) / 5)  # another space, of another length
    found = clean_vectors(image, text, method="canonical")
    frame = found.verdicts.to_pandas()
    noisy = np.arange(N) < 90
    assert frame["pair_id"].tolist() == [f"memory:{i}" for i in range(N)]
    assert frame["similarity"].isna().all()  # the two spaces cannot be compared
    assert (frame["is_noisy"].to_numpy(bool) == noisy).mean() > 0.9
    assert found.learned.method == "canonical"
    assert found.judgement.score in ("first", "aligned")
    assert found.rematches.emitted == (frame["verdict"] == "rematched").sum()
    rate = found.mismatch_rate
    assert rate["low"] <= 0.3 <= rate["high"]


def test_rematches_name_pairs_and_captions_that_were_given() -> None:
    image, text = pairs()
    captions = [f"caption {i}" for i in range(N)]
    found = clean_vectors(image, text, captions=captions, ids=[f"p{i}" for i in range(N)], method="zero-shot")
    rows = [row for row in found.verdicts.to_pylist() if row["verdict"] == "rematched"]
    assert len(rows) > 60
    right = [row["rematch_pair_id"] == f"p{(int(row['pair_id'][1:]) + 1) % 90}" for row in rows]
    assert np.mean(right) > 0.9
    assert all(row["rematch_caption"] == f"caption {row['rematch_pair_id'][1:]}" for row in rows)


GERMAN = "Ein {colour} Hund läuft über die Wiese neben dem Haus Nummer {i}", ("kleiner", "großer", "schwarzer")
ENGLISH = "A {colour} dog is running over the meadow beside the house number {i}", ("small", "big", "black")
CHINESE = "一只{colour}狗在第{i}号房子旁边的草地上奔跑", ("小", "大", "黑")


def shuffled(n: int, moved: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of two aligned views; the first `moved` texts belong to any of these images."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((n, D))
    text = image + 0.7 * rng.standard_normal((n, D))
    text[:moved] = text[rng.permutation(moved)]
    return image, text


def told(language: tuple[str, tuple[str, ...]], count: int) -> list[str]:
    sentence, colours = language
    return [sentence.format(colour=colours[i % 3], i=i) for i in range(count)]


def test_captions_of_a_language_that_the_encoder_may_not_read_are_not_called_mismatched() -> None:
    """Of 300 pairs 255 look mismatched: in German they need not be, in English they are."""
    image, text = shuffled(N, 255)
    english = clean_vectors(image, text, captions=told(ENGLISH, N), method="zero-shot")
    assert english.mismatch_rate["low"] <= 0.85 <= english.mismatch_rate["high"]
    assert not any("language" in note for note in english.judgement.notes)
    german = clean_vectors(image, text, captions=told(GERMAN, N), method="zero-shot")
    assert german.mismatch_rate["estimate"] is None
    assert "not in English (de)" in german.judgement.notes[0]
    assert set(german.verdicts["verdict"].to_pylist()) == {"unjudged"}
    assert set(german.verdicts["reason"].to_pylist()) == {"the encoder cannot read the language of its caption"}


def test_a_language_other_than_english_is_named_where_some_kind_of_captions_looks_mismatched() -> None:
    image, text = shuffled(1000, 190)
    kind = 9 * np.eye(D)[np.repeat(np.arange(5), 200)]
    image, text = image + kind, text + kind
    found = clean_vectors(image, text, captions=told(GERMAN, 1000), method="zero-shot")
    assert found.mismatch_rate["estimate"] is not None
    assert [note for note in found.judgement.notes if "another language than English (de)" in note]


@pytest.mark.parametrize(("chinese", "why"), [(70, "of only 90 captions"), (90, "not in English")])
def test_too_few_captions_that_the_encoder_reads_are_not_judged(chinese: int, why: str) -> None:
    image, text = shuffled(160, chinese)
    captions = [*told(CHINESE, chinese), *told(ENGLISH, 160 - chinese)]
    found = clean_vectors(image, text, captions=captions, method="zero-shot")
    assert why in found.judgement.notes[0]
    reasons = found.verdicts["reason"].to_pylist()
    assert set(reasons[:chinese]) == {"the encoder cannot read the language of its caption"}
    assert set(found.verdicts["verdict"].to_pylist()) == {"unjudged"}


def test_a_placeholder_takes_no_part_in_rematching() -> None:
    """One picture stands where 300 are missing: no caption is a better one for it, and theirs belong to no other."""
    rng = np.random.default_rng(0)
    n, missing, moved = 2000, 300, 400
    latent = rng.standard_normal((n, 64))
    image, text = latent + 0.9 * rng.standard_normal((n, 64)), latent + 0.9 * rng.standard_normal((n, 64))
    image[:missing] = rng.standard_normal(64)
    carried = np.arange(n)
    carried[missing : missing + moved] = missing + rng.permutation(moved)
    found = clean_vectors(image, text[carried], method="zero-shot")
    verdicts = found.verdicts.to_pandas()["verdict"]
    assert (verdicts[:missing] == "noisy").mean() > 0.98
    partner = found.rematches.partner
    assert not (np.isin(partner, np.arange(missing))).any()
    emitted = np.flatnonzero(partner >= 0)
    assert len(emitted) > 0.85 * moved
    assert (carried[partner[emitted]] == emitted).mean() > 0.97
    assert found.rematches.orphans is not None
    assert found.rematches.orphans < 0.1


def test_a_dozen_class_names_are_rematched() -> None:
    """The trials of the calibration take captions away, but no name that other pairs have."""
    rng = np.random.default_rng(3)
    n, moved = 1500, 300
    names, of = rng.standard_normal((12, 64)), rng.integers(0, 12, n)
    image = names[of] + rng.standard_normal((n, 64))
    carried = of.copy()
    carried[:moved] = rng.permutation(carried[:moved])
    found = clean_vectors(image, names[carried], method="zero-shot")
    partner = found.rematches.partner
    emitted = np.flatnonzero(partner >= 0)
    assert len(emitted) > 100
    assert (carried[partner[emitted]] == of[emitted]).mean() > 0.9
    assert found.mismatch_rate["low"] <= (carried != of).mean() <= found.mismatch_rate["high"]


def test_pairs_that_cannot_be_read_say_why() -> None:
    image, text = pairs()
    image[3], text[4] = 0, 0
    captions: list[str | None] = [f"caption {i}" for i in range(N)]
    captions[5], captions[6] = None, " "
    found = clean_vectors(image, text, captions=captions, method="zero-shot").verdicts.to_pylist()
    reasons = {row["row"]: row["reason"] for row in found if row["verdict"] == Verdict.UNREADABLE}
    assert reasons == {
        3: "the image's vector is zero",
        4: "the caption's vector is zero",
        5: "no caption",
        6: "empty caption",
    }


def test_few_pairs_are_not_judged() -> None:
    found = clean_vectors(*(x[:50] for x in pairs()))
    assert set(found.verdicts["verdict"].to_pylist()) == {"unjudged"}
    assert found.mismatch_rate == dict.fromkeys(("estimate", "low", "high", "level"))
    assert len(clean_vectors(*(x[:0] for x in pairs())).verdicts) == 0


def test_images_are_the_same_by_what_is_said_or_by_their_vectors() -> None:
    """Five captions of one image: none of them is a rematch of another."""
    image, text = pairs(moved=0)
    image = image[np.arange(N) // 5]
    by_vector = clean_vectors(image, text, method="zero-shot")
    by_name = clean_vectors(image, text, image_ids=[f"i{i // 5}" for i in range(N)], method="zero-shot")
    by_number = clean_vectors(image, text, image_ids=np.arange(N) // 5 + 7, method="zero-shot")
    for found in (by_vector, by_name, by_number):
        assert len(np.unique(found.learned.image_id)) == N // 5


IMAGE, TEXT = pairs()


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((IMAGE[:-1], TEXT), {}, "there are 299 image vectors and 300 text"),
        ((IMAGE, TEXT), {"captions": ["a"]}, "there are 300 image vectors and 1 captions"),
        ((IMAGE, TEXT), {"ids": ["a"] * 3}, "there are 300 image vectors and 3 ids"),
        ((IMAGE, TEXT), {"ids": ["a"] * N}, r"ids\[1\] is 'a', which is another pair's too"),
        ((IMAGE, TEXT), {"ids": list(range(N))}, r"ids\[0\] is 0: give strings"),
        ((IMAGE, TEXT), {"image_ids": [1]}, "there are 300 image vectors and 1 image_ids"),
        ((IMAGE[0], TEXT), {}, r"image is an array of float64 and shape \(24,\): give a two-dimensional array"),
        ((IMAGE, TEXT.astype(int)), {}, "text is an array of int64"),
        ((np.where(np.arange(N)[:, None] == 7, np.nan, IMAGE), TEXT), {}, r"image\[7\] is not finite"),
        ((IMAGE, TEXT * 1e300), {}, r"text\[0\] is not finite \(and 299 more\)"),
        ((IMAGE, TEXT), {"model": "hog-tfidf"}, "clean_vectors has no option model; it has method, seed"),
        ((IMAGE, TEXT), {"method": "drcl"}, "drcl learns from labels"),
        ((IMAGE, TEXT), {"flag_below": 2}, "--flag-below 2"),
        ((IMAGE, TEXT[:, :9]), {"score": "clip"}, "no similarity of its own to judge by"),
        ((IMAGE, TEXT[:, :9]), {"method": "zero-shot"}, "cannot be compared without learning"),
        ((IMAGE, TEXT[:, :9]), {"comparable": True}, "of one length"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    arguments: tuple[np.ndarray, np.ndarray], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        clean_vectors(*arguments, **options)


def test_the_example_of_its_docstring_runs() -> None:
    assert doctest.testmod(vectors).attempted > 5
    assert doctest.testmod(vectors).failed == 0


class Sharp:
    """Compares by vectors of less noise than those that are given to `clean_vectors`."""

    def __init__(self, seed: int = 0) -> None:
        self.image, self.text = pairs(seed)
        self.seen: set[int] = set()

    def score(self, image_rows: np.ndarray, text_rows: np.ndarray) -> np.ndarray:
        self.seen |= {*image_rows.tolist()}
        return (self.image[image_rows] * self.text[text_rows]).sum(1)


def blurred(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    image, text = pairs(seed)
    return image + 1.2 * rng.standard_normal(image.shape), text + 1.2 * rng.standard_normal(text.shape)


def test_a_scorer_judges_and_rematches_in_place_of_the_vectors() -> None:
    noisy = np.arange(N) < 90
    by_vector = clean_vectors(*blurred(), method="zero-shot")
    scorer = Sharp()
    found = clean_vectors(*blurred(), method="zero-shot", scorer=scorer)
    assert found.judgement.score == "scorer"
    right = [(f.verdicts["is_noisy"].to_numpy(zero_copy_only=False) == noisy).mean() for f in (by_vector, found)]
    assert right[1] > 0.97 > right[0]
    low, high = (found.mismatch_rate[end] for end in ("low", "high"))
    assert low <= 0.3 <= high
    own = (scorer.image * scorer.text).sum(1)
    np.testing.assert_allclose(found.judgement.aligned_similarity, own, rtol=1e-5)
    partner = found.rematches.partner
    given = np.flatnonzero(partner >= 0)
    assert len(given) > 60 > by_vector.rematches.emitted
    assert (partner[given] == (given + 1) % 90).mean() > 0.9


def test_each_fold_is_judged_by_its_own_scorer() -> None:
    fold = np.arange(N) % 2
    one, two = Sharp(), Sharp()
    two.image = two.image * 100  # another unit would be seen, were the two ever mixed within a fold
    found = clean_vectors(*blurred(), method="zero-shot", scorer=[one, two], fold=fold, pool="all")
    own = (one.image * one.text).sum(1)
    np.testing.assert_allclose(found.judgement.aligned_similarity, np.where(fold == 0, own, 100 * own), rtol=1e-5)
    assert two.seen >= set(np.flatnonzero(fold == 1).tolist())
    assert found.rematches.calibrated_on > 0


def test_a_scorer_is_never_asked_for_pairs_that_cannot_be_read() -> None:
    image, text = pairs()
    scorer = Sharp()
    scorer.image[3], scorer.text[4] = np.nan, np.nan
    image[3], text[4] = 0, 0
    found = clean_vectors(image, text, method="zero-shot", scorer=scorer)
    assert [row["row"] for row in found.verdicts.to_pylist() if row["verdict"] == Verdict.UNREADABLE] == [3, 4]
    assert found.judgement.score == "scorer"
    assert scorer.seen == set(range(N)) - {3, 4}


def test_captions_that_are_given_back_are_scored_with_their_own_images() -> None:
    image, text = pairs(moved=0)
    text[100:200] = np.roll(text[100:200], 3, axis=0)
    scorer = Sharp()
    scorer.image, scorer.text = image, text
    found = clean_vectors(image, text, method="zero-shot", repair=True, scorer=scorer)
    assert (found.faults.caption[100:200] == 100 + (np.arange(100) + 3) % 100).all()
    own = (image * text[found.faults.caption]).sum(1)
    np.testing.assert_allclose(found.judgement.aligned_similarity, own, rtol=1e-4, atol=1e-4)
    assert (found.rematches.partner[100:200] == found.faults.caption[100:200]).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scorer": [Sharp(), Sharp()]}, "there are 2 scorers: give fold"),
        ({"scorer": [Sharp(), Sharp()], "fold": [0]}, "there are 300 image vectors and 1 fold"),
        ({"scorer": [Sharp(), Sharp()], "fold": np.arange(N)}, "integers from 0 to 1"),
        ({"scorer": [Sharp(), Sharp()], "fold": np.zeros(N)}, "integers from 0 to 1"),
        ({"fold": np.zeros(N, int)}, "fold says which scorer scores a pair, and no scorer was given"),
        (
            {"scorer": [Sharp(), Sharp()], "fold": np.arange(N) % 2, "image_ids": np.arange(N) // 2},
            "copies of an image are in different folds",
        ),
        ({"scorer": Sharp(), "score": "clip"}, "not by the score clip: leave score out"),
        ({"scorer": len}, "has no method score"),
    ],
)
def test_a_scorer_that_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        clean_vectors(IMAGE, TEXT, method="zero-shot", **options)
