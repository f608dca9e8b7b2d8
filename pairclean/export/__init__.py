"""Writing the pairs that are left, in the layout that they came in or in another."""

from __future__ import annotations

from .copies import Copies
from .destination import Destination
from .kept import Writer, best_of_rows, kept_pairs
from .layouts import check_layout, open_writer
from .parquet import Tables
from .verdicts import Findings, verdict_table, verdict_tables

__all__ = [
    "Copies",
    "Destination",
    "Findings",
    "Tables",
    "Writer",
    "best_of_rows",
    "check_layout",
    "kept_pairs",
    "open_writer",
    "verdict_table",
    "verdict_tables",
]
