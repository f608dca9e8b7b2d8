"""Reading what users have on disk: one file per layout, and `open_source`, which looks and chooses."""

from __future__ import annotations

from .base import Source, Vectors, VectorSource, has_vectors
from .sniff import open_source

__all__ = ["Source", "VectorSource", "Vectors", "has_vectors", "open_source"]
