"""Captions that moved together are found with their rows; data without such a fault give no finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pairclean.align import ZeroShot
from pairclean.arrays import Pairs
from pairclean.judge import diagonals
from pairclean.judge.offsets import Faults, Finding, find_faults, places, probabilities

N = 1200


def world(seed: int, *, alike: float = 0.0, n: int = N) -> Pairs:
    """Matched pairs of a fair encoder.  alike: how much rows close to each other have in common, as in a catalogue."""
    rng = np.random.default_rng(seed)
    topics = np.repeat(rng.standard_normal((n // 10 + 1, 32)), 10, axis=0)[:n]
    shared = rng.standard_normal((n, 32)) + alike * topics
    image, text = (shared + 0.9 * rng.standard_normal((n, 32)) for _ in range(2))
    return Pairs(image.astype(np.float32), text.astype(np.float32), np.arange(n), n + np.arange(n))


def carrying(pairs: Pairs, captions: np.ndarray) -> Pairs:
    """The same images, each with the caption of the pair `captions` (n,)."""
    return Pairs(pairs.image, pairs.text[captions], pairs.image_id, pairs.caption_id[captions])


def faults(pairs: Pairs) -> list[Finding]:
    return find_faults(pairs, np.ones(len(pairs), bool), ZeroShot())


def block(start: int, stop: int, moved: np.ndarray) -> np.ndarray:
    captions = np.arange(N)
    captions[start:stop] = captions[start:stop][moved]
    return captions


def scattered(rate: float, rng: np.random.Generator) -> np.ndarray:
    captions, rows = np.arange(N), rng.permutation(N)[: round(rate * N)]
    captions[rows] = np.roll(rows, 1)
    return captions


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("by", [1, -2, 7])
def test_a_shifted_range_is_found_and_goes_round_in_a_circle(by: int, alike: float) -> None:
    pairs = world(1, alike=alike)
    (found,) = faults(carrying(pairs, block(400, 700, np.roll(np.arange(300), by))))
    assert (found.kind, found.offset, found.wraps) == ("shifted", by, True)
    assert abs(found.start - 400) <= 5
    assert abs(found.stop - 700) <= 5
    assert found.p_value < 0.01
    assert found.z > 5


def test_a_shift_to_the_end_does_not_wrap() -> None:
    """A row was lost, and everything after it moved up; the last caption is nobody's."""
    pairs = world(2)
    captions = np.minimum(np.arange(N) + (np.arange(N) >= 500), N - 1)
    (found,) = faults(carrying(pairs, captions))
    assert (found.offset, found.wraps) == (-1, False)
    assert abs(found.start - 501) <= 3
    assert found.stop >= N - 2
    assert (found.moved(found.rows) == found.rows - 1).all()


def test_each_lost_row_adds_one_to_the_offset() -> None:
    captions = np.arange(N) + np.searchsorted([300, 700], np.arange(N), side="right")
    found = faults(carrying(world(3), np.minimum(captions, N - 1)))
    assert [f.offset for f in found] == [-1, -2]


def test_reversed_captions() -> None:
    (found,) = faults(carrying(world(4), block(300, 700, np.arange(400)[::-1])))
    assert (found.kind, found.offset) == ("reversed", 999)
    assert abs(found.start - 300) <= 5
    assert abs(found.stop - 700) <= 5
    assert found.moved(np.array([300, 699])).tolist() == [699, 300]


def test_two_swapped_blocks() -> None:
    captions = np.arange(N)
    captions[100:300], captions[800:1000] = np.arange(800, 1000), np.arange(100, 300)
    first, second = faults(carrying(world(5), captions))
    assert (first.offset, second.offset) == (700, -700)
    assert abs(first.start - 100) <= 5
    assert abs(second.stop - 1000) <= 5


def test_large_data_are_searched_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far offsets within reach of a window, and, by projected vectors, offsets beyond it."""
    monkeypatch.setattr(diagonals, "WINDOW", 200)
    monkeypatch.setattr(diagonals, "CHUNK", 64)
    monkeypatch.setattr(diagonals, "CACHED", 50)
    monkeypatch.setattr(diagonals, "available_cores", lambda: 3)
    captions = np.arange(N)
    captions[0:150], captions[160:310] = np.arange(160, 310), np.arange(0, 150)
    captions[400:600], captions[1000:1200] = np.arange(1000, 1200), np.arange(400, 600)
    assert [found.offset for found in faults(carrying(world(6), captions))] == [160, -160, 600, -600]


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_scattered_mismatches_are_no_systematic_fault(rate: float, alike: float) -> None:
    for seed in range(10):
        pairs = world(seed, alike=alike)
        assert faults(carrying(pairs, scattered(rate, np.random.default_rng(seed)))) == []


def test_captions_mixed_among_neighbours_are_no_shift() -> None:
    for seed in range(10):
        mixed = (np.random.default_rng(seed).permuted(np.arange(N).reshape(-1, 5), axis=1)).ravel()
        assert faults(carrying(world(seed, alike=1.0), mixed)) == []


def test_the_same_data_twice_are_no_fault() -> None:
    once = world(7, n=600)
    twice = Pairs.joined(once, once)
    assert faults(carrying(twice, scattered(0.3, np.random.default_rng(0)))) == []


def test_several_captions_per_image_are_no_fault() -> None:
    pairs = world(8)
    rows = np.arange(N) // 5 * 5
    assert faults(Pairs(pairs.image[rows], pairs.text, pairs.image_id[rows], pairs.caption_id)) == []


def test_one_caption_copied_down() -> None:
    captions = np.arange(N)
    captions[500:560] = 500
    (found,) = faults(carrying(world(9), captions))
    assert (found.kind, found.start, found.stop) == ("repeated", 500, 560)


def test_a_caption_that_many_pairs_have_makes_runs_by_chance() -> None:
    rng = np.random.default_rng(10)
    captions = np.where(rng.random(N) < 0.8, 0, np.arange(N))
    assert faults(carrying(world(10), captions)) == []


def test_unreadable_pairs_keep_their_rows() -> None:
    pairs, readable = carrying(world(11), block(400, 700, np.roll(np.arange(300), 1))), np.ones(N, bool)
    readable[450:460] = False
    (found,) = find_faults(pairs, readable, ZeroShot())
    assert abs(found.start - 400) <= 5
    assert abs(found.stop - 700) <= 5
    place, probability = places(pairs, readable, ZeroShot(), [found])
    assert (place[450:460] == np.arange(450, 460)).all()
    assert np.isnan(probability[~readable]).all()
    assert (np.sort(place) == np.arange(N)).all()
    assert (place[460:690] == np.arange(461, 691)).all()


def test_too_few_pairs_to_tell() -> None:
    assert faults(carrying(world(12), np.roll(np.arange(N), 1)).take(np.arange(40))) == []


def test_every_caption_is_given_back() -> None:
    shifted = carrying(world(13), block(400, 700, np.roll(np.arange(300), 1)))
    shifted = Pairs(shifted.image, shifted.text, shifted.image_id, shifted.caption_id.copy())
    shifted.caption_id[500] = shifted.caption_id[501]  # one text in two rows in succession
    finding = Finding("shifted", 400, 700, 1, 20.0, 1e-9, wraps=True)
    mended = Faults([finding], *places(shifted, np.ones(N, bool), ZeroShot(), [finding]), repaired=True)
    rows = np.arange(400, 700)
    assert (mended.caption[rows] == np.where(rows < 699, rows + 1, 400)).all()
    assert (np.flatnonzero(mended.moved) == rows).all()
    assert (np.flatnonzero(mended.strays(shifted.caption_id)) == np.delete(rows, 100)).all()
    assert mended.probability[rows].mean() > 0.95
    assert mended.probability[500] > 0.9
    assert np.isnan(np.delete(mended.probability, rows)).all()
    assert mended.doubt == 1e-9
    back = mended.mended(shifted)
    assert (back.text[400:700] == world(13).text[400:700]).all()
    assert (back.take(np.array([499, 699])).caption_id == shifted.caption_id[[500, 400]]).all()


def test_images_whose_caption_is_given_away_get_what_is_left() -> None:
    """A row was lost before 501: its caption is nobody's, and the image before has none any more."""
    captions = np.minimum(np.arange(N) + (np.arange(N) >= 500), N - 1)
    pairs = carrying(world(2), captions)
    finding = Finding("shifted", 501, N, -1, 20.0, 1e-9)
    place, probability = places(pairs, np.ones(N, bool), ZeroShot(), [finding])
    assert place[500] == N - 1
    assert np.isnan(probability[500])
    assert (place[501:] == np.arange(500, N - 1)).all()


def test_without_repair_all_pairs_stay_as_they_are() -> None:
    shifted = carrying(world(1), block(400, 700, np.roll(np.arange(300), 1)))
    found = Faults.of(shifted, np.ones(N, bool), ZeroShot())
    assert len(found.findings) == 1
    assert 250 < found.moved.sum() < 350
    assert (found.caption == np.arange(N)).all()
    assert found.mended(shifted) is shifted
    assert Faults.of(shifted, np.ones(N, bool), None, repair=True).findings == []


def test_photos_of_a_weak_encoder(shared: Path) -> None:
    """One shard of ten, in data that are in runs of one topic."""
    (file,) = (shared / "data" / "coco2k" / "tinyclip").glob("*.npz")
    with np.load(file) as vectors:
        image, text = vectors["b32_img"].astype(np.float32), vectors["b32_txt"].astype(np.float32)
    n = len(image)
    pairs = Pairs(image, text, np.arange(n), n + np.arange(n))
    assert faults(pairs) == []
    captions = np.arange(n)
    captions[400:600] = np.roll(captions[400:600], 2)
    moved = carrying(pairs, captions)
    (found,) = faults(moved)
    assert found.offset == 2
    now = captions[places(moved, np.ones(n, bool), ZeroShot(), [found])[0]]
    assert (now == np.arange(n))[400:600].mean() >= 0.98


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_probabilities_say_how_many_are_right(share: float) -> None:
    rng = np.random.default_rng(14)
    right = rng.random(1000) < share
    score = np.where(right, rng.normal(2.0, 0.8, 1000), rng.standard_normal(1000))
    probability = probabilities(score, rng.standard_normal(20_000))
    assert abs(probability.mean() - share) < 0.06
    if share < 1:
        assert abs(probability[score > 1.0].mean() - right[score > 1.0].mean()) < 0.05
