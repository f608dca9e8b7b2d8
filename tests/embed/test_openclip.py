"""Any open_clip model gives open_clip's own vectors; whatever cannot be had gets one sentence."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw
from torchvision.transforms import InterpolationMode, Resize

from pairclean.embed import openclip as module
from pairclean.embed import resizing
from pairclean.embed.decode import decode
from pairclean.embed.load import load_encoder
from pairclean.embed.openclip import OpenClip
from pairclean.embed.resizing import by_pillow, by_torchvision
from pairclean.pairs import UserError
from pairclean.synthetic.scenes import draw_scenes

CAPTIONS = ["a red square on blue", "two green circles", "日本語の説明", "a very long caption " * 40]


@pytest.fixture(scope="module")
def tinyclip(shared: Path) -> Path:
    return shared / "models" / "tinyclip"


@pytest.fixture(scope="module")
def encoder(tinyclip: Path) -> OpenClip:
    return OpenClip(f"local-dir:{tinyclip}", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Scenes of several sizes and shapes."""
    drawn = []
    for i, size in enumerate([(320, 240), (100, 300), (160, 160), (41, 37), (500, 90)]):
        image = Image.new("RGB", size, (40 * i, 90, 200 - 30 * i))
        pen = ImageDraw.Draw(image)
        pen.rectangle((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill="red")
        pen.ellipse((size[0] // 2, size[1] // 3, size[0] - 3, size[1] - 3), fill="green")
        drawn.append(image)
    return drawn


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_vectors_are_those_of_open_clip(encoder: OpenClip, tinyclip: Path, pictures: list[Image.Image]) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tinyclip}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tinyclip}")
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([transform(p) for p in pictures]), normalize=True).numpy()
        texts = model.encode_text(tokenize(CAPTIONS), normalize=True).numpy()
    prepared = [encoder.prepare(p) for p in pictures]
    assert {(p.dtype, p.shape) for p in prepared} == {(np.dtype(np.uint8), (160, 160, 3))}
    found = encoder.encode_images(prepared)
    assert (found.dtype, found.shape) == (np.float32, (5, encoder.image_dim))
    assert (found * images).sum(1).min() > 0.9999
    exact = OpenClip(f"local-dir:{tinyclip}", device="cpu", exact=True)
    np.testing.assert_allclose(exact.encode_images([exact.prepare(p) for p in pictures]), images, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_captions(CAPTIONS), texts, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_padding_is_left_away(encoder: OpenClip, tinyclip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_clip.create_model_and_transforms(f"local-dir:{tinyclip}")[0]
    tokens = open_clip.get_tokenizer(f"local-dir:{tinyclip}")(CAPTIONS[:3])
    with torch.inference_mode():
        expected = model.eval().encode_text(tokens, normalize=True).numpy()
    lengths = []
    tower = encoder._text_tower
    monkeypatch.setattr(encoder, "_text_tower", lambda given: (lengths.append(given.shape[1]), tower(given))[1])
    np.testing.assert_allclose(encoder.encode_captions(CAPTIONS[:3]), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_captions(CAPTIONS[:1]), expected[:1], atol=1e-5)
    encoder.encode_captions(CAPTIONS)
    assert lengths == [int((tokens != 0).sum(1).max()), 7, 32]


def test_description(encoder: OpenClip, tinyclip: Path) -> None:
    described = json.loads(json.dumps(encoder.description))
    assert described["model"] == "local-dir:tinyclip"
    assert described["dtype"] == "float32"  # batch-normed, so that auto does not round to bfloat16
    assert described["open_clip"] == open_clip.__version__
    assert described["preprocessing"]["size"] == 160 or described["preprocessing"]["size"] == [160, 160]
    assert described["architecture"]["text_cfg"]["context_length"] == 32
    assert (encoder.image_dim, encoder.text_dim, encoder.comparable, encoder.device) == (256, 256, True, "cpu")


def test_the_weights_are_told_apart(encoder: OpenClip, tinyclip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other" / "tinyclip"
    copy.mkdir(parents=True)
    shutil.copy(tinyclip / "open_clip_config.json", copy)
    state = open_clip.factory.load_state_dict(str(tinyclip / "open_clip_model.safetensors"))
    torch.save(state, copy / "open_clip_pytorch_model.bin")
    assert load_encoder(f"local-dir:{copy}", device="cpu").description == encoder.description
    state["logit_scale"] = state["logit_scale"] + 1
    torch.save(state, copy / "open_clip_pytorch_model.bin")
    assert OpenClip(f"local-dir:{copy}", device="cpu").description["weights"] != encoder.description["weights"]


def test_bfloat16_stays_close(encoder: OpenClip, tinyclip: Path, pictures: list[Image.Image]) -> None:
    rounded = OpenClip(f"local-dir:{tinyclip}", device="cpu", dtype="bfloat16")
    assert rounded.description["dtype"] == "bfloat16"
    assert rounded.description["weights"] == encoder.description["weights"]
    prepared = [encoder.prepare(p) for p in pictures]
    assert cosines(rounded.encode_images(prepared), encoder.encode_images(prepared)).min() > 0.99
    assert cosines(rounded.encode_captions(CAPTIONS), encoder.encode_captions(CAPTIONS)).min() > 0.999


@pytest.fixture
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, torch.Tensor]]:
    """A small transformer that open_clip knows by name, and weights for it."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Small-ViT", config)
    torch.manual_seed(0)
    return "Small-ViT", open_clip.create_model("Small-ViT").state_dict()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_file(
    small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path, pictures: list[Image.Image], suffix: str
) -> None:
    from safetensors.torch import save_file

    name, state = small_model
    file = tmp_path / f"mine{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file)
    else:
        save_file(state, file)
    encoder = OpenClip(name, str(file), device="cpu", dtype="float32", exact=True)
    reference, _, transform = open_clip.create_model_and_transforms(name)
    reference.load_state_dict(state)
    with torch.inference_mode():
        expected = reference.eval().encode_image(torch.stack([transform(p) for p in pictures]), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_images([encoder.prepare(p) for p in pictures]), expected, atol=1e-5)
    assert encoder.description["pretrained"] == file.name


def test_a_transformer_in_bfloat16(
    small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, state = small_model
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.setattr(module, "resolve_dtype", lambda dtype, device: torch.bfloat16)
    rounded = OpenClip(name, str(tmp_path / "w.pt"), device="cpu", dtype="auto")
    assert rounded.description["dtype"] == "bfloat16"
    monkeypatch.setattr(module, "resolve_dtype", lambda dtype, device: torch.float32)
    exact = OpenClip(name, str(tmp_path / "w.pt"), device="cpu", dtype="auto")
    prepared = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(8)]
    assert cosines(rounded.encode_images(prepared), exact.encode_images(prepared)).min() > 0.999
    assert cosines(rounded.encode_captions(CAPTIONS), exact.encode_captions(CAPTIONS)).min() > 0.999


def test_vectors_do_not_depend_on_the_batch(small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    name, state = small_model
    torch.save(state, tmp_path / "w.pt")
    encoder = OpenClip(name, str(tmp_path / "w.pt"), device="cpu", dtype="float32")
    prepared = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(8)]
    captions = CAPTIONS * 2
    for cut in (1, 3):
        image = [encoder.encode_images(part) for part in (prepared[:cut], prepared[cut:])]
        text = [encoder.encode_captions(part) for part in (captions[:cut], captions[cut:])]
        np.testing.assert_allclose(np.concatenate(image), encoder.encode_images(prepared), atol=1e-6)
        np.testing.assert_allclose(np.concatenate(text), encoder.encode_captions(captions), atol=1e-6)


def test_one_thread_tokenises_at_a_time(
    small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, state = small_model
    torch.save(state, tmp_path / "w.pt")
    encoder = OpenClip(name, str(tmp_path / "w.pt"), device="cpu", dtype="float32")
    tokenize, in_use = encoder._tokenize, threading.Lock()

    def borrowed(captions: list[str]) -> torch.Tensor:
        assert in_use.acquire(blocking=False), "Already borrowed"
        time.sleep(0.01)
        in_use.release()
        return tokenize(captions)

    monkeypatch.setattr(encoder, "_tokenize", borrowed)
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(encoder.encode_captions, [CAPTIONS] * 6)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.gpu
def test_on_a_gpu_from_several_threads(small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    name, state = small_model
    torch.save(state, tmp_path / "w.pt")
    here, there = (OpenClip(name, str(tmp_path / "w.pt"), device=d, dtype="float32") for d in ("cpu", "cuda:0"))
    rng = np.random.default_rng(0)
    batches = [list(rng.integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)) for _ in range(20)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(there.encode_images, batches))
        texts = list(pool.map(there.encode_captions, [CAPTIONS] * 20))
    for vectors, batch in zip(found, batches, strict=True):
        assert cosines(vectors, here.encode_images(batch)).min() > 0.9999
    for vectors in texts:
        assert cosines(vectors, here.encode_captions(CAPTIONS)).min() > 0.9999


def test_weights_of_another_model(small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    name, state = small_model
    torch.save({k: v for k, v in state.items() if "visual" not in k}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"^The weights do not fit the model \(Small-ViT with .*w\.pt\); name the"):
        OpenClip(name, str(tmp_path / "w.pt"), device="cpu")


class Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_never_runs_code(
    small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path, legacy: bool
) -> None:
    file, touched = tmp_path / "w.pt", tmp_path / "touched"
    if legacy:
        file.write_bytes(pickle.dumps({"state_dict": Touch(touched)}))
    else:
        torch.save({"state_dict": Touch(touched)}, file)
    with pytest.raises(UserError, match="holds more than tensors and is not opened"):
        OpenClip(small_model[0], str(file), device="cpu")
    assert not touched.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
def test_a_checkpoint_of_noise(small_model: tuple[str, dict[str, torch.Tensor]], tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    for noise in (b"", b"nonsense" * 50):
        file.write_bytes(noise)
        with pytest.raises(UserError, match=f"Small-ViT with .*w{suffix}"):
            OpenClip(small_model[0], str(file), device="cpu")


@pytest.mark.parametrize(
    ("model", "pretrained", "sentence"),
    [
        ("ViT-B-23", "openai", r"^open_clip knows no model 'ViT-B-23'; did you mean ViT-B-32.* hog-tfidf\.$"),
        ("ViT-B-32", "laion2b_s34b_b79", r"^ViT-B-32 has no weights .*; did you mean laion2b_s34b_b79k.* the tags of"),
        ("ViT-B-32", "/no/where.pt", r"^The checkpoint file /no/where\.pt does not exist"),
        ("ViT-B-32", "where.safetensors", r"^The checkpoint file where\.safetensors does not exist"),
        (
            "ViT-L-14",
            None,
            r"^ViT-L-14 needs --pretrained, a tag or a checkpoint file; the tags of ViT-L-14 are openai",
        ),
        ("local-dir:/no/where", None, r"^The model folder /no/where does not exist"),
        ("local-dir:.", "openai", r"^--model local-dir:\. brings its own weights; leave out --pretrained openai\.$"),
    ],
)
def test_one_sentence(model: str, pretrained: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OpenClip(model, pretrained, device="cpu")


def test_a_folder_without_its_prefix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"local-dir:{tmp_path}"):
        OpenClip(str(tmp_path), device="cpu")


def test_an_incomplete_model_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no open_clip_config\.json"):
        OpenClip(f"local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no weights; put open_clip_model\.safetensors there"):
        OpenClip(f"local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"noise")
    for config in ("{}", "{", '{"model_cfg": {"embed_dim": 8}}', '{"model_cfg": 3}', "[]"):
        (tmp_path / "open_clip_config.json").write_text(config)
        with pytest.raises(UserError, match=r"cannot be loaded: .*\.$"):
            OpenClip(f"local-dir:{tmp_path}", device="cpu")


@pytest.mark.parametrize(
    ("model", "pretrained", "what", "repository"),
    [
        ("ViT-B-32", None, "ViT-B-32 datacomp_xl_s13b_b90k", "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"),
        ("ViT-B/32", "openai", "ViT-B-32 openai", "timm/vit_base_patch32_clip_224.openai"),
        ("hf-hub:laion/some-model", None, "hf-hub:laion/some-model", "laion/some-model"),
    ],
)
def test_no_network(
    model: str, pretrained: str | None, what: str, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        OpenClip(model, pretrained, device="cpu")
    assert time.perf_counter() - start < 10
    sentence = str(caught.value)
    assert sentence.startswith(f"The weights of {what} are not on this machine and 127.0.0.1:9 cannot be reached")
    for advice in (f"hf download {repository} --local-dir FOLDER", "--model local-dir:FOLDER", "--model hog-tfidf"):
        assert advice in sentence


def test_quick_gelu_comes_with_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def create(model: str, pretrained: str, **options: object) -> None:
        asked.update(options)
        raise RuntimeError("far enough")

    monkeypatch.setattr(module, "_check_hub", lambda *_: None)
    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    for tag, expected in (("openai", True), ("laion2b_s34b_b79k", False)):
        with pytest.raises(UserError, match="far enough"):
            OpenClip("ViT-B-32", tag, device="cpu")
        assert asked["force_quick_gelu"] is expected
        assert asked["weights_only"] is True


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (512, 384), (4000, 3000)])
@pytest.mark.parametrize("shared", [True, False])
def test_pixels_of_a_picture(size: tuple[int, int], shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Pillow cannot share its memory, and after the picture is gone."""
    if not shared:
        monkeypatch.setattr(Image.Image, "__arrow_c_array__", None, raising=False)
    expected = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    found = resizing._pixels(Image.fromarray(expected))
    assert found.shape == (4, size[1], size[0])
    assert np.array_equal(found[:3].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(512, 384), (300, 700), (64, 64), (17, 200), (224, 224)])
@pytest.mark.parametrize("options", [{}, {"interpolation": "bilinear"}, {"resize_mode": "squash"}])
def test_torchvision_resizes_as_pillow_does(size: tuple[int, int], options: dict[str, str]) -> None:
    *steps, _, _ = image_transform_v2(PreprocessCfg(96, **options), is_train=False).transforms
    fast = by_torchvision(steps)
    assert fast is not None
    rng = np.random.default_rng(0)
    for scene in draw_scenes(4, 0):
        picture = Image.open(io.BytesIO(scene.image or b"")).convert("RGB").resize(size)
        noisy = np.asarray(picture, np.int16) + rng.integers(-20, 20, (size[1], size[0], 3), np.int16)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        ours, theirs = fast(image), by_pillow(steps)(image)
        assert ours.shape == (96, 96, 3)
        assert ours.dtype == np.uint8
        gap = np.abs(ours.astype(int) - theirs)
        assert gap.mean() < 0.33
        assert np.quantile(gap, 0.99) <= 2  # more where what was rounded between the two passes was clipped, too


def test_other_transforms_stay_with_pillow() -> None:
    *steps, _, _ = image_transform_v2(PreprocessCfg(96, resize_mode="longest"), is_train=False).transforms
    assert by_torchvision(steps) is None
    nearest = Resize(96, InterpolationMode.NEAREST)
    assert by_torchvision([nearest]) is None


def test_a_run_records_what_resized_its_pictures(encoder: OpenClip, tinyclip: Path) -> None:
    exact = OpenClip(f"local-dir:{tinyclip}", device="cpu", exact=True)
    assert encoder.description["preprocessing"]["resized_by"] == "torchvision"
    assert exact.description["preprocessing"]["resized_by"] == "Pillow"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    vectors = [one.encode_images([one.prepare(image)])[0] for one in (encoder, exact)]
    assert vectors[0] @ vectors[1] > 0.999


def test_the_built_in_encoder() -> None:
    assert load_encoder("hog-tfidf").comparable is False


def test_decoding_at_a_fraction_keeps_the_vectors(encoder: OpenClip, tinyclip: Path) -> None:
    exact = OpenClip(f"local-dir:{tinyclip}", device="cpu", exact=True)
    assert encoder.least_side == 320
    assert exact.least_side is None
    assert exact.description != encoder.description
    large = []
    for scene in draw_scenes(8, 0):
        file = io.BytesIO()
        picture = Image.open(io.BytesIO(scene.image)).convert("RGB").resize((1280, 960), Image.Resampling.BICUBIC)
        picture.save(file, "JPEG", quality=90)
        large.append(file.getvalue())
    vectors = [e.encode_images([e.prepare(decode(data, e.least_side)) for data in large]) for e in (encoder, exact)]
    assert (vectors[0] * vectors[1]).sum(1).min() > 0.995
    assert not np.array_equal(*vectors)
