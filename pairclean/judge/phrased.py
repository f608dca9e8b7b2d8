"""How well the weakest phrase of a caption fits its image.

    u(i, caption) = min over its phrases p of  s(x_i, p) / t - (hub_i + hub_p) / 2

with the similarities, the temperature and the hubness of `scores`. Of a caption that is partly wrong the rest fits, so
that the whole scores like many a match; its wrong phrase fits like a caption drawn at random. What u is like for
complete mismatches is sampled by random re-pairings, and for captions that are partly wrong by exchanging one phrase of
a caption for one of another's. Phrases are encoded like captions, and scored by a model that never trained on the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..arrays import Pairs, chunks
from .crossfit import CrossFit, Phrased
from .phrases import exchanged, phrases
from .scores import Model, Scorer

#: Pairs by which it is found out whether captions are partly wrong, and captions of which a phrase is exchanged.
SAMPLE, EXCHANGED = 4000, 4000
#: Random re-pairings per pair of the sample.
DECOYS = 4
#: Texts that are encoded at once, and pairs.
BATCH, CHUNK = 256, 2048
NO_SPAN = (-1, -1)


@dataclass(frozen=True)
class Words:
    """The captions of N pairs, and the encoder that reads them.

    captions: of any (n,) int64 rows, in their order.  encode: n > 0 texts -> (n, e) float32 unit vectors.
    """

    captions: Callable[[np.ndarray], Sequence[str | None]]
    encode: Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class PhraseReader:
    """Reads phrases of captions.  scorers: one per model.  pairs: (N), in the encoder's own vectors.

    known: vectors of texts that were encoded; None remembers none.
    """

    cross_fit: CrossFit
    scorers: Sequence[Scorer]
    pairs: Pairs
    words: Words
    known: dict[str, np.ndarray] | None = field(default_factory=dict)

    def captions(self, place: np.ndarray) -> list[str]:
        """Of the pairs at the positions `place` (m,) in the cross-fit's rows."""
        return [caption or "" for caption in self.words.captions(self.cross_fit.rows[place])]

    def weakest(self, place: np.ndarray, texts: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(m,) float64 u, NaN where a text has no phrases; (m, 2) int32, where the weakest phrase starts and stops.

        place: (m,) positions of the images.  texts: m; None takes the pairs' own captions.
        """
        u, span = np.full(len(place), np.nan), np.full((len(place), 2), NO_SPAN, np.int32)
        for model, scorer, members in self._members(place):
            own = self.captions(place[members]) if texts is None else [texts[i] for i in members]
            spans = [phrases(text) for text in own]
            count = np.array([len(of) for of in spans])
            if not count.sum():
                continue
            flat = [text[a:b] for text, of in zip(own, spans, strict=True) for a, b in of]
            distinct, index = np.unique(np.array(flat, object), return_inverse=True)
            y = model.embed_text(self._encoded(distinct.tolist()))
            x = model.embed_image(self.pairs.image[self.cross_fit.rows[place[members]]])
            of_image, of_text = scorer.hubness(x, y)
            owner = np.repeat(np.arange(len(members)), count)
            similarity = np.einsum("ij,ij->i", x[owner], y[index]).astype(np.float64)
            fit = similarity / scorer.temperature - (of_image[owner] + of_text[index]) / 2
            order = np.lexsort((fit, owner))
            least = order[np.unique(owner[order], return_index=True)[1]]
            at = members[owner[least]]
            u[at] = fit[least]
            span[at] = np.array([place_of for of in spans for place_of in of])[least]
        return u, span

    def scores(self, place: np.ndarray, text: np.ndarray, caption_id: np.ndarray) -> np.ndarray:
        """(m,) float64 scores of the images at `place` with captions.  text: (m, e) their vectors; caption_id: (m,)."""
        out = np.empty(len(place))
        for model, scorer, members in self._members(place):
            rows = self.cross_fit.rows[place[members]]
            x, y = model.embed_image(self.pairs.image[rows]), model.embed_text(text[members])
            similarity = np.einsum("ij,ij->i", x, y)
            ids = self.pairs.image_id[rows], caption_id[members]
            out[members] = scorer.combine(similarity, *scorer.hubness(x, y), *ids)
        return out

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(m, e) float32."""
        distinct, index = np.unique(np.array(texts, object), return_inverse=True)
        return self._encoded(distinct.tolist())[index]

    def _members(self, place: np.ndarray) -> Iterator[tuple[Model, Scorer, np.ndarray]]:
        """Each model with its scorer, and which of `place` they score, CHUNK of these at a time."""
        fold = self.cross_fit.fold[place] % len(self.cross_fit.models)
        for k, (model, scorer) in enumerate(zip(self.cross_fit.models, self.scorers, strict=True)):
            members = np.flatnonzero(fold == k)
            for part in chunks(len(members), CHUNK):
                yield model, scorer, members[part]

    def _encoded(self, texts: list[str]) -> np.ndarray:
        """(m, e) float32 of different texts."""
        known = {} if self.known is None else self.known
        new = [text for text in texts if text not in known]
        for part in chunks(len(new), BATCH):
            known.update(zip(new[part], self.words.encode(new[part]).astype(np.float16), strict=True))
        return np.array([known[text] for text in texts], np.float32)


def read_sample(reader: PhraseReader, groups: np.ndarray, *, seed: int = 0) -> Phrased:
    """What a sample of the pairs, and what can be made of it, say about phrases.

    groups: (n,) int64, the kinds within which captions are re-paired; negative for pairs that take no part in that.
    """
    cross_fit, pairs, rng = reader.cross_fit, reader.pairs, np.random.default_rng(seed)
    n = len(cross_fit.rows)
    sample = np.sort(rng.permutation(n)[:SAMPLE])
    weakest = np.full(n, np.nan)
    weakest[sample] = reader.weakest(sample)[0]
    captions = dict(zip(sample.tolist(), reader.captions(sample), strict=True))
    image_id, caption_id = pairs.image_id[cross_fit.rows], pairs.caption_id[cross_fit.rows]

    def re_paired(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left, right = (sample[drawn] for drawn in _others(group, rng))
        allowed = (image_id[left] != image_id[right]) & (caption_id[left] != caption_id[right])
        return left[allowed], right[allowed]

    def measured(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        score = reader.scores(left, pairs.text[cross_fit.rows[right]], caption_id[right])
        return np.column_stack([score, reader.weakest(left, [captions[i] for i in right.tolist()])[0]])

    fold = cross_fit.fold[sample] % len(cross_fit.models)
    left, right = re_paired(fold)
    of_kind = re_paired(np.where(groups[sample] < 0, -1, groups[sample] * len(cross_fit.models) + fold))
    source, made = [], []
    for i in rng.permutation(len(left))[:EXCHANGED].tolist():
        text = exchanged(captions[left[i]], captions[right[i]], rng)
        if text is not None:
            source.append(left[i])
            made.append(text)
    place, partial = np.array(source, np.int64), np.zeros((0, 2))
    if made:
        nowhere = np.zeros(len(place), np.int64)  # the identity of no readable caption
        score = reader.scores(place, reader.vectors(made), nowhere)
        partial = np.column_stack([score, reader.weakest(place, made)[0]])
    return Phrased(weakest, measured(left, right), measured(*of_kind), partial, place)


def _others(group: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(m,) positions, DECOYS times each, and for each a random one of its group.

    group: (n,) int64, negative for those that take no part.
    """
    left = np.tile(np.flatnonzero(group >= 0), DECOYS)
    right = np.empty_like(left)
    for k in np.unique(group[group >= 0]):
        members = np.flatnonzero(group == k)
        of = np.flatnonzero(group[left] == k)
        right[of] = rng.choice(members, len(of))
    return left, right
