"""Learning a common space from noisy pairs. Every method is a class with `fit`, `embed_image` and `embed_text`."""

from .alignment import Alignment, Method
from .drcl import DRCL
from .l2rm import L2RM
from .linear import Canonical
from .rcar import RCAR
from .zero_shot import ZeroShot

__all__ = ["DRCL", "L2RM", "RCAR", "Alignment", "Canonical", "Method", "ZeroShot"]
