"""The built-in encoder's features, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from pairclean.embed.hog_tfidf import CELLS, ORIENTATIONS, SIDE, HogTfidf
from pairclean.synthetic.drawing import draw_picture, sample_scene

HOG, THUMB = CELLS * CELLS * ORIENTATIONS, CELLS * CELLS * 3


@pytest.fixture(scope="module")
def encoder() -> HogTfidf:
    return HogTfidf()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [draw_picture(sample_scene(rng), rng) for _ in range(6)]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3))
@example(["a", "a an", "Straße  İstanbul\u00a0x", "don't  stop\t a_b 42", "", " "])
def test_captions_are_hashed_as_scikit_learn_does(captions: list[str]) -> None:
    word = r"(?u)\b\w+\b"
    vectorisers = [
        HashingVectorizer(n_features=1024, token_pattern=word, norm="l2"),
        HashingVectorizer(n_features=512, token_pattern=word, ngram_range=(2, 2), norm="l2"),
        HashingVectorizer(n_features=512, analyzer="char_wb", ngram_range=(3, 4), norm="l2"),
    ]
    expected = normalize(np.hstack([one.transform(captions).toarray() for one in vectorisers]))
    np.testing.assert_allclose(HogTfidf().encode_captions(captions), expected, atol=1e-6)


def halves() -> Image.Image:
    """Left half pure red, right half pure blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 255
    return Image.fromarray(pixels)


def test_shapes_and_lengths(encoder: HogTfidf, pictures: list[Image.Image]) -> None:
    images = encoder.encode_images([encoder.prepare(p) for p in pictures])
    texts = encoder.encode_captions(["two red circles", "a"])
    assert images.shape == (6, encoder.image_dim) == (6, 576 + 192 + 384)
    assert texts.shape == (2, encoder.text_dim) == (2, 2048)
    for found in (images, texts):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    groups = np.split(images[0], [HOG, HOG + THUMB])
    assert [np.linalg.norm(g) for g in groups] == pytest.approx([3**-0.5] * 3, abs=1e-5)
    assert not encoder.comparable


def test_colour_histograms_by_hand(encoder: HogTfidf) -> None:
    """Roots of shares of a 4x4x4 cube: red is bin 3·16 = 48, blue bin 3. Whole, middle, then the quadrants."""
    found = encoder.prepare(halves())[HOG + THUMB :].reshape(6, 64)
    expected = np.zeros((6, 64))
    expected[:2, 48] = expected[:2, 3] = 0.5**0.5
    expected[[2, 4], 48] = expected[[3, 5], 3] = 1  # the left quadrants, the right ones
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


def test_the_thumbnail_by_hand(encoder: HogTfidf) -> None:
    found = encoder.prepare(halves())[HOG : HOG + THUMB].reshape(8, 8, 3)
    expected = np.full((8, 8, 3), -0.5)
    expected[:, :4, 0] = expected[:, 4:, 2] = 0.5
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize(("axis", "bins"), [(1, [0]), (0, [4, 5])])
def test_edges_are_in_their_orientation(encoder: HogTfidf, axis: int, bins: list[int]) -> None:
    """Stripes across x have gradients at 0°, stripes across y at 90°, half way between the bins at 80° and 100°."""
    wave = 127.5 + 120 * np.sin(np.arange(SIDE) * 2 * np.pi / 32)
    grey = np.broadcast_to(wave if axis == 1 else wave[:, None], (SIDE, SIDE)).astype(np.uint8)
    image = Image.fromarray(np.repeat(grey[:, :, None], 3, 2))
    found = encoder.prepare(image)[:HOG].reshape(CELLS * CELLS, ORIENTATIONS)
    share = (found**2).sum(0) / (found**2).sum()
    assert share[bins].sum() > 0.99
    assert share[bins].min() > 0.99 / len(bins) - 0.01


def test_a_vector_does_not_depend_on_its_batch(encoder: HogTfidf, pictures: list[Image.Image]) -> None:
    captions = ["a red dog", "two blue circles on the left", "IMG_2041.jpg", "日本語の説明"]
    prepared = [encoder.prepare(p) for p in pictures]
    together, texts = encoder.encode_images(prepared), encoder.encode_captions(captions)
    other = HogTfidf()
    for i, picture in enumerate(pictures):
        assert np.array_equal(other.encode_images([other.prepare(picture)])[0], together[i])
    for i, caption in enumerate(captions):
        assert np.array_equal(other.encode_captions([caption])[0], texts[i])
    assert np.array_equal(encoder.encode_images(prepared[::-1]), together[::-1])


def test_what_differs_has_other_vectors(encoder: HogTfidf, pictures: list[Image.Image]) -> None:
    def vector(picture: Image.Image) -> np.ndarray:
        return encoder.encode_images([encoder.prepare(picture)])[0]

    for picture in pictures[:3]:
        own = vector(picture)
        assert own @ vector(ImageOps.mirror(picture)) < 0.99
        assert own @ vector(ImageOps.flip(picture)) < 0.99
        assert own @ vector(ImageOps.invert(picture)) < 0.97
        # A larger copy is nearly the same.
        larger = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)
        assert own @ vector(larger) > 0.98
    a, b, c = encoder.encode_captions(["a dog bites a man", "a man bites a dog", "the stock market fell"])
    assert 0.6 < a @ b < 0.99  # the same words, in another order
    assert abs(a @ c) < 0.3


def test_case_and_white_space_do_not_count(encoder: HogTfidf) -> None:
    texts = encoder.encode_captions(["Two Red  circles", " two red\tcircles\n", "TWO RED CIRCLES"])
    np.testing.assert_allclose(texts, texts[[0, 0, 0]], atol=1e-6)


def test_captions_and_pictures_of_nothing_are_finite(encoder: HogTfidf) -> None:
    texts = encoder.encode_captions(["", " ", "!", "?!...", "🙂", "a", "\x00", "x" * 10_000])
    assert np.isfinite(texts).all()
    lengths = np.linalg.norm(texts, axis=1)
    assert ((np.abs(lengths - 1) < 1e-5) | (lengths == 0)).all()
    assert lengths[5] == pytest.approx(1)
    sizes = [(1, 1), (1, 500), (3000, 2)]
    flat = [Image.new("RGB", size, colour) for size in sizes for colour in ("black", "white", "#808080")]
    images = encoder.encode_images([encoder.prepare(p) for p in flat])
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
