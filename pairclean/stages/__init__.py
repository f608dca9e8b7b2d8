"""What each stage does to a run directory, one file a stage. Their order, and whether one is due, is `run.py`'s."""

from .align import align
from .embed import embed
from .export import export
from .judge import judge
from .rematch import rematch
from .report import report

__all__ = ["align", "embed", "export", "judge", "rematch", "report"]
