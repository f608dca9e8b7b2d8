from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pairclean.pairs import UserError
from pairclean.paper.data import (
    SPECIAL,
    RegionCaptions,
    Vocabulary,
    make_noise,
    open_split,
    read_captions,
    read_noise,
    tokens,
    write_noise,
)

Vectors = dict[str, np.ndarray]


def test_tokens_are_the_published_ones(vectors: Vectors) -> None:
    for caption, joined in zip(vectors["tokens/captions"], vectors["tokens/joined"], strict=True):
        assert " | ".join(tokens(str(caption))) == joined


@pytest.mark.parametrize("layout", ["txt", "tsv"])
def test_captions_from_files_get_the_published_numbers(vectors: Vectors, tmp_path: Path, layout: str) -> None:
    captions = [str(caption) for caption in vectors["tokens/captions"]]
    quoted = [f'"{caption}"' if "\n" in caption else caption for caption in captions]
    lines = captions if layout == "txt" else [f"{i}\t{caption}" for i, caption in enumerate(quoted)]
    (tmp_path / f"train_caps.{layout}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    np.save(tmp_path / "train_ims.npy", np.zeros((len(captions), 36, 4), np.float32))
    vocabulary = Vocabulary([str(word) for word in vectors["tokens/vocabulary"]])
    data = open_split(tmp_path, "train", vocabulary)
    ids, lengths = data.words(np.arange(len(data)))
    np.testing.assert_array_equal(ids, vectors[f"tokens/ids_{layout}"])
    np.testing.assert_array_equal(lengths, vectors[f"tokens/lengths_{layout}"])


def test_a_quoted_field_of_a_tsv_may_hold_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "dev_caps.tsv"
    path.write_text('1\t"two\nlines"\n2\tsix" wide\n', encoding="utf-8")
    assert read_captions(path) == ["two\nlines", 'six" wide']
    path.write_text("1\tone\n2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 2 of .* has no second column"):
        read_captions(path)


def test_a_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Vocabulary.of(["A dog runs", "the dog sits", "a cat sits", "a dog naps"], least=2)
    assert made.words == [*SPECIAL, "a", "dog", "sits"]
    made.write(tmp_path / "vocab.json")
    assert Vocabulary.read(tmp_path / "vocab.json").words == made.words
    assert json.loads((tmp_path / "vocab.json").read_text())["idx"] == 7
    assert made.ids("A dog barks").tolist() == [1, 4, 5, 3, 2]
    (tmp_path / "vocab.json").write_text('{"word2idx": {"<pad>": 0, "dog": 1}}')
    with pytest.raises(UserError, match="is no vocabulary"):
        Vocabulary.read(tmp_path / "vocab.json")


def some(images: int, per_image: int) -> RegionCaptions:
    n = images * per_image
    return RegionCaptions(np.zeros((images, 1, 1), np.float32), [np.array([1, 2])] * n, np.arange(n) // per_image)


@pytest.mark.parametrize("case", ["noise0", "noise1"])
def test_noise_without_a_file_is_the_published_one(vectors: Vectors, case: str) -> None:
    captions, images, rate, seed = vectors[f"{case}/captions_images_ratio_seed"]
    clean = some(int(images), int(captions // images))
    image_of = make_noise(clean, float(rate), "captions", int(seed))
    np.testing.assert_array_equal(image_of, vectors[f"{case}/image_of_caption"])
    np.testing.assert_array_equal(image_of == clean.image_of, vectors[f"{case}/is_clean_label"])


def test_whole_images_move_with_their_captions() -> None:
    clean = some(1000, 5)
    by_image = make_noise(clean, 0.4, "images", seed=1).reshape(1000, 5)
    assert (by_image == by_image[:, :1]).all()
    assert sorted(by_image[:, 0]) == list(range(1000))
    assert 390 <= (by_image[:, 0] != np.arange(1000)).sum() <= 400


def test_a_noise_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    clean, path = some(20, 5), tmp_path / "noise.npy"
    image_of = make_noise(clean, 0.5, "images", seed=0)
    write_noise(path, image_of)
    assert np.load(path).dtype == np.int64
    np.testing.assert_array_equal(read_noise(path, clean), image_of)
    write_noise(path, image_of[:-1])
    with pytest.raises(UserError, match="an image number for each of 100 captions"):
        read_noise(path, clean)
    write_noise(path, np.full(100, 20))
    with pytest.raises(UserError, match="numbered from 0 to 19"):
        read_noise(path, clean)


def test_a_split_has_five_captions_per_image_or_one(tmp_path: Path) -> None:
    np.save(tmp_path / "dev_ims.npy", np.arange(1100 * 2 * 3, dtype=np.float32).reshape(1100, 2, 3))
    (tmp_path / "dev_caps.txt").write_text("a dog\n" * 5500)
    dev = open_split(tmp_path, "dev", Vocabulary(SPECIAL))
    assert (len(dev.images), len(dev), dev.per_image) == (1000, 5000, 5)
    assert isinstance(dev.images, np.memmap)
    assert dev.image_of[[0, 4, 5, 4999]].tolist() == [0, 0, 1, 999]
    np.testing.assert_array_equal(dev.regions(np.array([2, 0])), dev.images[[2, 0]])
    few = dev.first(10)
    assert (len(few.images), len(few)) == (10, 50)
    (tmp_path / "dev_caps.txt").write_text("a dog\n" * 1200)
    with pytest.raises(UserError, match=r"1100 images and .* 1200 captions"):
        open_split(tmp_path, "dev", Vocabulary(SPECIAL))
    with pytest.raises(UserError, match=r"test_ims.npy is missing"):
        open_split(tmp_path, "test", Vocabulary(SPECIAL))
