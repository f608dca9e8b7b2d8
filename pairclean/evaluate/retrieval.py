"""Recall at 1, 5 and 10 in both directions, for as many pairs as fit in memory as vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairclean.pairs import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Cosines nearer than this are tied: about the rounding error of a float32 product of unit vectors.
TIE = 2e-6


def _identities(ids: NDArray[Any] | None, n: int) -> tuple[Ints, Ints]:
    """First row of each identity, and each row's identity as 0, 1, ...; every row is its own where there are no ids."""
    if ids is None:
        return np.arange(n), np.arange(n)
    _, first, code = np.unique(ids, return_index=True, return_inverse=True)
    return first, code


def _ranks(queries: Floats, gallery: Floats, matches: Ints, chunk: int) -> NDArray[np.float64]:
    """Rank of each query's best match in the gallery, inf where it has none with a finite similarity.

    queries: (Q, d).  gallery: (G, d).  matches: (M, 2) distinct (query, item) pairs that belong together.
    One (chunk, chunk) tile at a time, compared with the similarities of the matches, which are taken first.
    """
    query, item = matches[:, 0], matches[:, 1]
    matching = np.empty(len(matches), np.float32)
    for i in range(0, len(matches), chunk):
        rows = slice(i, i + chunk)
        matching[rows] = np.einsum("md,md->m", queries[query[rows]], gallery[item[rows]])
    matching[~np.isfinite(matching)] = -np.inf
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, matching)
    better, tied = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for i in range(0, len(queries), chunk):
        rows = slice(i, i + chunk)
        for j in range(0, len(gallery), chunk):
            gap = queries[rows] @ gallery[j : j + chunk].T - best[rows, None]
            above = np.count_nonzero(gap > TIE, axis=1)
            better[rows] += above
            tied[rows] += np.count_nonzero(gap >= -TIE, axis=1) - above
    own = np.bincount(query[matching >= best[query] - TIE], minlength=len(queries))  # matches do not compete
    rank = 1.0 + better + (np.maximum(tied - own, 0) + 1) // 2
    return np.where(np.isfinite(best), rank, np.inf)


def retrieval(
    image: Floats,
    text: Floats,
    *,
    image_id: NDArray[Any] | None = None,
    caption_id: NDArray[Any] | None = None,
    chunk: int = 4096,
) -> dict[str, float | int]:
    """Recall at 1, 5 and 10 of images asking for captions and of captions asking for images, by cosine.

    image, text: (n, d) float32, L2-normalised, row i of the one belongs with row i of the other.
    image_id, caption_id: (n,) identities: rows of one identity are one item (its first row's vector), and an image and
    a caption match if any row pairs them. None: every row is an item of its own.
    chunk: queries and items compared at once; memory is 4 * chunk² bytes and a little more.

    Images ask once each, and their best caption counts; every row's caption asks, also a repeated one. The rank is
    1 + the non-matching items that are strictly nearer + half of the tied ones, rounded up, so that a constant
    embedding finds nothing; NaN is never near to anything.
    Returns i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10 in percent, their sum `rsum`, and `queries`, the number of
    questions asked in both directions together.
    Raises UserError if there are no pairs; ValueError if the shapes do not fit.
    """
    n = len(image)
    if n == 0:
        raise UserError("There are no pairs to measure retrieval on; give at least one.")
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(f"image and text must be (n, d) alike, not {image.shape} and {text.shape}")
    image_row, image_code = _identities(image_id, n)
    text_row, text_code = _identities(caption_id, n)
    images, texts = image[image_row], text[text_row]
    matches = np.unique(np.stack([image_code, text_code], 1), axis=0)
    with np.errstate(invalid="ignore"):  # what is not finite is dealt with
        ranks = {
            "i2t": _ranks(images, texts, matches, chunk),
            "t2i": _ranks(texts, images, matches[:, ::-1], chunk)[text_code],
        }
    recalls = {f"{way}_r{k}": 100 * float(np.mean(rank <= k)) for way, rank in ranks.items() for k in (1, 5, 10)}
    return {**recalls, "rsum": sum(recalls.values()), "queries": sum(map(len, ranks.values()))}
