"""How a name becomes an encoder; only the one that is named is imported."""

from __future__ import annotations

from ..pairs import PYTHON, UserError
from .encoder import Encoder

HOG_TFIDF = "hog-tfidf"


def encoder_devices(model: str, device: str) -> list[str]:
    """The devices that an encoder runs on: those of `resolve_devices`; hog-tfidf needs none but the CPU, nor PyTorch.

    Raises UserError if the device asked for is not there.
    """
    if model == HOG_TFIDF and device in ("auto", "cpu"):
        return ["cpu"]
    from .device import resolve_devices

    return resolve_devices(device)


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
