"""Writing the cleaned pairs in the layout that they came in."""

from __future__ import annotations

from .parquet import export_shard
from .verdicts import Findings, verdict_table

__all__ = ["Findings", "export_shard", "verdict_table"]
