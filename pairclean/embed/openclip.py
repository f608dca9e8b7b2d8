"""Any model that open_clip can load, with its own preprocessing and tokenizer, and never without its weights."""

from __future__ import annotations

import copy
import difflib
import hashlib
import pickle
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError

from ..pairs import UserError
from .device import resolve_dtype
from .encoder import DEFAULT_MODEL, DEFAULT_PRETRAINED
from .resizing import by_pillow, by_torchvision

_HUB, _FOLDER = "hf-hub:", "local-dir:"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# What open_clip, torch, safetensors and the hub's client raise over names and files that are not what they should be.
_LOADING_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(SafetensorError, pickle.PickleError),
)


class OpenClip:
    """An open_clip model in evaluation mode. Satisfies `Encoder`.

    model: a name that open_clip knows ("ViT-B-32"), "hf-hub:org/name" or "local-dir:/path".
    pretrained: for a known name, the tag of its weights or the path of a checkpoint file; the default model has a
    default tag, the other two kinds bring their own weights.
    device: one torch device ("cuda:1").  dtype: as `resolve_dtype`; "auto" stays with float32 for batch-normed towers.

    exact: large JPEGs are decoded whole, and not at a fraction of their size that is still twice what the model sees;
    and all pictures are resized by Pillow, as open_clip does, and not by torchvision, which is faster.

    Pictures cross to the device as uint8 and are normalised there. On a GPU all that crosses is pinned, and calls from
    several threads queue up: while the device computes one batch, the next is stacked or tokenised, and handed over.
    Raises UserError if the model or its weights cannot be had; checkpoints are read without pickle.
    """

    comparable = True

    def __init__(
        self, model: str, pretrained: str | None = None, *, device: str, dtype: str = "auto", exact: bool = False
    ) -> None:
        self.device = device
        self._on_gpu = device.startswith("cuda")
        self._tokenizing, self._handing_over = threading.Lock(), threading.Lock()
        self._dtype = resolve_dtype(dtype, device)
        model, pretrained = _checked(model, pretrained)
        try:
            config = open_clip.get_model_config(model)
            config["quick_gelu"] = config.get("quick_gelu", False) or _trained_with_quick_gelu(model, pretrained)
            network, transform = open_clip.create_model_from_pretrained(
                model, pretrained, force_quick_gelu=config["quick_gelu"], weights_only=True
            )
            self._tokenize = open_clip.get_tokenizer(model)
            network = network.eval().requires_grad_(False)
            weights = _hash_weights(network)
            if dtype == "auto" and _batch_normed(network):
                self._dtype = torch.float32
            # Pictures arrive with their channels last, so convolutions need not turn their weights for every batch.
            self._network = network.to(device=device, dtype=self._dtype, memory_format=torch.channels_last)
            _lay_out_for_attention(self._network)
            self._reads_to_the_end = _reads_to_the_end(self._network)
        except _LOADING_ERRORS as error:
            raise UserError(_why_not(model, pretrained, error)) from error
        # What is left of the transform after its last two steps, to tensor and normalise, keeps pixels uint8.
        *resizing, _, normalise = transform.transforms
        fast = None if exact else by_torchvision(resizing)
        self._prepare = fast or by_pillow(resizing)
        self._mean, self._std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (normalise.mean, normalise.std))
        size = network.visual.preprocess_cfg["size"]
        self.least_side = None if exact else 2 * (size if isinstance(size, int) else max(size))
        self.image_dim = self.text_dim = int(config["embed_dim"])
        self.description: dict[str, Any] = {
            "model": _FOLDER + Path(model).name if model.startswith(_FOLDER) else model,
            "pretrained": Path(pretrained).name if pretrained else None,
            "weights": weights,
            "architecture": config,
            "preprocessing": {
                **network.visual.preprocess_cfg,
                "decoded_to_at_least": self.least_side,
                "resized_by": "torchvision" if fast else "Pillow",
            },
            "dtype": str(self._dtype).removeprefix("torch."),
            "open_clip": open_clip.__version__,
        }

    def prepare(self, image: Image.Image) -> np.ndarray:
        """RGB picture -> (height, width, 3) uint8, resized and cropped as the model wants it."""
        return self._prepare(image)

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        pixels = torch.empty((len(prepared), *prepared[0].shape), dtype=torch.uint8, pin_memory=self._on_gpu)
        np.stack(prepared, out=pixels.numpy())
        return self._vectors(self._image_tower, pixels)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        tokens = self._tokens(captions)
        return self._vectors(self._text_tower, tokens.pin_memory() if self._on_gpu else tokens)

    def cuts(self, captions: list[str]) -> np.ndarray:
        """(n,) bool: captions that fill all tokens: the rest of these is not read, if there is any."""
        found = np.zeros(len(captions), bool)
        with self._tokenizing:
            empty = self._tokenize([""])[0]
            # A token is a byte or more, so that most captions need not be counted.
            long = [i for i, caption in enumerate(captions) if len(caption.encode()) > len(empty) - 3]
            if long:
                # What is cut has a word where an empty caption has padding, one before the last token, which ends it.
                found[long] = np.asarray(self._tokenize([captions[i] for i in long])[:, -2] != empty[-2])
        return found

    def _tokens(self, captions: list[str]) -> torch.Tensor:
        """(n, length) int64; where padding changes nothing, as short as the longest caption."""
        with self._tokenizing:  # Hugging Face's tokenizers cannot be used by two threads at once ("Already borrowed")
            tokens: torch.Tensor = self._tokenize(captions)
        return tokens[:, : int(tokens.argmax(1).max()) + 1].contiguous() if self._reads_to_the_end else tokens

    def _image_tower(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)
        vectors: torch.Tensor = self._network.encode_image(pixels.to(self._dtype))
        return vectors

    def _text_tower(self, tokens: torch.Tensor) -> torch.Tensor:
        network = _in_short(self._network, tokens.shape[1]) if self._reads_to_the_end else self._network
        vectors: torch.Tensor = network.encode_text(tokens)
        return vectors

    @torch.inference_mode()
    def _vectors(self, tower: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> np.ndarray:
        """A tower's vectors of unit length, for a batch on the host.

        A copy from memory that is not pinned, or `.cpu()`, would wait for all that the device has been given so far;
        so only this call's own result is waited for, asleep, as every core decodes.
        """
        with self._handing_over:  # one batch after the other: were their kernels mixed, both would end late
            vectors = tower(batch.to(self.device, non_blocking=self._on_gpu))
            vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
            found = torch.empty(vectors.shape, pin_memory=self._on_gpu).copy_(vectors, non_blocking=self._on_gpu)
            if self._on_gpu:
                arrived = torch.cuda.current_stream(self.device).record_event(torch.cuda.Event(blocking=True))
        if self._on_gpu:
            arrived.synchronize()
        unit: np.ndarray = found.numpy()
        return unit


def _lay_out_for_attention(network: torch.nn.Module) -> None:
    """Lets torch's attention project a masked batch, such as captions, by one product of matrices.

    With a mask and `batch_first` it transposes its input, and what is not contiguous then is multiplied place by place
    of the sequence, each with a copy of the weights (pytorch issue 151934): two thirds of the time of a text tower in
    bfloat16 on a CPU. The vectors are the same to the bit. Without a mask torch has a path of its own, which is fast.
    """

    def contiguous_when_transposed(
        attention: torch.nn.Module, given: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        query, *rest = given
        if options.get("attn_mask") is None or not attention.batch_first or any(x is not query for x in rest):
            return None
        return (query.transpose(0, 1).contiguous().transpose(0, 1),) * len(given), options

    for module in network.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.register_forward_pre_hook(contiguous_when_transposed, with_kwargs=True)


def _reads_to_the_end(network: torch.nn.Module) -> bool:
    """Whether a caption's vector is taken at its end, where nothing that comes later is seen: then padding, most of the
    tokens, changes nothing and may be left away."""
    return type(network) is open_clip.CLIP and network.text_pool_type == "argmax" and network.attn_mask is not None


def _in_short(network: open_clip.CLIP, length: int) -> open_clip.CLIP:
    """The same network for captions of this many tokens; shares all its weights."""
    short = copy.copy(network)
    short._parameters = {**network._parameters, "positional_embedding": network.positional_embedding[:length]}
    short._buffers = {**network._buffers, "attn_mask": network.attn_mask[:length, :length]}
    return short


def _batch_normed(network: torch.nn.Module) -> bool:
    """Rounding to bfloat16 adds up in deep batch-normed convolutions: cosines of 0.994 to the float32 vectors were
    measured with a MobileNet, where a ViT keeps 0.9999."""
    return any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def _hash_weights(network: torch.nn.Module) -> str:
    """A hash of all parameters and buffers by name, the same wherever the weights came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _trained_with_quick_gelu(model: str, pretrained: str | None) -> bool:
    """open_clip only warns where a tag's weights were trained with another activation than the name stands for."""
    return bool((open_clip.get_pretrained_cfg(model, pretrained) or {}).get("quick_gelu")) if pretrained else False


def _checked(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """Model and pretrained as open_clip takes them; everything that can be known to fail before loading raises."""
    if model.startswith((_HUB, _FOLDER)):
        if pretrained:
            raise UserError(f"--model {model} brings its own weights; leave out --pretrained {pretrained}.")
        if model.startswith(_FOLDER):
            return _FOLDER + str(_checked_folder(Path(model.removeprefix(_FOLDER)).expanduser())), None
        _check_hub(model, model.removeprefix(_HUB), ("open_clip_config.json",))
        return model, None
    model = model.replace("/", "-") if model.replace("/", "-") in open_clip.list_models() else model
    if model not in open_clip.list_models():
        here = f"local-dir:{model}, " if Path(model).is_dir() else ""
        raise UserError(
            f"open_clip knows no model {model!r};{_near(model, open_clip.list_models())} --model also takes "
            f"{here}hf-hub:org/name, local-dir:/path and the built-in hog-tfidf."
        )
    return model, _checked_pretrained(model, pretrained or (DEFAULT_PRETRAINED if model == DEFAULT_MODEL else None))


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"The model folder {folder} does not exist; local-dir: takes a folder in open_clip's format.")
    if not (folder / "open_clip_config.json").is_file():
        raise UserError(f"The model folder {folder} has no open_clip_config.json; is it in open_clip's format?")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise UserError(f"The model folder {folder} has no weights; put open_clip_model.safetensors there.")
    return folder


def _checked_pretrained(model: str, pretrained: str | None) -> str:
    tags = open_clip.list_pretrained_tags_by_model(model)
    known = f"the tags of {model} are {', '.join(tags)}" if tags else f"{model} has no published weights"
    if not pretrained:
        raise UserError(f"{model} needs --pretrained, a tag or a checkpoint file; {known}.")
    config = open_clip.get_pretrained_cfg(model, pretrained)
    if config:
        repository, _, file = config.get("hf_hub", "").rpartition("/")
        if repository:
            _check_hub(f"{model} {pretrained}", repository, (file,) if file else _HUB_WEIGHTS)
        return pretrained
    path = Path(pretrained).expanduser()
    if path.is_file():
        return str(path)
    if "/" in pretrained or path.suffix in _WEIGHTS:
        raise UserError(f"The checkpoint file {pretrained} does not exist; give --pretrained a file or a tag.")
    raise UserError(f"{model} has no weights {pretrained!r};{_near(pretrained, tags)} {known}.")


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" did you mean {' or '.join(near)}?" if near else ""


def _check_hub(what: str, repository: str, files: tuple[str, ...]) -> None:
    """Raises where the weights are neither cached nor within reach; the hub's own client takes a minute to give up."""
    import huggingface_hub

    safe = [str(Path(file).with_suffix(".safetensors")) for file in files]
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in {*files, *safe}):
        return
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        huggingface_hub.utils.get_session().head(endpoint, timeout=5)
    except Exception as error:  # which type depends on the client's version; all mean that there is no way through
        raise UserError(
            f"The weights of {what} are not on this machine and {urllib.parse.urlsplit(endpoint).netloc} cannot be "
            f"reached: run `hf download {repository} --local-dir FOLDER` where there is a network, copy the folder "
            f"here and use --model local-dir:FOLDER, or use --model hog-tfidf, which needs no download."
        ) from error


def _why_not(model: str, pretrained: str | None, error: Exception) -> str:
    what = f"{model} with {pretrained}" if pretrained else model
    message = " ".join(str(error).split())
    if "loading state_dict" in message:
        return f"The weights do not fit the model ({what}); name the model they were trained as with --model."
    if isinstance(error, pickle.PickleError) or "weights_only" in message:
        return (
            f"The checkpoint ({what}) holds more than tensors and is not opened, as it could run code; "
            "save its state dict as .safetensors."
        )
    return f"{what} cannot be loaded: {message[:300].rstrip('.')}."
