"""The networks against outputs, gradients and running statistics of the published code."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pairclean.paper import networks
from pairclean.paper.networks import Architecture, RetrievalModel, attend
from pairclean.paper.published import architecture_of

SMALL = ["sgr", "saf", "sgr_options", "saf_two_layers"]
Vectors = dict[str, np.ndarray]


def under(vectors: Vectors, prefix: str) -> Vectors:
    return {name[len(prefix) :]: value for name, value in vectors.items() if name.startswith(prefix)}


class Kept(nn.Module):
    """Dropout with a given mask."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.mask = torch.tensor(mask, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask / (1 - networks.DROPOUT)


def set_dropout(model: RetrievalModel, **by_name: nn.Module) -> None:
    model.txt_enc.dropout = by_name["words"]
    for side, module in (("img", model.sim_enc.v_global_w), ("cap", model.sim_enc.t_global_w)):
        module.embedding_local[-1] = by_name[f"{side}_local"]
        module.embedding_global[-1] = by_name[f"{side}_global"]


PLACES = ("words", "img_local", "img_global", "cap_local", "cap_global")


def published(vectors: Vectors, case: str) -> RetrievalModel:
    model = RetrievalModel(architecture_of(under(vectors, f"{case}/opt/")))
    state = under(vectors, f"{case}/state/")
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return model.eval()


def inputs(vectors: Vectors, case: str) -> list[torch.Tensor]:
    return [torch.tensor(vectors[f"{case}/in/{name}"]) for name in ("images", "captions", "lengths")]


@pytest.fixture(params=["whole", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The captions compared all at once, and one by one with the parts computed again in the backward pass."""
    if request.param == "in parts":
        monkeypatch.setattr(networks, "LARGEST", 1)
    return request.param


def check_gradients(model: RetrievalModel, vectors: Vectors, prefix: str) -> None:
    norms = under(vectors, f"{prefix}/grad_norm/")
    assert set(norms) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        size = float(norms[name])
        wanted = vectors.get(f"{prefix}/grad/{name}")
        if size > 1e-4:
            assert float(parameter.grad.norm()) == pytest.approx(size, rel=5e-4), name
            if wanted is not None:
                np.testing.assert_allclose(parameter.grad, wanted, rtol=0, atol=2e-4 * abs(wanted).max(), err_msg=name)
        elif wanted is not None:
            np.testing.assert_allclose(parameter.grad, wanted, rtol=0, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("case", SMALL)
def test_the_stages_of_the_model_are_the_published_ones(vectors: Vectors, case: str) -> None:
    model, (images, captions, lengths) = published(vectors, case), inputs(vectors, case)
    wanted = under(vectors, f"{case}/eval/")
    with torch.no_grad():
        regions, words = model.img_enc(images), model.txt_enc(captions, lengths)
        real = torch.arange(words.shape[1]) < lengths[:, None]
        one = int(wanted["attended_caption_index"])
        found = {
            "regions": regions,
            "words": words,
            "img_global": model.sim_enc.v_global_w(regions),
            "cap_global": model.sim_enc.t_global_w(words, real),
            "attended": attend(regions, words[one : one + 1])[:, 0],
        }
    for name, value in found.items():
        np.testing.assert_allclose(
            value[:, : wanted[name].shape[1]], wanted[name], rtol=0, atol=3e-5 if name == "attended" else 1e-5
        )


@pytest.mark.parametrize("case", SMALL)
def test_similarities_and_gradients_are_the_published_ones(vectors: Vectors, case: str, parts: None) -> None:
    model = published(vectors, case)
    similarity = model(*inputs(vectors, case))
    np.testing.assert_allclose(similarity.detach(), vectors[f"{case}/eval/sims"], rtol=0, atol=1e-5)
    similarity.sum().backward()
    check_gradients(model, vectors, f"{case}/eval")


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("mode", ["train_nodrop", "train"])
def test_training_is_the_published_one(vectors: Vectors, case: str, mode: str, parts: None) -> None:
    model = published(vectors, case).train()
    if mode == "train":
        set_dropout(model, **{place: Kept(vectors[f"{case}/train/keep/{place}"]) for place in PLACES})
    else:
        set_dropout(model, **{place: nn.Identity() for place in PLACES})
    similarity = model(*inputs(vectors, case))
    np.testing.assert_allclose(similarity.detach(), vectors[f"{case}/{mode}/sims"], rtol=0, atol=1e-5)
    similarity.sum().backward()
    check_gradients(model, vectors, f"{case}/{mode}")
    state, after = model.state_dict(), under(vectors, f"{case}/{mode}/after/")
    assert set(after) == {name for name, _ in model.named_buffers()}
    for name, value in after.items():
        np.testing.assert_allclose(state[name], value, rtol=0, atol=1e-5, err_msg=name)


def numbers(label: str, n: int) -> np.ndarray:
    """n numbers in [-1, 1) from a string: SplitMix64, started at the FNV-1a hash of its UTF-8."""
    state = 0xCBF29CE484222325
    for byte in label.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


@pytest.mark.parametrize("case", ["full_sgr", "full_saf"])
def test_the_published_sizes_give_the_published_similarities(vectors: Vectors, case: str) -> None:
    given = under(vectors, f"{case}/")
    model = RetrievalModel(Architecture(words=500, module=str(given["opt/module_name"])))
    state = model.state_dict()
    formulas, shapes, tag = under(given, "formula/"), under(given, "shape/"), given["tag"]
    assert set(formulas) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, (offset, scale) in formulas.items():
        assert tuple(shapes[name]) == tuple(state[name].shape)
        drawn = offset + scale * numbers(f"{tag}:{name}", state[name].numel())
        state[name] = torch.tensor(drawn.astype(np.float32)).reshape(state[name].shape)
    model.load_state_dict(state)
    model.eval()
    for name in under(given, "weight/"):
        if name.endswith("_at"):
            values = state[name[:-3]].flatten()[given[f"weight/{name}"]]
            np.testing.assert_allclose(values, given[f"weight/{name[:-3]}_values"], rtol=0, atol=1e-6)
    n = int(given["opt/B"])
    images = np.maximum(numbers(f"{tag}:images", n * 36 * 2048), 0) ** 2 * 0.6
    images = torch.tensor(images.astype(np.float32)).reshape(n, 36, 2048)
    captions, lengths = torch.tensor(given["in/captions"]), torch.tensor(given["in/lengths"])
    with torch.no_grad():
        encoded = {"regions": model.img_enc(images), "words": model.txt_enc(captions, lengths)}
    for name, value in encoded.items():
        flat = value.flatten()
        np.testing.assert_allclose(flat[given[f"eval/{name}_at"]], given[f"eval/{name}_values"], rtol=0, atol=1e-6)
        assert float(flat.double().norm()) == pytest.approx(given[f"eval/{name}_summary"][2], rel=5e-4)
    similarity = model(images, captions, lengths)
    np.testing.assert_allclose(similarity.detach(), given["eval/sims"], rtol=0, atol=5e-6)
    similarity.sum().backward()
    for name, parameter in model.named_parameters():
        if (size := float(given[f"eval/grad_norm/{name}"])) > 1e-4:
            assert float(parameter.grad.norm()) == pytest.approx(size, rel=5e-4), name


@pytest.mark.parametrize("module", ["SGR", "SAF"])
def test_padding_changes_nothing(module: str) -> None:
    torch.manual_seed(0)
    of = Architecture(words=20, module=module, image_dim=8, word_dim=6, joint_dim=10, similarity_dim=5, regions=7)
    model = RetrievalModel(of).eval()
    images, captions = torch.rand(3, 7, 8), torch.randint(4, 20, (4, 5))
    lengths = torch.tensor([5, 2, 4, 1])
    longer = nn.functional.pad(captions, (0, 3), value=11)  # what stands after the end is never read
    with torch.no_grad():
        torch.testing.assert_close(model(images, longer, lengths), model(images, captions, lengths))


def test_the_model_starts_as_published() -> None:
    torch.manual_seed(0)
    model = RetrievalModel(Architecture(words=500))
    weight = model.img_enc.fc.weight.detach()
    assert float(weight.abs().max()) == pytest.approx((6 / (2048 + 1024)) ** 0.5, rel=1e-3)
    assert float(model.sim_enc.sim_eval_w.bias.detach().abs().max()) == 0
    assert float(model.txt_enc.embed.weight.detach().abs().max()) == pytest.approx(0.1, rel=1e-3)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(15.7, abs=0.05)
    saf = RetrievalModel(Architecture(words=500, module="SAF"))
    assert sum(p.numel() for p in saf.parameters()) / 1e6 == pytest.approx(15.1, abs=0.05)
