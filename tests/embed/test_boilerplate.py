"""What captions share is left out, and what is too long is read in parts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from pairclean.embed.boilerplate import PARTS, CaptionReader, caption_notes, sentences, shared_sentences, without

OFFER = "Buy online now the best offers of the season:"
TERMS = "We ship to all countries within five days."


def test_a_sentence_that_many_captions_share_is_left_out() -> None:
    own = [f"Red kettle number {i}" for i in range(100)]
    captions = [*(f"{OFFER} {text}" for text in own[:30]), *(f"{text}. {TERMS}" for text in own[30:60]), *own[60:]]
    shared = shared_sentences(captions)
    assert sorted(shared) == [
        "buy online now the best offers of the season",
        "we ship to all countries within five days",
    ]
    read = [without(caption, frozenset(shared)).rstrip(".") for caption in captions]
    assert read == own


def test_words_that_describe_are_kept() -> None:
    """A property that a quarter of the captions name, a caption on many pictures, and a shared sentence alone."""
    captions = [f"Kettle number {i}. Cotton." if i % 4 == 0 else f"Kettle number {i}" for i in range(200)]
    assert shared_sentences(captions + ["Click here to see a larger version of this image"] * 100) == []
    assert without(TERMS, frozenset(["we ship to all countries within five days"])) == TERMS


def test_sentences_of_other_scripts() -> None:
    assert sentences("全场包邮。红色水壶") == ["全场包邮。", "红色水壶"]
    assert sentences("a-line dress - size 3.5 | Shop") == ["a-line dress", "size 3.5", "Shop"]


class Four:
    """Reads four words of a caption; a vector counts the letters a, b and c in them."""

    image_dim = text_dim = 3
    comparable, device, least_side = True, "cpu", None
    description: ClassVar[dict[str, str]] = {"name": "four words"}

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image)

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        return np.ones((len(prepared), 3), np.float32)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        count = [[" ".join(text.split()[:4]).count(letter) + 0.0 for letter in "abc"] for text in captions]
        return np.array(count, np.float32) / np.linalg.norm(count, axis=1, keepdims=True)

    def cuts(self, captions: list[str]) -> np.ndarray:
        return np.array([len(text.split()) > 4 for text in captions])


def test_a_long_caption_is_read_to_its_end() -> None:
    reader = CaptionReader(Four(), [])
    short, long, endless = reader.encode_captions(["a a. b", "a a. a. b b b b", "a a a a b b b b c c c c"])
    assert short == pytest.approx(Four().encode_captions(["a a. b"])[0])
    assert long == pytest.approx(np.array([1, 1, 0]) / np.sqrt(2))
    assert (endless > 0).all()
    assert reader.description == Four.description


def test_a_book_is_read_here_and_there_and_spaces_take_no_time() -> None:
    read: list[str] = []

    class Listening(Four):
        def encode_captions(self, captions: list[str]) -> np.ndarray:
            read.extend(captions)
            return super().encode_captions(captions)

    book = " ".join(f"a{i}." for i in range(3000))
    (vector,) = CaptionReader(Listening(), []).encode_captions([book])
    assert np.linalg.norm(vector) == pytest.approx(1)
    parts = read[1:]
    assert len(parts) == PARTS
    assert parts[0].startswith("a0.")
    assert int(parts[-1].split()[0].strip("a.")) > 2000
    assert sentences(" " * 200_000 + "red" + "\t" * 200_000 + "kettle") == ["red kettle"]


def test_what_is_left_out_and_what_is_long_is_said() -> None:
    captions = [f"{OFFER} a {i}" for i in range(40)] + ["a b c a b c a b"] * 10
    shared = shared_sentences(captions)
    reader = CaptionReader(Four(), shared)
    assert reader.description["left_out_of_captions"] == shared
    left_out, cut = caption_notes(captions, shared, reader)
    assert "in 80% of the captions, such as “buy online now the best offers of the season”" in left_out
    assert cut.startswith("20.0% of the captions are longer than the encoder reads")
    assert caption_notes(["a"], [], CaptionReader(Four(), [])) == []
