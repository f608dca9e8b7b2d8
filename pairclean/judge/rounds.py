"""Learning a common space from the pairs themselves, in two rounds, one model per fold.

The first round trusts no pair (or learns nothing, if the encoder is aligned already). What its out-of-fold scores say
about each pair is what the second round learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from ..align import Alignment, Canonical, Method, ZeroShot
from ..arrays import Pairs
from ..execution import Progress, side_by_side
from ..methods import METHODS, choose, load
from ..pairs import UserError
from .calibration import FEWEST, cannot_judge, judge_scores
from .crossfit import CrossFit
from .folds import FOLDS, Folds, assign_folds
from .held_out import draw_sure
from .kinds import PairKinds, Partition
from .near_duplicates import near_identities

#: Classes of the images, and of the captions: (N, C) each, non-zero where a pair is of a class; None where not known.
Labels = tuple["csr_matrix | None", "csr_matrix | None"]
Make = Callable[[str], Method]  # given the device to learn on


@dataclass(frozen=True)
class Learned:
    """The models of both rounds.

    method: the one taken, None if there were too few pairs to learn from.
    first: one model per fold, or the encoder alone.  aligned: one model per fold; empty if there was no second round.
    folds: which images each fold's model never saw.
    image_id, caption_id: (N,) int64 identities in which near-copies share one.
    partition: the kinds of images and of captions, in the space of the first of `first`.  kind_column: as in `learn`.
    held_out: (h,) int64 rows of likely matched pairs that aligned[0] never trained on; None if the models trained on
    none of the N pairs.
    """

    method: str | None
    first: list[Alignment]
    aligned: list[Alignment]
    folds: Folds
    image_id: np.ndarray
    caption_id: np.ndarray
    partition: Partition
    kind_column: np.ndarray | None = None
    held_out: np.ndarray | None = None

    def near(self, pairs: Pairs) -> Pairs:
        """The same pairs under identities in which near-copies share one."""
        return pairs.with_ids(self.image_id, self.caption_id)

    def kinds(self, pairs: Pairs, rows: np.ndarray, column: np.ndarray | None) -> PairKinds:
        """Of the pairs `rows` (n,).  column: kinds that the data bring along, as in `learn`."""
        return PairKinds.of(self.partition, self.near(pairs), rows, column, self.first[0] if self.first else None)

    def cross_fit(self, models: list[Alignment], pairs: Pairs, rows: np.ndarray) -> CrossFit:
        """Models of one round, each for its fold of the pairs `rows`.  pairs: with their exact identities."""
        return CrossFit(models, rows, self.folds(pairs.image_id[rows]))


def learn(
    pairs: Pairs,
    rows: np.ndarray,
    *,
    method: str = "l2rm",
    comparable: bool,
    labels: Labels = (None, None),
    kind_column: np.ndarray | None = None,
    seed: int = 0,
    devices: Sequence[str] = ("cpu",),
    progress: Progress | None = None,
) -> Learned:
    """Learn from the pairs `rows` (n,) of N.

    pairs: the encoder's vectors, with identities that are equal for exact copies.
    method: one of `Config.method`; "auto" chooses by the rule in `pairclean.methods`.
    comparable: whether images and captions share the encoder's space.  labels: what drcl learns from.
    devices: where the models are fitted, one fold at a time on each; a model stays on its device. All devices read the
    same vectors, and on devices of one kind the models do not depend on how many there are.
    kind_column: (N,) int64 kinds that the data bring along, -1 where none is known; None finds kinds by itself.
    Raises UserError for zero-shot if the two spaces are not comparable.
    """
    progress = progress or Progress()
    image_id = near_identities(pairs.image, pairs.image_id, rows)
    caption_id = near_identities(pairs.text, pairs.caption_id, rows)
    near = pairs.with_ids(image_id, caption_id)
    fold = assign_folds(image_id[rows], caption_id[rows], FOLDS)
    folds = Folds.of(pairs.image_id[rows], fold)
    if len(rows) < FEWEST:
        return Learned(None, [], [], folds, image_id, caption_id, Partition.fit(near, rows, seed=seed), kind_column)
    taken = choose(method, comparable=comparable, pairs=len(rows))
    start, second = _rounds(taken, comparable, labels, seed)
    progress.start("align", FOLDS * ((start is not None) + (second is not None)))
    others = [rows[fold != k] for k in range(FOLDS)]

    def fit(make: Make, clean: np.ndarray | None) -> list[Alignment]:
        def one(k: int, device: str) -> Alignment:
            return make(device).fit(near, others[k], clean)

        return side_by_side(one, FOLDS, devices, progress.advance)

    first: list[Alignment] = [ZeroShot(device=devices[0])] if start is None else fit(start, None)
    partition = Partition.fit(near, rows, first[0], seed=seed)
    if method == "zero-shot":  # asked for by name: nothing has to be compared
        return Learned(taken, first, [], folds, image_id, caption_id, partition, kind_column)
    kinds = PairKinds.of(partition, near, rows, kind_column, first[0])
    scores = CrossFit(first, rows, fold).scores(near, kinds, seed=seed)
    if start is None and cannot_judge(scores):
        # The two spaces have the same number of dimensions and nothing else in common: learn as for different spaces.
        taken = "l2rm" if taken == "zero-shot" else taken
        start, second = _rounds(taken, False, labels, seed)
        assert start is not None
        progress.start("align", 2 * FOLDS)
        first = fit(start, None)
        partition = Partition.fit(near, rows, first[0], seed=seed)
        kinds = PairKinds.of(partition, near, rows, kind_column, first[0])
        scores = CrossFit(first, rows, fold).scores(near, kinds, seed=seed)
    if method == "auto":
        progress.say(f"--method auto took {taken}")
    if second is None or cannot_judge(scores):
        return Learned(taken, first, [], folds, image_id, caption_id, partition, kind_column)
    clean = np.zeros(len(pairs))
    clean[rows] = judge_scores(scores, scores, seed=seed).clean_probability(scores.scored)
    aligned = fit(second, clean)
    unseen = np.zeros(len(pairs))
    unseen[rows[fold == 0]] = clean[rows[fold == 0]]
    held_out = draw_sure(unseen, np.random.default_rng(seed))
    return Learned(taken, first, aligned, folds, image_id, caption_id, partition, kind_column, held_out)


def _rounds(method: str, comparable: bool, labels: Labels, seed: int) -> tuple[Make | None, Make | None]:
    """How the models of the two rounds are made; None for the encoder as it is, and for no second round."""

    def canonical(device: str) -> Method:
        return Canonical(device=device)

    first = None if comparable else canonical
    if method == "zero-shot":
        if not comparable:
            raise UserError(
                "the encoder's vectors of images and of captions cannot be compared without learning: choose --method "
                "l2rm or canonical"
            )
        return None, None
    if method == "canonical":
        return canonical, canonical
    learner = load(method)
    if METHODS[method].labels:
        return first, lambda device: learner(*labels, device=device, seed=seed)
    return first, lambda device: learner(comparable=comparable, device=device, seed=seed)
