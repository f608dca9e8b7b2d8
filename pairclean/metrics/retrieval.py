"""Cross-modal retrieval by the usual protocols: recall at 1, 5 and 10, ranks, and MAP by class labels.

The vectors have to fit in memory, the similarity matrix does not: it is computed in tiles, on any PyTorch device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairclean.metrics.bootstrap import bootstrap_means, interval
from pairclean.pairs import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
#: By metric: the value of each query, (q,) float64 (NaN: not asked), and the image it belongs to, (q,) int64.
Questions = Mapping[str, tuple[NDArray[np.float64], Ints]]

#: Cosines that differ by less than this are tied: about the rounding error of a float32 product of unit vectors.
TIE = 2e-6
RECALLS = (1, 5, 10)
CUT = 50
COCO_FOLDS, COCO_IMAGES = 5, 1000


@dataclass(frozen=True)
class Ranks:
    """The rank of the best match of every query: 1 is first, inf is not found.

    image: (I,) float64, image-to-text, one per distinct image.  caption: (n,) float64, text-to-image, one per row.
    image_of: (n,) int64, which of the I images each row shows.
    """

    image: NDArray[np.float64]
    caption: NDArray[np.float64]
    image_of: Ints

    @property
    def ways(self) -> dict[str, tuple[NDArray[np.float64], Ints]]:
        """By direction: the rank of each query, and the image it belongs to."""
        return {"i2t": (self.image, np.arange(len(self.image))), "t2i": (self.caption, self.image_of)}

    def questions(self) -> dict[str, tuple[NDArray[np.float64], Ints]]:
        """`i2t_r1` and so on: 100 where a match is among the first k results, else 0."""
        return {
            f"{way}_r{k}": (np.where(rank <= k, 100.0, 0.0), about)
            for way, (rank, about) in self.ways.items()
            for k in RECALLS
        }


def _identities(ids: NDArray[Any] | None, n: int) -> tuple[Ints, Ints]:
    """First row of each identity, and each row's identity as 0, 1, ...; without ids every row is an item of its own."""
    if ids is None:
        return np.arange(n), np.arange(n)
    _, first, code = np.unique(ids, return_index=True, return_inverse=True)
    return first, code


def rank_matches(
    image: Floats,
    text: Floats,
    *,
    image_id: NDArray[Any] | None = None,
    caption_id: NDArray[Any] | None = None,
    chunk: int = 4096,
    device: str = "cpu",
) -> Ranks:
    """The rank of the best match for every image (among the captions) and every caption (among the images), by cosine.

    image, text: (n, d) float32, L2-normalised; row i of one belongs to row i of the other.
    image_id, caption_id: (n,) identities. Rows with one identity are one item (with the vector of the first row), and
    an image and a caption match if any row pairs them. None: every row is an item of its own.
    chunk: images and captions compared at once; beside the vectors, memory is about 8 * chunk² bytes.
    device: a PyTorch device.

    Each distinct image is one query, and its best caption counts. Every row's caption is a query, also a repeated one.
    The rank is 1 + the non-matching items that are strictly more similar + half of the tied ones, rounded up, so that a
    constant embedding finds nothing. A similarity of NaN never ranks.
    Raises UserError if there are no pairs; ValueError if the shapes do not fit.

    >>> image = np.eye(3, dtype=np.float32)
    >>> rank_matches(image, image[[0, 2, 1]]).image  # two captions are swapped: half of the tie at 0 counts too
    array([1., 3., 3.])
    """
    n = len(image)
    _check(image, text)
    image_row, image_code = _identities(image_id, n)
    text_row, text_code = _identities(caption_id, n)
    matches = np.unique(np.stack([image_code, text_code], 1), axis=0)
    image_rank, text_rank = _ranks(image[image_row], text[text_row], matches, chunk, device)
    return Ranks(image_rank, text_rank[text_code], image_code)


def _check(image: Floats, text: Floats) -> None:
    if not len(image):
        raise UserError("there are no pairs to measure retrieval on: give at least one")
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(f"image and text must both be (n, d), alike in shape, not {image.shape} and {text.shape}")


def _ranks(
    images: Floats, texts: Floats, matches: Ints, chunk: int, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks of the best match of each image and of each text, inf where it has none with a finite similarity.

    images: (I, d).  texts: (T, d).  matches: (M, 2) distinct (image, text) pairs that belong together.
    The similarities of the matches are computed first; then both directions are compared with them, one (chunk, chunk)
    tile at a time.
    """
    import torch

    x, y = (torch.from_numpy(np.ascontiguousarray(v, np.float32)).to(device) for v in (images, texts))
    query, item = (torch.from_numpy(np.ascontiguousarray(side)).to(device) for side in matches.T)
    matching = torch.cat(
        [(x[query[i : i + chunk]] * y[item[i : i + chunk]]).sum(1) for i in range(0, len(matches), chunk)]
    )
    matching[~torch.isfinite(matching)] = -torch.inf
    sides = [_Side.of(len(x), query, matching), _Side.of(len(y), item, matching)]
    for i in range(0, len(x), chunk):
        for j in range(0, len(y), chunk):
            tile = x[i : i + chunk] @ y[j : j + chunk].T
            sides[0].count(tile, i, dim=1)
            sides[1].count(tile, j, dim=0)
    return sides[0].ranks(), sides[1].ranks()


@dataclass(frozen=True)
class _Side:
    """The queries of one direction, as tensors.

    best: similarity of the best match.  own: matches tied with the best one, which do not compete with it.
    nearer, near: items so far that are more similar than the best match, and that are at least as similar.
    """

    best: Any
    own: Any
    nearer: Any
    near: Any

    @classmethod
    def of(cls, questions: int, question: Any, matching: Any) -> _Side:
        import torch

        best = torch.full((questions,), -torch.inf, device=matching.device)
        best.scatter_reduce_(0, question, matching, "amax")
        own = torch.bincount(question[matching >= best[question] - TIE], minlength=questions)
        return cls(best, own, torch.zeros_like(own), torch.zeros_like(own))

    def count(self, tile: Any, start: int, *, dim: int) -> None:
        """Count one tile: similarities of the queries from `start` on; the items lie along dimension `dim`."""
        part = slice(start, start + tile.shape[1 - dim])
        best = self.best[part].unsqueeze(dim)
        self.nearer[part] += (tile > best + TIE).sum(dim)
        self.near[part] += (tile >= best - TIE).sum(dim)

    def ranks(self) -> NDArray[np.float64]:
        tied = (self.near - self.nearer - self.own).clamp(min=0)
        rank = (1 + self.nearer + (tied + 1) // 2).cpu().numpy().astype(np.float64)
        return np.where(np.isfinite(self.best.cpu().numpy()), rank, np.inf)


def retrieval(
    image: Floats,
    text: Floats,
    *,
    image_id: NDArray[Any] | None = None,
    caption_id: NDArray[Any] | None = None,
    chunk: int = 4096,
    device: str = "cpu",
) -> dict[str, float | int]:
    """Recall at 1, 5 and 10 in both directions.  Arguments and errors as for `rank_matches`.

    Returns i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10 in percent, their sum `rsum`, and `queries`, the number of
    queries in both directions together.

    >>> image = np.eye(3, dtype=np.float32)
    >>> found = retrieval(image, image[[0, 2, 1]])
    >>> round(found["i2t_r1"], 1), found["i2t_r5"], found["queries"]
    (33.3, 100.0, 6)
    """
    ranks = rank_matches(image, text, image_id=image_id, caption_id=caption_id, chunk=chunk, device=device)
    recalls = _means(ranks.questions())
    return {**recalls, "rsum": sum(recalls.values()), "queries": len(ranks.image) + len(ranks.caption)}


def coco_folds(image_id: NDArray[Any]) -> list[Ints]:
    """The rows of COCO's five folds of 1,000 images, in the order in which images first occur.

    image_id: (n,).  Returns an empty list where there are fewer than 5,000 images; images beyond 5,000 are in no fold.
    """
    first, code = _identities(image_id, len(image_id))
    if len(first) < COCO_FOLDS * COCO_IMAGES:
        return []
    fold = np.argsort(np.argsort(first))[code] // COCO_IMAGES
    return [np.flatnonzero(fold == k) for k in range(COCO_FOLDS)]


def average_precisions(
    image: Floats,
    text: Floats,
    labels: Sequence[Any],
    *,
    image_id: NDArray[Any] | None = None,
    chunk: int = 4096,
    device: str = "cpu",
) -> dict[str, tuple[NDArray[np.float64], Ints]]:
    """Average precision of every query; a result is relevant where it shares a class with the query.

    image, text, image_id, chunk, device: as for `rank_matches`; each distinct image is one query and one result.
    labels: n classes, or n lists of classes. None and an empty list mean no class: such a row is no query and is never
    relevant.

    Returns `i2t_map`, `i2t_map50`, `t2i_map`, `t2i_map50` in [0, 1], as `Questions`: the mean, over the relevant
    results among all or among the first 50, of the precision at their ranks; 0 where there are none. Results that are
    tied (within `TIE`) count as they would on average in a random order, so that a constant embedding scores what
    guessing scores.
    Memory is about 8 * chunk² bytes, or 64 bytes per row where that is more.
    Raises UserError if there are no pairs, or no label; ValueError if the shapes do not fit.
    Source of the mean over tied orders: McSherry & Najork 2008, "Computing information retrieval performance measures
    efficiently in the presence of tied scores", section 2.4.
    """
    _check(image, text)
    if len(labels) != len(image):
        raise ValueError(f"{len(labels)} labels for {len(image)} pairs")
    image_row, image_code = _identities(image_id, len(image))
    classes = _classes(labels)
    images, texts, their = image[image_row], text, classes[image_row]
    i2t = _precisions(images, texts, their, classes, chunk, device)
    t2i = _precisions(texts, images, classes, their, chunk, device)
    every = np.arange(len(image_row))
    return {
        "i2t_map": (i2t[:, 0], every),
        f"i2t_map{CUT}": (i2t[:, 1], every),
        "t2i_map": (t2i[:, 0], image_code),
        f"t2i_map{CUT}": (t2i[:, 1], image_code),
    }


def _classes(labels: Sequence[Any]) -> Ints:
    """Classes as (n, 1) numbers from 1 where no row has several, else as (n, w) bit sets; 0 means no class."""
    sets = [_as_set(label) for label in labels]
    number: dict[Any, int] = {}
    for one in sets:
        for label in one:
            number.setdefault(label, len(number))
    if not number:
        raise UserError("no pair has a label: name a column that has some")
    if all(len(one) <= 1 for one in sets):
        return np.array([[1 + number[label] for label in one] or [0] for one in sets], np.int64)
    bits = np.zeros((len(sets), 1 + len(number) // 62), np.int64)  # 62 bits per word stay positive
    # Two words at least: one column means that the numbers are classes.
    bits = bits if bits.shape[1] > 1 else np.pad(bits, [(0, 0), (0, 1)])
    for row, one in enumerate(sets):
        for label in one:
            bits[row, number[label] // 62] |= 1 << (number[label] % 62)
    return bits


def _as_set(label: Any) -> set[Any]:
    if isinstance(label, (list, tuple, set, frozenset, np.ndarray)):
        return {one for one in label if not _missing(one)}
    return set() if _missing(label) else {label}


def _missing(label: Any) -> bool:
    return label is None or label != label  # nan


def _precisions(
    queries: Floats, gallery: Floats, classes: Ints, theirs: Ints, chunk: int, device: str
) -> NDArray[np.float64]:
    """(Q, 2): average precision among all results and among the first `CUT`; NaN for a query without a class."""
    import torch

    x, y = (torch.from_numpy(np.ascontiguousarray(v, np.float32)).to(device) for v in (queries, gallery))
    a, b = (torch.from_numpy(np.ascontiguousarray(v)).to(device) for v in (classes, theirs))
    rows = max(1, chunk * chunk // (8 * len(y)))  # each similarity takes about 64 bytes while it is ranked
    out = np.empty((len(x), 2))
    for i in range(0, len(x), rows):
        part = slice(i, i + rows)
        level = torch.nan_to_num(x[part] @ y.T / TIE, nan=-(2.0**30), posinf=-(2.0**30), neginf=-(2.0**30))
        level, order = level.round().to(torch.int32).sort(dim=1, descending=True)
        right = _shares_a_class(a[part], b).gather(1, order)
        del order
        found = _expected_precisions(level, right).cpu().numpy()
        out[part] = np.where(torch.isfinite(x[part]).all(1, keepdim=True).cpu().numpy(), found, 0.0)
    out[~classes.any(1)] = np.nan
    return out


def _shares_a_class(a: Any, b: Any) -> Any:
    """Whether query and result share a class, (q, g) bool.  a: (q, w), b: (g, w), as `_classes` returns them."""
    if a.shape[1] == 1:
        return (a == b.T) & (a != 0)
    right = (a[:, :1] & b[:, 0]) != 0
    for word in range(1, a.shape[1]):
        right |= (a[:, word : word + 1] & b[:, word]) != 0
    return right


def _expected_precisions(level: Any, right: Any) -> Any:
    """(q, 2) average precision, over all and over the first `CUT` ranks, averaged over the orders of tied results.

    level: (q, g) similarities, descending; equal ones are tied.  right: (q, g) bool, whether the result is relevant.
    Take n tied results, r of them relevant, after t others of which R are relevant. The i-th of the tied ranks holds a
    relevant result with probability r / n; then R + 1 + (i - 1) (r - 1) / (n - 1) relevant results are expected among
    the first t + i.
    """
    import torch

    width = level.shape[1]
    place = torch.arange(width, device=level.device, dtype=torch.int32).expand_as(level)
    edge = level[:, 1:] != level[:, :-1]
    start = torch.nn.functional.pad(torch.where(edge, place[:, 1:], 0), (1, 0)).cummax(1).values
    end = torch.nn.functional.pad(torch.where(edge, place[:, 1:], width), (0, 1), value=width)
    end = end.flip(1).cummin(1).values.flip(1)
    before = torch.nn.functional.pad(right.cumsum(1, dtype=torch.int32), (1, 0))
    already = before.gather(1, start.long())
    r = (before.gather(1, end.long()) - already).float()
    n = (end - start).float()
    hit = r / n
    precision = hit * (already + 1 + (place - start) * (r - 1) / (n - 1).clamp(min=1)) / (place + 1)
    both = [
        precision[:, :cut].sum(1) / hit[:, :cut].sum(1).clamp(min=torch.finfo(hit.dtype).tiny) for cut in (width, CUT)
    ]
    return torch.stack(both, 1).double() if level.device.type != "mps" else torch.stack(both, 1)


def _means(questions: Questions) -> dict[str, float]:
    return {name: float(np.nanmean(values)) for name, (values, _) in questions.items()}


def measure(folds: Iterable[Questions], ranks: Sequence[Ranks] = (), *, seed: int = 0) -> dict[str, Any]:
    """The mean of each metric over its queries, then over the folds, with a bootstrap interval.

    folds: one per fold, what `Ranks.questions` and `average_precisions` return.  ranks: those of the same folds, for
    median and mean rank.  seed: of the bootstrap.
    Returns the metrics by name, `rsum` where there are recalls, `i2t_median_rank`, `i2t_mean_rank` and so on where
    there are ranks, and `intervals`: [low, high] at 95% for all but the ranks, resampling the images of every fold.
    """
    folds = list(folds)
    means, draws = (
        [_means(fold) for fold in folds],
        [bootstrap_means(fold, seed=seed + k) for k, fold in enumerate(folds)],
    )
    found: dict[str, Any] = {name: float(np.mean([mean[name] for mean in means])) for name in folds[0]}
    drawn = {name: np.mean([draw[name] for draw in draws], axis=0) for name in folds[0]}
    recalls = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in RECALLS]
    if set(recalls) <= set(found):
        found["rsum"] = sum(found[name] for name in recalls)
        drawn["rsum"] = np.sum([drawn[name] for name in recalls], axis=0)
    for way in ("i2t", "t2i") if ranks else ():
        found[f"{way}_median_rank"] = float(np.mean([np.median(fold.ways[way][0]) for fold in ranks]))
        found[f"{way}_mean_rank"] = float(np.mean([np.mean(fold.ways[way][0]) for fold in ranks]))
    return {**found, "intervals": {name: interval(values) for name, values in drawn.items()}}
