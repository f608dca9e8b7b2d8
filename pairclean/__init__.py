"""Find the mismatched pairs in image-text data, and the caption that belongs to each picture.

From Python:

    import pairclean

    run = pairclean.clean("shards/", "run/", model="hog-tfidf")
    print(run.report["mismatch_rate"])
    frame = run.verdicts().to_pandas()
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "CleanedVectors",
    "Config",
    "Run",
    "UserError",
    "Verdict",
    "apply",
    "audit",
    "clean",
    "clean_vectors",
    "evaluate",
    "open_run",
    "plant",
    "preview",
    "selfcheck",
    "story",
]

if TYPE_CHECKING:
    from .assess.evaluate import evaluate
    from .assess.plant import plant
    from .assess.selfcheck import selfcheck
    from .config import Config
    from .pairs import UserError, Verdict
    from .pipeline import apply, clean, open_run, preview
    from .review.audit import audit
    from .review.story import story
    from .run import Run
    from .vectors import CleanedVectors, clean_vectors

_HOME = {
    "apply": "pipeline",
    "audit": "review.audit",
    "clean": "pipeline",
    "clean_vectors": "vectors",
    "evaluate": "assess.evaluate",
    "open_run": "pipeline",
    "plant": "assess.plant",
    "preview": "pipeline",
    "selfcheck": "assess.selfcheck",
    "story": "review.story",
    "CleanedVectors": "vectors",
    "Config": "config",
    "UserError": "pairs",
    "Verdict": "pairs",
    "Run": "run",
}


def __getattr__(name: str) -> Any:  # importing pairclean loads nothing until a name is used
    from importlib import import_module

    if name == "review":  # a room with functions of its own, as `pairclean.review.design`
        return import_module(".review", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'pairclean' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
