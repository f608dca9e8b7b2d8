"""Folds: which model may score a pair, so that no pair is scored by a model that trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 5
#: A caption that more pairs than this share is boilerplate: it does not tie them together.
BOILERPLATE = 10


@dataclass(frozen=True)
class Folds:
    """Which fold each image is in.  Models of fold k never trained on the images of fold k.

    An image is in the fold of its own identity (`fold_of`), unless near-copies or shared captions tie it to others.
    image_id: (t,) int64, ascending, the images that are elsewhere.  fold: (t,) int64, where they are.
    """

    image_id: np.ndarray
    fold: np.ndarray

    @staticmethod
    def of(image_id: np.ndarray, fold: np.ndarray) -> Folds:
        """image_id: (n,) int64, exact identities.  fold: (n,) int64 of each pair, equal for equal images."""
        elsewhere = fold != fold_of(image_id, FOLDS)
        tied, first = np.unique(image_id[elsewhere], return_index=True)
        return Folds(tied, fold[elsewhere][first])

    def __call__(self, image_id: np.ndarray) -> np.ndarray:
        """(n,) int64 exact identities, of any images -> (n,) int64 folds."""
        fold = fold_of(image_id, FOLDS)
        known = np.isin(image_id, self.image_id)
        fold[known] = self.fold[np.searchsorted(self.image_id, image_id[known])]
        return fold


def assign_folds(image_id: np.ndarray, caption_id: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each pair. Copies of an image stay together, and so do pairs that share a rare caption.

    image_id, caption_id: (N,) int64.  Returns (N,) int64 in [0, folds).
    The fold is a hash of the group's smallest image identity, so that it does not change when shards are added, unless
    they tie two groups together.
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
    # A chain of shared captions and images can grow through the whole data set; such a group is cut at its images.
    whole = size[component] <= max(BOILERPLATE, 0.5 * len(images) / folds)
    smallest = np.full(len(size), np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, images)
    return fold_of(np.where(whole, smallest[component], images), folds)[image]


def fold_of(image_id: np.ndarray, folds: int) -> np.ndarray:
    """The fold of an image identity by itself (splitmix64 finaliser, for identities that are not uniform)."""
    x = np.asarray(image_id).astype(np.int64).view(np.uint64).copy()
    with np.errstate(over="ignore"):
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x % np.uint64(folds)).astype(np.int64)
