"""How a name becomes an encoder; only the one that is named is imported."""

from __future__ import annotations

from pathlib import Path

from ..pairs import PYTHON, UserError
from .encoder import DEFAULT_MODEL, DEFAULT_PRETRAINED, Encoder

HOG_TFIDF = "hog-tfidf"


def encoder_devices(model: str, device: str) -> list[str]:
    """The devices that an encoder runs on: those of `resolve_devices`; hog-tfidf needs none but the CPU, nor PyTorch.

    Raises UserError if the device asked for is not there.
    """
    if model == HOG_TFIDF and device in ("auto", "cpu"):
        return ["cpu"]
    from .device import resolve_devices

    return resolve_devices(device)


def weights_are_here(model: str, pretrained: str | None = None) -> bool:
    """Whether `load_encoder` would download nothing, as far as can be told without a network."""
    if model == HOG_TFIDF or model.startswith("local-dir:") or (pretrained and Path(pretrained).exists()):
        return True
    from huggingface_hub import try_to_load_from_cache

    files: tuple[str, ...] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if model.startswith("hf-hub:"):
        repository = model.removeprefix("hf-hub:")
    else:
        import open_clip

        tag = pretrained or (DEFAULT_PRETRAINED if model == DEFAULT_MODEL else "")
        published = open_clip.get_pretrained_cfg(model, tag)
        if not published:  # a file that does not exist, or a tag of no weights, which `load_encoder` refuses
            return True
        repository, _, file = published.get("hf_hub", "").rpartition("/")
        files = (file,) if file else files
    try:
        return bool(repository) and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
    except ValueError:  # no name of a repository
        return False


def load_encoder(
    model: str, *, pretrained: str | None = None, device: str = "auto", dtype: str = "auto", exact: bool = False
) -> Encoder:
    """The encoder called `model`: "hog-tfidf", or anything that `OpenClip` takes.

    device, dtype: as `resolve_devices` (the first one is taken) and `resolve_dtype`; hog-tfidf needs neither.
    exact: decode every picture whole, as the model's own preprocessing does.
    Raises UserError if the model, its weights or the device cannot be had.
    """
    if model.startswith(PYTHON):
        raise UserError(
            f"the encoder is a Python object ({model}), which is not here: give it to pairclean.clean again"
        )
    if model == HOG_TFIDF:
        from .hog_tfidf import HogTfidf

        return HogTfidf()
    from .device import resolve_devices
    from .openclip import OpenClip

    return OpenClip(model, pretrained, device=resolve_devices(device)[0], dtype=dtype, exact=exact)
