"""Writing the pairs that are left, in the layout that they came in or in another.

The modules `verdicts` and `copies` are not imported here: they need the judge, and with it PyTorch, which reading and
embedding do not.
"""

from __future__ import annotations

from .destination import Destination
from .kept import Writer, best_of_rows, kept_pairs
from .layouts import check_layout, open_writer
from .parquet import Tables

__all__ = [
    "Destination",
    "Tables",
    "Writer",
    "best_of_rows",
    "check_layout",
    "kept_pairs",
    "open_writer",
]
