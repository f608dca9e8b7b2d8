"""A run directory: manifest, lock, and the results in it."""

from ..execution import Execution, Progress
from .directory import Run

__all__ = ["Execution", "Progress", "Run"]
