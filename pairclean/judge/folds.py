"""Folds: which model may score a pair, so that no pair is scored by a model that trained on it."""

from __future__ import annotations

import numpy as np

#: A caption that more pairs than this share is boilerplate: it ties nothing together.
BOILERPLATE = 10


def assign_folds(image_id: np.ndarray, caption_id: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each pair; copies of an image, and pairs that share a caption few others have, stay together.

    image_id, caption_id: (N,) int64.  Returns (N,) int64 in [0, folds).
    A fold is drawn from a hash of the group's smallest image identity, so that it does not change when shards are
    added, except where they tie two groups together.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    images, image = np.unique(image_id, return_inverse=True)
    _, caption, copies = np.unique(caption_id, return_inverse=True, return_counts=True)
    tied = copies[caption] <= BOILERPLATE
    nodes = len(images) + len(copies)
    edges = (np.ones(tied.sum(), np.int8), (image[tied], len(images) + caption[tied]))
    _, component = connected_components(coo_matrix(edges, shape=(nodes, nodes)), directed=False)
    component = component[: len(images)]
    size = np.bincount(component)
    # A chain of shared captions and images can grow through the whole data; such a group is cut at its images.
    whole = size[component] <= max(BOILERPLATE, 0.5 * len(images) / folds)
    smallest = np.full(len(size), np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, images)
    return fold_of(np.where(whole, smallest[component], images), folds)[image]


def fold_of(image_id: np.ndarray, folds: int) -> np.ndarray:
    """The fold that an image identity alone falls in (splitmix64 finaliser, for identities that are not uniform)."""
    x = np.asarray(image_id).astype(np.int64).view(np.uint64).copy()
    with np.errstate(over="ignore"):
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x % np.uint64(folds)).astype(np.int64)
