"""Training of the whole retrieval model: plainly, by L2RM as published and as this package has it, and by RCAR.

An epoch is a generator of steps: the caller sees each one, and decides when to evaluate and to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..align.cost import LEARNING_RATE as COST_RATE
from ..align.cost import ContextCost, LinearCost, cost_step, supervision
from ..align.l2rm import MASS_LIMIT, MASS_THRESHOLD
from ..align.losses import (
    info_nce,
    same_identity,
    symmetric_kl,
    targets_from_plan,
    triplet_loss,
    triplet_per_pair,
    warm_up_loss,
)
from ..align.mixtures import fit_beta_mixture, split_clean
from ..align.rcar import CONSISTENCY, matching_loss, refurbished_loss
from ..align.transport import Infeasible, partial_plan
from ..pairs import UserError
from .data import Ints, RegionCaptions
from .draws import Draws
from .networks import RetrievalModel
from .plan import released_plan
from .split import split

Floats = NDArray[np.floating[Any]]
#: A loss to step on, and what else is known about the step.
Losses = Iterator[tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the published ones for Flickr30K.

    warm_up, epochs: the epochs of the warm-up and those after it.  decay: after how many epochs, not counting the
    warm-up, the learning rates fall to a tenth.  rate: of Adam.  clip: the largest norm of the gradient.
    reg: entropic regularisation of the published plan, in units of its cost.  mass: what the published plan moves.
    queue: recent noisy images in a plan.  cost_rate: of the published cost's Adam.
    noise: the rate that was planted. The published loop masks the observed pairs only where it is not 0; nothing else
    uses it.  half: compute similarities in bfloat16.
    """

    warm_up: int = 5
    epochs: int = 35
    decay: int = 15
    reg: float = 0.01
    noise: float = 0.2
    batch: int = 128
    rate: float = 2e-4
    clip: float = 2.0
    margin: float = 0.2
    temperature: float = 0.05
    mass: float = 0.1
    queue: int = 128
    cost_rate: float = COST_RATE
    half: bool = False


#: The published schedules.  CC152K has its own noise only, and the published script sets its rate to 0.
SCHEDULES = {
    "f30k": Settings(),
    "coco": replace(Settings(), warm_up=10, epochs=20, decay=10, reg=0.07),
    "cc152k": replace(Settings(), warm_up=10, epochs=40, decay=20, reg=0.07, noise=0.0),
}


@dataclass(frozen=True)
class Step:
    """One step of the optimiser.  grad_norm: before it was clipped.  detail: tensors by name, without gradient."""

    loss: float
    grad_norm: float
    detail: Mapping[str, Tensor] = field(default_factory=dict)


class Training:
    """Warm-up, then the triplet loss with the hardest negatives on all pairs: training that knows of no noise.

    model: is trained in place, on its own device.  data: the training pairs, noise included.
    clean_probability: (C,) float, of each pair, for the methods that use it; None where they find it themselves.
    `epoch` counts the finished epochs, those of the warm-up included.
    """

    def __init__(
        self,
        model: RetrievalModel,
        data: RegionCaptions,
        settings: Settings,
        draws: Draws,
        clean_probability: Floats | None = None,
    ) -> None:
        self.model, self.data, self.settings, self.draws = model, data, settings, draws
        self.clean_probability = clean_probability
        self.device = next(model.parameters()).device
        self.optimiser = torch.optim.Adam(model.parameters(), lr=settings.rate)
        self.epoch = 0
        numbers: dict[bytes, int] = {}
        self.caption_id = np.array([numbers.setdefault(caption.tobytes(), len(numbers)) for caption in data.captions])

    @property
    def done(self) -> bool:
        return self.epoch >= self.settings.warm_up + self.settings.epochs

    def run_epoch(self) -> Iterator[Step]:
        """Train for one epoch; `epoch` is counted up when the last step was taken."""
        self.draws.begin(self.epoch)
        warm = self.epoch < self.settings.warm_up
        self._set_rate(0 if warm else (self.epoch - self.settings.warm_up) // self.settings.decay)
        self.model.train()
        for loss, detail in self._warm_up() if warm else self._train():
            self.optimiser.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            self.optimiser.step()
            yield Step(float(loss.detach()), float(grad_norm), detail)
        self.epoch += 1

    def _set_rate(self, decays: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * 0.1**decays

    def _warm_up(self) -> Losses:
        for pairs in self._batches("warm up", np.arange(len(self.data))):
            yield self._warm_up_loss(pairs), {}

    def _warm_up_loss(self, pairs: Ints) -> Tensor:
        same = self._same(pairs)
        return warm_up_loss(self._similarity(pairs), self.settings.temperature, target=same)

    def _train(self) -> Losses:
        for pairs in self._batches("clean", np.arange(len(self.data))):
            yield triplet_loss(self._similarity(pairs), self.settings.margin, same=self._same(pairs)), {}

    def losses(self) -> NDArray[np.float32]:
        """The loss of every pair by which they are split, (C,), in eval mode and over batches drawn at random."""
        loss = np.zeros(len(self.data), np.float32)
        with self._frozen():
            for pairs in self.draws.batches("split", np.arange(len(loss)), self.settings.batch):
                loss[pairs] = self._loss_per_pair(pairs).cpu().numpy()
        return loss

    def _loss_per_pair(self, pairs: Ints) -> Tensor:
        return triplet_per_pair(self._similarity(pairs), self.settings.margin, same=self._same(pairs))

    def _batches(self, use: Literal["warm up", "split", "clean", "noisy"], among: Ints) -> Iterable[Ints]:
        """Batches of at least two pairs: batch norm needs two images."""
        return (pairs for pairs in self.draws.batches(use, among, self.settings.batch) if len(pairs) > 1)

    def _similarity(self, pairs: Ints, images: Ints | None = None) -> Tensor:
        """Of images and the captions of pairs, (I, B).  images: rows; None means those of the pairs."""
        rows = self.data.image_of[pairs] if images is None else images
        captions, lengths = self.data.words(pairs)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half):
            found = self.model(self.data.regions(rows).to(self.device), captions.to(self.device), lengths)
        return found.float()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Eval mode and no gradient."""
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train()

    def _same(self, pairs: Ints) -> Tensor:
        """Which pairs share their image or their caption, (B, B) bool."""
        image, caption = (torch.from_numpy(ids[pairs]) for ids in (self.data.image_of, self.caption_id))
        return same_identity(image, caption).to(self.device)

    def tensors(self) -> dict[str, Tensor]:
        """The state of training, by name, to be saved."""
        return {
            **_prefixed("model", self.model.state_dict()),
            **_prefixed("adam", adam_tensors(self.optimiser)),
            "epoch": torch.tensor(self.epoch),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`, after which every step is as if training had not been interrupted."""
        self.model.load_state_dict(_under("model", tensors))
        load_adam(self.optimiser, _under("adam", tensors))
        self.epoch = int(tensors["epoch"])


class L2RM(Training):
    """L2RM as this package has it: the published loop with the deviations of `align.l2rm`.

    The cost is permutation-equivariant and has negatives; copies of a pair are neither negatives nor targets; the mass
    follows the share of partners that the queue can hold; rows that receive no mass are left out. Given clean
    probabilities replace the split.
    """

    #: The share of its capacity from which a row or column of the plan counts; None: all count.
    mass_threshold: float | None = MASS_THRESHOLD

    def __init__(
        self,
        model: RetrievalModel,
        data: RegionCaptions,
        settings: Settings,
        draws: Draws,
        clean_probability: Floats | None = None,
    ) -> None:
        super().__init__(model, data, settings, draws, clean_probability)
        #: Images in the queue, newest first, and the pairs that they came from (-1: none).
        self.queue = draws.queue(len(data.images), settings.queue)
        self.queue_pair = np.full(len(self.queue), -1)
        self._begin_cost()

    def _begin_cost(self) -> None:
        self.cost: nn.Module = ContextCost().to(self.device)
        self.cost_optimiser: torch.optim.Optimizer = self.cost.optimiser

    def _train(self) -> Losses:
        """The cost learns on clean pairs before the step's own noisy images enter the queue."""
        clean = self._clean()
        pairs = np.arange(len(clean))
        suspects = pairs[~clean]
        noisy_batches = self._noisy_batches(suspects)
        for own in self._full("clean", pairs[clean]):
            noisy = next(noisy_batches, None)
            if noisy is None:
                yield self._triplet(own)
                continue
            detail = self._learn_cost(own)
            self._enqueue(noisy)
            loss, of_clean = self._triplet(own)
            rematching, of_noisy = self._rematching_loss(noisy, len(suspects))
            yield loss + rematching, {**detail, **of_clean, **of_noisy}

    def _noisy_batches(self, suspects: Ints) -> Iterator[Ints]:
        """Pass after pass over the noisy pairs, without end; nothing where there are hardly any."""
        if len(suspects) < 2:
            return iter(())
        return chain.from_iterable(self._full("noisy", suspects) for _ in count())

    def _full(self, use: Literal["clean", "noisy"], among: Ints) -> Iterable[Ints]:
        """Full batches only, or the single one that there is."""
        least = min(self.settings.batch, len(among))
        return (pairs for pairs in self._batches(use, among) if len(pairs) >= least)

    def _clean(self) -> NDArray[np.bool_]:
        if self.clean_probability is not None:
            return self.clean_probability >= 0.5
        return split_clean(self.losses()) > 0.5

    def _learn_cost(self, clean: Ints) -> dict[str, Tensor]:
        """The self-supervised step: images of clean pairs are planted in the queue, for the cost to find."""
        pair, slot = self.draws.planted(len(clean), len(self.queue))
        images = self.queue.copy()
        images[slot] = self.data.image_of[clean[pair]]
        with self._frozen():
            similarity = self._similarity(clean, images)
        place = (torch.from_numpy(at).to(self.device) for at in (slot, pair))
        target = supervision(*place, rows=len(images), columns=len(clean))
        return {"cost_similarity": similarity, "cost_loss": self._cost_step(similarity, target, clean)}

    def _cost_step(self, similarity: Tensor, target: Tensor, clean: Ints) -> Tensor:
        assert isinstance(self.cost, ContextCost)
        return self.cost.learn(similarity / self.settings.temperature, target @ self._same(clean).float())

    def _enqueue(self, noisy: Ints) -> None:
        length = len(self.queue)
        self.queue = np.concatenate([self.data.image_of[noisy], self.queue])[:length]
        self.queue_pair = np.concatenate([noisy, self.queue_pair])[:length]

    def _triplet(self, clean: Ints) -> tuple[Tensor, dict[str, Tensor]]:
        similarity = self._similarity(clean)
        loss = self._triplet_loss(similarity, clean)
        return loss, {"clean_similarity": similarity.detach(), "triplet": loss.detach()}

    def _triplet_loss(self, similarity: Tensor, clean: Ints) -> Tensor:
        return triplet_loss(similarity, self.settings.margin, same=self._same(clean))

    def _rematching_loss(self, noisy: Ints, suspects: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The images of the queue against the captions of a noisy batch.  suspects: the number of noisy pairs."""
        similarity = self._similarity(noisy, self.queue)
        with torch.no_grad():
            cost, plan = self._plan(similarity.detach(), noisy, suspects)
        by_row, by_column, rows, columns = targets_from_plan(plan, mass_threshold=self.mass_threshold)
        loss = symmetric_kl(
            similarity, by_row, by_column, self.settings.temperature, row_mask=rows, column_mask=columns
        )
        return loss, {"noisy_similarity": similarity.detach(), "cost": cost, "plan": plan, "rematching": loss.detach()}

    def _plan(self, similarity: Tensor, noisy: Ints, suspects: int) -> tuple[Tensor, Tensor]:
        cost = self.cost(similarity / self.settings.temperature)
        image, caption = self.data.image_of, self.caption_id
        same_caption = (self.queue_pair >= 0)[:, None] & (caption[self.queue_pair][:, None] == caption[noisy])
        forbidden = torch.from_numpy((self.queue[:, None] == image[noisy]) | same_caption).to(self.device)
        mass = MASS_LIMIT * min(1.0, len(self.queue) / suspects)
        try:
            return cost, partial_plan(cost, mass, reg=1.0, forbidden=forbidden, tol=1e-2)
        except Infeasible:  # most of the batch are copies of each other
            return cost, torch.zeros_like(cost)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **super().tensors(),
            **_prefixed("cost", self.cost.state_dict()),
            **_prefixed("cost adam", adam_tensors(self.cost_optimiser)),
            "queue": torch.from_numpy(self.queue),
            "queue pair": torch.from_numpy(self.queue_pair),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self.cost.load_state_dict(_under("cost", tensors))
        load_adam(self.cost_optimiser, _under("cost adam", tensors))
        self.queue, self.queue_pair = tensors["queue"].numpy(), tensors["queue pair"].numpy()


class PublishedL2RM(L2RM):
    """L2RM exactly as published, with what looks like faults of the published code:

    - The cost is tied to the batch size and to positions in the batch, and its loss has no negatives.
    - Only the observed pair is masked, not its copies; with `noise` 0 (CC152K) not even that.
    - The plan stops early and moves more than `mass`; rows without mass become uniform targets.
    - Copies of a pair count as negatives.
    - The split depends on a random start and stops before it has converged.
    - Fewer clean pairs than a batch: the epoch has no step, and says nothing. Fewer noisy pairs than a batch: the
      published code ends with StopIteration; here it is a UserError.
    """

    mass_threshold = None

    def _begin_cost(self) -> None:
        if self.settings.queue < self.settings.batch:
            raise UserError(
                f"the published loop needs a queue of at least a batch, {self.settings.batch}; "
                f"it has {self.settings.queue}"
            )
        self.cost = LinearCost(self.settings.batch).to(self.device)
        self.cost_optimiser = torch.optim.Adam(self.cost.parameters(), lr=self.settings.cost_rate)

    def _set_rate(self, decays: int) -> None:
        super()._set_rate(decays)
        for group in self.cost_optimiser.param_groups:
            group["lr"] = self.settings.cost_rate * 0.1**decays

    def _warm_up_loss(self, pairs: Ints) -> Tensor:
        return warm_up_loss(self._similarity(pairs), self.settings.temperature)

    def _clean(self) -> NDArray[np.bool_]:
        loss = self.losses()
        return split(loss, self.draws.mixture_start(loss)).clean

    def _loss_per_pair(self, pairs: Ints) -> Tensor:
        return triplet_per_pair(self._similarity(pairs), self.settings.margin)

    def _noisy_batches(self, suspects: Ints) -> Iterator[Ints]:
        if len(suspects) < self.settings.batch:
            raise UserError(
                f"{len(suspects)} pairs were judged noisy, and the published loop needs at least a batch of "
                f"{self.settings.batch}: leave --faithful out, or make the batch smaller"
            )
        return super()._noisy_batches(suspects)

    def _full(self, use: Literal["clean", "noisy"], among: Ints) -> Iterable[Ints]:
        return (pairs for pairs in self._batches(use, among) if len(pairs) == self.settings.batch)

    def _cost_step(self, similarity: Tensor, target: Tensor, clean: Ints) -> Tensor:
        return cost_step(self.cost, self.cost_optimiser, similarity, target)

    def _triplet_loss(self, similarity: Tensor, clean: Ints) -> Tensor:
        return triplet_loss(similarity, self.settings.margin)

    def _plan(self, similarity: Tensor, noisy: Ints, suspects: int) -> tuple[Tensor, Tensor]:
        cost = self.cost(similarity).clamp(min=1e-10)
        masked = self.settings.noise != 0
        return cost, released_plan(cost, self.settings.mass, self.settings.reg, masked=masked)


class RCAR(Training):
    """RCAR on this network: the steps of `align.rcar`, of which docs/methods.md says what is the publication's.

    The second task of the warm-up: two views of an image, and of a caption, under dropout have to find each other among
    those of the batch. Given clean probabilities replace the beta mixture.
    """

    def _warm_up_loss(self, pairs: Ints) -> Tensor:
        return info_nce(self._logits(pairs), self._same(pairs)) + CONSISTENCY * self._consistency(pairs)

    def _consistency(self, pairs: Ints) -> Tensor:
        images = self.data.image_of[pairs]
        regions, (captions, lengths) = self.data.regions(images).to(self.device), self.data.words(pairs)
        captions = captions.to(self.device)
        image = self._agreement(images, lambda: self.model.image_vectors(regions))
        return (
            image + self._agreement(self.caption_id[pairs], lambda: self.model.caption_vectors(captions, lengths))
        ) / 2

    def _agreement(self, ids: Ints, view: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half):
            one, two = view().float(), view().float()
        identity = torch.from_numpy(ids).to(self.device)
        return info_nce(one @ two.T / self.settings.temperature, same_identity(identity, identity))

    def _train(self) -> Losses:
        noisy = torch.from_numpy(self._noisy()).float().to(self.device)
        for pairs in self._batches("clean", np.arange(len(self.data))):
            own = torch.from_numpy(pairs).to(self.device)
            yield refurbished_loss(self._logits(pairs), noisy[own], self._same(pairs)), {}

    def _noisy(self) -> Floats:
        if self.clean_probability is not None:
            return 1 - self.clean_probability
        loss = self.losses()
        return fit_beta_mixture(loss, steps=100).posterior_noisy(loss)

    def _loss_per_pair(self, pairs: Ints) -> Tensor:
        return matching_loss(self._logits(pairs), self._same(pairs))

    def _logits(self, pairs: Ints) -> Tensor:
        return self._similarity(pairs) / self.settings.temperature


def method(name: str, *, faithful: bool) -> type[Training]:
    """The class that trains by "plain", "l2rm" or "rcar".  faithful: exactly as published, for L2RM."""
    if faithful and name != "l2rm":
        raise UserError(f"only l2rm can be faithful to its publication's code, not {name}: leave --faithful out")
    methods = {"plain": Training, "l2rm": PublishedL2RM if faithful else L2RM, "rcar": RCAR}
    if name not in methods:
        raise UserError(f"there is no method {name}: choose one of {', '.join(methods)}")
    return methods[name]


def adam_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of Adam, by the number of the parameter and their name."""
    state = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, of in state.items() for name, value in of.items()}


def load_adam(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}
