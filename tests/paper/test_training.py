"""Training, replayed step by step with the random draws of the published code, and by itself on drawn pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pairclean.pairs import UserError
from pairclean.paper.data import RegionCaptions, make_noise
from pairclean.paper.draws import SeededDraws
from pairclean.paper.evaluation import recalls, similarities
from pairclean.paper.generated import architecture, draw
from pairclean.paper.networks import DROPOUT, RetrievalModel
from pairclean.paper.published import architecture_of
from pairclean.paper.split import split
from pairclean.paper.training import L2RM, RCAR, PublishedL2RM, Settings, Step, Training, method

Vectors = dict[str, np.ndarray]
LOOPS = ["loop_sgr", "loop_saf"]
PLACES = ("words", "img_local", "img_global", "cap_local", "cap_global")


class StoredDraws:
    """The draws of the published run."""

    identity = "stored"

    def __init__(self, of: Vectors) -> None:
        self.of, self.now, self.step = of, "warmup0", 0

    def begin(self, epoch: int) -> None:
        self.now, self.step = "warmup0" if epoch == 0 else f"epoch{epoch - 1}", 0

    def batches(self, use: str, among: np.ndarray, size: int) -> list[np.ndarray]:
        key = {"warm up": "batches", "split": "split/batches", "clean": "clean_batches", "noisy": "noisy_batches"}[use]
        batches = [batch[batch >= 0] for batch in self.of[f"{self.now}/{key}"]]
        if use in ("clean", "noisy"):  # the stored run is of these pairs
            chosen = self.of[f"{self.now}/split/clean"] == (use == "clean")
            assert chosen[np.concatenate(batches)].all()
        return batches

    def queue(self, images: int, length: int) -> np.ndarray:
        return self.of["queue_start_images"]

    def planted(self, pairs: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
        pair, slot = (self.of[f"{self.now}/{name}"][self.step] for name in ("clean_picked", "queue_slots"))
        self.step += 1
        return pair[pair >= 0], slot[slot >= 0]

    def mixture_start(self, loss: np.ndarray) -> np.ndarray:
        return self.of[f"{self.now}/split/kmeans_start_label"]


class StoredDropout(nn.Module):
    """The masks of the published run, one after the other."""

    def __init__(self, of: Vectors, place: str) -> None:
        super().__init__()
        self.masks = self._masks(of, place)

    @staticmethod
    def _masks(of: Vectors, place: str) -> Iterator[torch.Tensor]:
        steps = [f"warmup0/keep/{place}/{step}" for step in range(len(of["warmup0/losses"]))]
        for epoch in (0, 1):
            for step in range(int(of[f"epoch{epoch}/steps"])):
                steps += [f"epoch{epoch}/keep/{kind}_{place}/{step}" for kind in ("clean", "noisy")]
        for key in steps:
            shape = of[key.replace("/keep/", "/keep_shape/")]
            bits = np.unpackbits(of[key])[: shape.prod()].reshape(shape)
            yield torch.tensor(bits, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * next(self.masks) / (1 - DROPOUT)


def replay(vectors: Vectors, loop: str) -> tuple[Vectors, PublishedL2RM]:
    of = {name[len(loop) + 1 :]: value for name, value in vectors.items() if name.startswith(f"{loop}/")}
    opt: dict[str, Any] = {name[4:]: value.item() for name, value in of.items() if name.startswith("opt/")}
    model = RetrievalModel(architecture_of(opt))
    load(model, of, "state_start")
    places = {p: StoredDropout(of, p) if opt.get("dropout", DROPOUT) else nn.Identity() for p in PLACES}
    model.txt_enc.dropout = places["words"]
    for side, module in (("img", model.sim_enc.v_global_w), ("cap", model.sim_enc.t_global_w)):
        module.embedding_local[-1], module.embedding_global[-1] = places[f"{side}_local"], places[f"{side}_global"]
    captions = [ids[:n] for ids, n in zip(of["data/captions"], of["data/lengths"], strict=True)]
    settings = Settings(
        warm_up=opt["warmup_epoch"],
        epochs=opt["num_epochs"],
        decay=opt["lr_update"],
        reg=opt["reg"],
        noise=opt["noise_ratio"],
        batch=opt["batch_size"],
        rate=opt["lr"],
        clip=opt["grad_clip"],
        margin=opt["margin"],
        temperature=opt["tau"],
        mass=opt["rho"],
        queue=opt["queue_length"],
        cost_rate=opt["lr_cost"],
    )
    data = RegionCaptions(of["data/images"], captions, of["data/image_of_caption"])
    return of, PublishedL2RM(model, data, settings, StoredDraws(of))


def load(model: RetrievalModel, of: Vectors, state: str) -> None:
    prefix = f"{state}/"
    stored = {name[len(prefix) :]: torch.tensor(v) for name, v in of.items() if name.startswith(prefix)}
    model.load_state_dict(stored)


def check_recalls(model: RetrievalModel, data: RegionCaptions, of: Vectors, name: str) -> None:
    similarity = similarities(model, data)
    np.testing.assert_allclose(similarity, of[f"{name}/sims"], rtol=0, atol=5e-3)
    found = recalls(similarity, data.per_image)
    np.testing.assert_allclose(found.six, of[f"{name}/recalls"], rtol=0, atol=1.0)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_step_is_the_published_one(vectors: Vectors, loop: str) -> None:
    of, training = replay(vectors, loop)
    steps = list(training.run_epoch())
    np.testing.assert_allclose([s.loss for s in steps], of["warmup0/losses"], rtol=1e-5)
    np.testing.assert_allclose([s.grad_norm for s in steps], of["warmup0/grad_norms"], rtol=1e-4)
    for epoch in (0, 1):
        key = f"epoch{epoch}"
        steps = list(training.run_epoch())

        def found(name: str, steps: list[Step] = steps) -> np.ndarray:
            return torch.stack([step.detail[name] for step in steps]).numpy()

        np.testing.assert_allclose([s.loss for s in steps], of[f"{key}/losses"], rtol=1e-5)
        np.testing.assert_allclose([s.grad_norm for s in steps], of[f"{key}/grad_norms"], rtol=1e-4)
        np.testing.assert_allclose(found("triplet"), of[f"{key}/triplet"], rtol=1e-5)
        np.testing.assert_allclose(found("rematching"), of[f"{key}/skl"], rtol=0, atol=1e-5)
        for name, wanted, atol in (
            ("clean_similarity", "sims_clean", 1e-4),
            ("noisy_similarity", "sims_noisy", 1e-4),
            ("cost_similarity", "sims_cost_step", 5e-3),
            ("cost", "cost", 1e-4),
            ("plan", "plans", 5e-5 * of[f"{key}/plans"].max()),
        ):
            np.testing.assert_allclose(found(name), of[f"{key}/{wanted}"], rtol=0, atol=atol, err_msg=name)
        np.testing.assert_allclose(found("cost_loss"), of[f"{key}/cost_losses"], rtol=4e-3)
        np.testing.assert_allclose(training.cost.linear.weight.detach(), of[f"{key}/cost_weight"], rtol=0, atol=5e-6)
        np.testing.assert_allclose(training.cost.linear.bias.detach(), of[f"{key}/cost_bias"], rtol=0, atol=5e-6)
    assert training.done
    check_recalls(training.model, training.data, of, "epoch1")


@pytest.mark.parametrize("loop", LOOPS)
def test_the_split_from_a_stored_state_is_the_published_one(vectors: Vectors, loop: str) -> None:
    of, training = replay(vectors, loop)
    load(training.model, of, "state_after_warmup")
    training.draws.begin(1)
    losses = training.losses()
    np.testing.assert_allclose(losses, of["epoch0/split/losses"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(similarities(training.model, training.data), of["warmup0/sims"], rtol=0, atol=5e-6)
    for epoch in (0, 1):  # the mixture from the stored losses
        key = f"epoch{epoch}/split"
        found = split(of[f"{key}/losses"], of[f"{key}/kmeans_start_label"])
        np.testing.assert_allclose(found.posterior_clean, of[f"{key}/posterior_clean"], rtol=0, atol=1e-8)
        np.testing.assert_array_equal(found.clean, of[f"{key}/clean"])
    load(training.model, of, "state_end")
    np.testing.assert_allclose(similarities(training.model, training.data), of["epoch1/sims"], rtol=0, atol=5e-6)


# --- on drawn pairs, with random draws --------------------------------------------------------------------------------

SMALL = replace(Settings(), warm_up=1, epochs=1, decay=5, batch=32, queue=32, rate=1e-3)


def training_of(
    kind: type[Training],
    settings: Settings = SMALL,
    *,
    clean: np.ndarray | None = None,
    split: np.ndarray | None = None,
    monkeypatch: pytest.MonkeyPatch | None = None,
) -> Training:
    """160 pairs, 40% of the captions with other images.

    clean: (160,) given probabilities.  split: (160,) bool, in place of the split that the method makes.
    """
    torch.manual_seed(0)
    data = draw(160, seed=0, copies=True)
    noisy = data.with_noise(make_noise(data, 0.4, "captions", seed=0))
    training = kind(RetrievalModel(architecture("SGR")), noisy, settings, SeededDraws(0), clean)
    if split is not None and monkeypatch is not None:
        monkeypatch.setattr(training, "_clean", lambda: split, raising=False)
    return training


HALVES = np.repeat([True, False], 80)


@pytest.mark.parametrize("kind", [Training, L2RM, PublishedL2RM, RCAR])
def test_training_goes_on_from_its_state_as_if_it_had_not_stopped(
    kind: type[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SMALL, epochs=2, decay=1)
    whole = training_of(kind, settings, split=HALVES, monkeypatch=monkeypatch)
    first = [[step.loss for step in whole.run_epoch()] for _ in range(2)]
    state = {name: value.clone() for name, value in whole.tensors().items()}
    rest = [step.loss for step in whole.run_epoch()]
    assert all(len(losses) >= 2 for losses in first)
    assert whole.done
    resumed = training_of(kind, settings, split=HALVES, monkeypatch=monkeypatch)
    torch.manual_seed(99)  # what the generators were at does not matter
    resumed.load(state)
    assert [step.loss for step in resumed.run_epoch()] == rest
    for name, value in resumed.tensors().items():
        assert torch.equal(value, whole.tensors()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Training, L2RM, RCAR])
def test_training_learns_to_retrieve(kind: type[Training]) -> None:
    torch.manual_seed(0)
    settings = replace(SMALL, warm_up=15, epochs=3, batch=16, queue=16, rate=2e-3)
    training = kind(RetrievalModel(architecture("SGR")), draw(400, seed=0), settings, SeededDraws(0))
    while not training.done:
        list(training.run_epoch())
    guessing = 2 * (1 + 5 + 10)
    assert recalls(similarities(training.model, draw(100, seed=7)), 1).rsum > 2 * guessing


def test_the_learning_rate_falls_after_the_warm_up_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, warm_up=2, epochs=3, decay=2)
    training = training_of(PublishedL2RM, settings, split=HALVES, monkeypatch=monkeypatch)
    rates = []
    while not training.done:
        list(training.run_epoch())
        rates.append((training.optimiser.param_groups[0]["lr"], training.cost_optimiser.param_groups[0]["lr"]))
    cost_rate = SMALL.cost_rate
    expected = [(1e-3, cost_rate)] * 4 + [(1e-4, cost_rate / 10)]
    np.testing.assert_allclose(rates, expected)


def test_ours_moves_nothing_to_a_copy_and_as_much_as_the_queue_can_hold() -> None:
    training = training_of(L2RM, clean=np.repeat([1.0, 0.0], [64, 96]))
    list(training.run_epoch())
    steps = list(training.run_epoch())
    assert len(steps) == 2  # full batches of 64 clean pairs
    for step in steps:
        assert float(step.detail["plan"].sum()) == pytest.approx(0.5 * 32 / 96, rel=1e-2)
    image, caption = training.data.image_of, training.caption_id
    queue = training.queue_pair[training.queue_pair >= 0]
    same = (training.queue[: len(queue), None] == image[queue]) | (caption[queue][:, None] == caption[queue])
    plan = steps[-1].detail["plan"].numpy()
    assert plan[same[: len(plan), : plan.shape[1]]].max() == 0


def test_the_published_loop_masks_nothing_where_the_rate_is_said_to_be_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    for noise, masked in ((0.4, True), (0.0, False)):
        training = training_of(PublishedL2RM, replace(SMALL, noise=noise), split=HALVES, monkeypatch=monkeypatch)
        list(training.run_epoch())
        (step, *_) = training.run_epoch()
        assert (float(step.detail["plan"].diagonal().max()) < 1e-30) == masked


def test_too_few_noisy_pairs_stop_the_published_loop_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, warm_up=0, batch=64, queue=64)
    few = np.repeat([1.0, 0.0], [140, 20])
    published = training_of(PublishedL2RM, settings, split=few > 0.5, monkeypatch=monkeypatch)
    with pytest.raises(
        UserError, match="20 pairs were judged noisy, and the published loop needs at least a batch of 6"
    ):
        list(published.run_epoch())
    ours = list(training_of(L2RM, settings, clean=few).run_epoch())
    assert [step.detail["plan"].shape for step in ours] == [(64, 20)] * 2
    alone = list(training_of(L2RM, settings, clean=np.ones(160)).run_epoch())
    assert all("plan" not in step.detail for step in alone)


def test_too_few_clean_pairs_leave_the_published_loop_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    few, settings = np.repeat([True, False], [20, 140]), replace(SMALL, warm_up=0)
    assert not list(training_of(PublishedL2RM, settings, split=few, monkeypatch=monkeypatch).run_epoch())
    (step,) = training_of(L2RM, settings, clean=few.astype(float)).run_epoch()
    assert step.detail["clean_similarity"].shape == (20, 20)


def test_a_queue_smaller_than_a_batch_is_refused_by_the_published_loop() -> None:
    with pytest.raises(UserError, match="needs a queue of at least a batch, 32; it has 16"):
        training_of(PublishedL2RM, replace(SMALL, queue=16))


@pytest.mark.parametrize("module", ["SGR", "SAF"])
def test_half_precision_takes_nearly_the_same_first_step(module: str) -> None:
    losses = []
    for half in (False, True):
        torch.manual_seed(0)
        model = RetrievalModel(architecture(module))
        training = L2RM(model, draw(64, seed=0), replace(SMALL, half=half), SeededDraws(0))
        losses.append([step.loss for step in training.run_epoch()])
        assert all(torch.isfinite(value).all() for value in training.tensors().values())
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_given_probabilities_replace_the_split() -> None:
    clean = np.repeat([1.0, 0.0], [70, 90])
    training = training_of(L2RM, replace(SMALL, warm_up=0), clean=clean)
    steps = list(training.run_epoch())
    assert len(steps) == 2
    assert all(pair >= 70 for pair in training.queue_pair)
    noisy = training_of(RCAR, clean=clean)._noisy()
    np.testing.assert_array_equal(noisy, 1 - clean)


def test_a_method_is_found_by_its_name() -> None:
    assert method("l2rm", faithful=True) is PublishedL2RM
    assert method("l2rm", faithful=False) is L2RM
    assert method("plain", faithful=False) is Training
    with pytest.raises(UserError, match="only l2rm can be faithful"):
        method("rcar", faithful=True)
    with pytest.raises(UserError, match="there is no method ncr: choose one of plain, l2rm, rcar"):
        method("ncr", faithful=False)


def test_seeded_draws_cover_every_pair_once() -> None:
    draws = SeededDraws(3)
    draws.begin(2)
    batches = draws.batches("clean", np.arange(10, 33), 5)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(np.concatenate(batches)) == list(range(10, 33))
    sizes = set()
    for _ in range(60):
        pair, slot = draws.planted(40, 25)
        assert len(pair) == len(set(pair)) == len(slot) == len(set(slot))
        sizes.add(len(pair))
    assert sizes == {1, 2, 3, 4}
    assert len(set(draws.queue(50, 20))) == 20
