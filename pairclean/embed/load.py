"""How a name becomes an encoder; only the one that is named is imported."""

from __future__ import annotations

from ..pairs import PYTHON, UserError
from .encoder import Encoder


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
    if model == "hog-tfidf":
        from .hog_tfidf import HogTfidf

        return HogTfidf()
    from .device import resolve_devices
    from .openclip import OpenClip

    return OpenClip(model, pretrained, device=resolve_devices(device)[0], dtype=dtype, exact=exact)
