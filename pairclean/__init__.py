"""Find the mismatched pairs in image-text data, and the caption that does belong to each picture.

From Python:

    import pairclean

    run = pairclean.clean("shards/", "run/", model="hog-tfidf")
    print(run.report["mismatch_rate"])
    frame = run.verdicts().to_pandas()
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Config", "Run", "UserError", "Verdict", "apply", "audit", "clean", "open_run", "plant", "story"]

if TYPE_CHECKING:
    from .api import apply, clean, open_run, plant
    from .config import Config
    from .pairs import UserError, Verdict
    from .run import Run
    from .stages.audit import audit
    from .stages.story import story

_HOME = {
    "apply": "api",
    "audit": "stages.audit",
    "clean": "api",
    "open_run": "api",
    "plant": "api",
    "story": "stages.story",
    "Config": "config",
    "UserError": "pairs",
    "Verdict": "pairs",
    "Run": "run",
}


def __getattr__(name: str) -> Any:  # importing pairclean loads nothing until something is used
    if name not in _HOME:
        raise AttributeError(f"module 'pairclean' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
