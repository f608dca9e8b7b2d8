"""The retrieval model as what `pairclean.clean_vectors` needs of an encoder: pooled vectors, and scorers.

The network compares regions with words, and no inner product of two vectors gives its similarity. So it is handed over
as a `PairScorer`, which ranks; one vector per image and one per caption, pooled from the features before any training,
only find kinds and candidates. A network memorises some of the pairs that it is trained on, wrong ones too. So several
are trained, each without one fold of the images, and each scores the fold that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import chunks
from ..execution import Progress
from ..pairs import UserError
from .data import Ints, RegionCaptions
from .draws import SeededDraws
from .fit import BEST, fit, load_model
from .networks import Architecture, RetrievalModel
from .training import Settings, method

#: Images and captions that are encoded at once, together.
ENCODED = 4096
#: The length of the random vector of a word.
WORD_DIM = 512


class RegionScorer:
    """A `pairclean.arrays.PairScorer` of regions and captions: the similarity of the network, in (0, 1).

    model: in eval mode, on the device where it is to compute.  data: C captions; pair i is caption i and its image.
    half: compute in bfloat16.
    """

    def __init__(self, model: RetrievalModel, data: RegionCaptions, *, half: bool = False) -> None:
        self.model, self.data, self.half = model.eval(), data, half
        self.device = next(model.parameters()).device

    def score(self, image_rows: Ints, text_rows: Ints) -> NDArray[np.float32]:
        """(n,), (n,) int64 rows of pairs -> (n,) float32, of the images of the one and the captions of the other."""
        image = self.data.image_of[image_rows]
        out = np.empty(len(image), np.float32)
        todo = [np.argsort(image, kind="stable")]  # so that an image is encoded few times
        while todo:
            part = todo.pop()
            ends = np.unique(image[part], return_inverse=True), np.unique(text_rows[part], return_inverse=True)
            if len(part) > 1 and len(ends[0][0]) + len(ends[1][0]) > ENCODED:
                todo += np.array_split(part, 2)
            else:
                out[part] = self._compare(*ends)
        return out

    @torch.no_grad()
    def _compare(self, images: tuple[Ints, Ints], captions: tuple[Ints, Ints]) -> NDArray[np.float32]:
        """images, captions: different ones, and which of them each of n pairs has."""
        (image, of_image), (caption, of_caption) = images, captions
        with self._precision():
            regions = self.model.img_enc(self.data.regions(image).to(self.device))
            words, lengths = self.data.words(caption)
            encoded = self.model.txt_enc(words.to(self.device), lengths)
            at = (torch.from_numpy(of).to(self.device) for of in (of_image, of_caption))
            return self.model.sim_enc.paired(regions, encoded, lengths, *at).float().cpu().numpy()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


@dataclass(frozen=True)
class OutOfFold:
    """Scorers that were trained without the pairs that they score: `scorer` and `fold` of `clean_vectors`.

    scorers: one per fold.  fold: (C,) int64: scorers[k] has trained on no pair of fold k.
    """

    scorers: Sequence[RegionScorer]
    fold: Ints


def pooled_vectors(data: RegionCaptions, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One vector per image and one per caption, from the features alone: the image and the text of `clean_vectors`.

    Returns the mean of the regions, (C, d), and the sum of a random vector per word, weighted by the inverse document
    frequency of the word, (C, WORD_DIM).
    """
    image = np.concatenate([data.regions(part).mean(1).numpy() for part in chunks(len(data.images), ENCODED)])
    words = 1 + max(int(caption.max()) for caption in data.captions)
    seen = np.zeros(words)
    for caption in data.captions:
        seen[np.unique(caption)] += 1
    weight = np.log(len(data) / np.maximum(seen, 1)).astype(np.float32)
    vectors = np.random.default_rng(seed).standard_normal((words, WORD_DIM), np.float32)
    text = np.stack([weight[caption] @ vectors[caption] for caption in data.captions])
    return image[data.image_of], text


def fold_by_image(data: RegionCaptions, folds: int, seed: int = 0) -> Ints:
    """(C,) int64 in [0, folds): all captions that are shown with an image are in the fold of the image."""
    order = np.random.default_rng(seed).permutation(len(data.images))
    return order[data.image_of] % folds


def train_out_of_fold(
    data: RegionCaptions,
    dev: RegionCaptions,
    home: Path,
    architecture: Architecture,
    settings: Settings,
    *,
    name: str = "l2rm",
    folds: int = 2,
    clean: Callable[[RegionCaptions], NDArray[np.float64]] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> OutOfFold:
    """Train a model per fold, on the pairs of the others, and keep the one that is best on dev (`fit`).

    data: the pairs to be cleaned.  dev: pairs that are known to be right.  home: each model has a folder `fold0`,
    `fold1`, ... there; a training that was killed is resumed, and nothing is trained again.
    name: as in `method`.  clean: gives the clean probabilities of pairs, of those alone on which a model is trained;
    None lets the method find out which are clean.
    """
    if folds < 2:
        raise UserError(f"{folds} fold leaves no pair to train on: choose at least 2")
    fold, scorers = fold_by_image(data, folds, seed), []
    for k in range(folds):
        part, place = data.take(np.flatnonzero(fold != k)), home / f"fold{k}"
        torch.manual_seed(seed)
        model = RetrievalModel(architecture).to(device)
        known = None if clean is None else clean(part)
        training = method(name, faithful=False)(model, part, settings, SeededDraws(seed), known)
        fit(training, dev, place, progress)
        scorers.append(RegionScorer(load_model(place / BEST).to(device), data, half=settings.half))
    return OutOfFold(scorers, fold)
