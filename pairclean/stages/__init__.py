"""What each stage does to a run directory, one file per stage. `pipeline` knows their order, and which one is due."""

from .align import align
from .embed import embed
from .export import export
from .judge import judge
from .rematch import rematch
from .report import report

__all__ = ["align", "embed", "export", "judge", "rematch", "report"]
