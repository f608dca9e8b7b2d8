"""Captions as an encoder should read them: without sentences that many captions share, and to their end.

Shops begin every title with an offer, and end every description with their terms. Such sentences say nothing of the
picture, pull all captions towards one another, and push what does describe the picture beyond the 32 to 77 tokens that
an encoder reads. They are left out before a caption is encoded, and what is still too long is encoded in parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..arrays import chunks, unit
from ..sources import Source
from .encoder import Encoder

#: Captions that are looked at, and the shards that they are taken from, at most.
CAPTIONS, SHARDS = 20_000, 20
#: A sentence is boilerplate if at least so many distinct captions hold it, and this share of them; a lower one if it
#: has so many words (or letters) that it is hardly a mere property ("100% cotton.").
FEWEST, SHARE, SHARE_OF_LONG, LONG, LONG_LETTERS = 20, 0.3, 0.01, 5, 40
#: Parts that one caption is encoded in, at most, and its letters that are looked at.
PARTS, LETTERS = 32, 20_000
#: Ends of sentences: punctuation before a space, the full stops of East Asian languages, bars, bullets, line breaks.
_END = re.compile(r"(?<=[.!?;:])\s+|(?<=[。！？；])|\s*[|•·\n]+\s*|\s+[-–—]\s+")
_SPACES = re.compile(r"[^\S\n]+")


def sentences(caption: str) -> list[str]:
    """The sentences of a caption, in order.

    >>> sentences("Free delivery. A red kettle | Shop")
    ['Free delivery.', 'A red kettle', 'Shop']
    """
    # Runs of spaces are joined first: the pattern would take quadratic time over them.
    return [part.strip() for part in _END.split(_SPACES.sub(" ", caption)) if part.strip()]


def _key(sentence: str) -> str:
    return " ".join(sentence.casefold().split()).strip(".!?;:。！？；")


def shared_sentences(captions: Iterable[str]) -> list[str]:
    """What distinct captions share, the commonest first, as `without` takes it."""
    distinct = set(captions)
    count = Counter(key for caption in distinct for key in {_key(sentence) for sentence in sentences(caption)})
    return [
        key
        for key, held in count.most_common()
        if key
        and held >= FEWEST
        and held >= (SHARE_OF_LONG if len(key.split()) >= LONG or len(key) >= LONG_LETTERS else SHARE) * len(distinct)
    ]


def without(caption: str, shared: frozenset[str]) -> str:
    """A caption without these sentences; as it is where nothing would be left."""
    parts = sentences(caption)
    own = [part for part in parts if _key(part) not in shared]
    return " ".join(own) if own and len(own) < len(parts) else caption


def blanked(caption: str, shared: frozenset[str], *, read: int = 2000) -> str:
    """The beginning of a caption, with spaces in place of these sentences: what is left stands where it stood.

    As it is where nothing would be left.  read: characters of the beginning.

    >>> blanked("Free delivery. A red kettle", frozenset(["free delivery"]))
    '               A red kettle'
    """
    caption = caption[:read]
    out, start = caption, 0
    for end in (*(match.span() for match in _END.finditer(caption)), (len(caption), len(caption))):
        if _key(caption[start : end[0]]) in shared:
            out = out[:start] + " " * (end[0] - start) + out[end[0] :]
        start = end[1]
    return out if out.strip() else caption


def sampled_captions(source: Source) -> list[str]:
    """Captions from the beginnings of shards all over a source, the same at every call."""
    whole = [shard for shard in source.shards if shard.rows and not shard.broken]
    shards = whole[:: max(1, -(-len(whole) // SHARDS))]
    found: list[str] = []
    for shard in shards:
        rows = islice(source.rows(shard, images=False), CAPTIONS // len(shards))
        found += [caption for row in rows for caption in row.captions if caption]
    return found


@runtime_checkable
class Limited(Protocol):
    """An encoder that cuts captions off."""

    def cuts(self, captions: list[str]) -> np.ndarray:
        """(n,) bool: captions that are longer than what it reads."""


class CaptionReader:
    """An encoder that is given captions without shared sentences, and long ones in parts.

    The vector of a caption in parts is the mean of those of its parts, as many sentences each as the encoder reads.
    """

    def __init__(self, encoder: Encoder, shared: Sequence[str]):
        """shared: from `shared_sentences`."""
        self._encoder, self._shared = encoder, frozenset(shared)
        self.image_dim, self.text_dim, self.comparable = encoder.image_dim, encoder.text_dim, encoder.comparable
        self.device, self.least_side = encoder.device, encoder.least_side
        self.description: dict[str, Any] = encoder.description
        if shared:
            self.description = {**encoder.description, "left_out_of_captions": sorted(shared)}

    def prepare(self, image: Image.Image) -> np.ndarray:
        return self._encoder.prepare(image)

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        return self._encoder.encode_images(prepared)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        texts = [without(caption, self._shared) for caption in captions]
        found = self._encoder.encode_captions(texts)
        long = np.flatnonzero(self.cuts(texts))
        if not len(long):
            return found
        parts = [self._parts(texts[i]) for i in long]
        every, size = [part for of in parts for part in of], len(captions)
        vectors = np.concatenate([self._encoder.encode_captions(every[at]) for at in chunks(len(every), size)])
        found = np.array(found)
        found[long] = unit(np.add.reduceat(vectors, np.cumsum([0, *map(len, parts[:-1])])))
        return found

    def cuts(self, captions: list[str]) -> np.ndarray:
        """(n,) bool: captions of which the encoder would not read the end."""
        if not isinstance(self._encoder, Limited):
            return np.zeros(len(captions), bool)
        return self._encoder.cuts(captions)

    def _parts(self, caption: str) -> list[str]:
        """Consecutive sentences, as many as the encoder reads at once; a longer sentence is split into halves.

        At most PARTS, from all over the caption: a book is no better described by all of its pages.
        """
        parts: list[str] = []
        waiting = sentences(caption[:LETTERS])[::-1]
        while waiting:
            sentence = waiting.pop()
            words = sentence.split()
            if self.cuts([sentence])[0] and len(words) > 1:
                half = len(words) // 2
                waiting += [" ".join(words[half:]), " ".join(words[:half])]
            elif parts and not self.cuts([f"{parts[-1]} {sentence}"])[0]:
                parts[-1] = f"{parts[-1]} {sentence}"
            else:
                parts.append(sentence)
        if len(parts) > PARTS:
            parts = [parts[i] for i in np.linspace(0, len(parts) - 1, PARTS).astype(int)]
        return parts


def caption_notes(captions: Sequence[str], shared: Sequence[str], reader: CaptionReader) -> list[str]:
    """What is said of a sample of captions: what is left out of how many, and how many are read in parts."""
    if not captions:
        return []
    notes, left_out = [], frozenset(shared)
    texts = [without(caption, left_out) for caption in captions]
    changed = sum(text != caption for text, caption in zip(texts, captions, strict=True)) / len(captions)
    if shared:
        commonest = shared[0] if len(shared[0]) <= 80 else shared[0][:77] + "..."
        notes.append(
            f"Sentences that many captions share say nothing of a picture and are left out when captions are encoded: "
            f"{len(shared)} of them, in {changed:.0%} of the captions, such as “{commonest}”."
        )
    cut = float(np.mean(reader.cuts(texts[:2000])))
    if cut:
        notes.append(
            f"{cut:.1%} of the captions are longer than the encoder reads at once: they are encoded in parts, and a "
            "part that does not fit counts no more than the others."
        )
    return notes
