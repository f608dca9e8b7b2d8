"""What an encoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

DEFAULT_MODEL = "ViT-B-32"
DEFAULT_PRETRAINED = "datacomp_xl_s13b_b90k"


class Encoder(Protocol):
    """Pictures and captions in, L2-normalised float32 vectors out.

    On a GPU the methods that encode are called from several threads at once, elsewhere from one at a time: they return
    when their vectors are there, and what they can do beside the work of another call (stacking, tokenising, copying)
    they should.

    image_dim, text_dim: the lengths of the vectors.
    comparable: whether the cosine between the two spaces means anything before an alignment is learned.
    description: everything that changes the vectors, as JSON; it goes into the fingerprint and the manifest.
    device: where it runs, for showing.
    least_side: JPEGs may be decoded at a half, a quarter or an eighth as long as their shorter side keeps this many
    pixels; None: always whole.
    """

    image_dim: int
    text_dim: int
    comparable: bool
    description: dict[str, Any]
    device: str
    least_side: int | None

    def prepare(self, image: Image.Image) -> np.ndarray:
        """One RGB picture as the array that `encode_images` takes; called from several threads."""

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        """(n, image_dim) float32, L2-normalised, for n > 0 prepared pictures."""

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        """(n, text_dim) float32, L2-normalised, for n > 0 captions."""
