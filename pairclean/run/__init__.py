"""A run directory: manifest, lock, execution, and the results that lie in it."""

from .directory import Run
from .execution import Execution, Progress

__all__ = ["Execution", "Progress", "Run"]
