"""What people do with a finished run: look at rates by group, look at one pair, and label a sample of pairs.

sample = pairclean.review.design(run, labels=200)    # drawn once, kept in RUN/review
labels = pairclean.review.open_labels(run)           # those in RUN/review; `labels.add` takes new ones, as `Label`
found = pairclean.review.estimate(run)               # what the labels say
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .labels import Label as Label
    from .reviewed import estimate as estimate
    from .reviewed import open_labels as open_labels
    from .sample import design as design

_HOME = {"Label": "labels", "design": "sample", "estimate": "reviewed", "open_labels": "reviewed"}


def __getattr__(name: str) -> Any:  # importing the room loads nothing until something is used
    if name not in _HOME:
        raise AttributeError(f"module 'pairclean.review' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
