"""Where in the data of a run the mismatches are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..judge import NOISE_KINDS
from ..metrics.uneven import MOST_SLICES, Slice, uneven_slices
from ..pairs import UserError
from ..run import Run
from ..run.results import open_embeddings, open_faults, open_judgement, open_learned, open_rematches
from .audit import plain_columns, prior_of, units_of_pairs
from .columns import Columns
from .kinds import KINDS

#: Distinct values at the beginning of the source, up to which one of its columns groups pairs.
MOST_VALUES = 100


@dataclass(frozen=True)
class Repeated:
    """Pairs that share a caption (or picture) which says nothing of its partners.

    kind: "generic_caption" or "placeholder_image".  rows: (n,) int64 of the run's pairs, ascending; those flagged.
    """

    kind: str
    rows: np.ndarray


@dataclass(frozen=True)
class Where:
    """A slice of the run.  where: the value of each column.  slice: its pairs and rates."""

    where: dict[str, Any]
    slice: Slice

    def to_json(self) -> dict[str, Any]:
        """where, pairs, rate, low, high, rest, p_value; plain values."""
        numbers = {name: getattr(self.slice, name) for name in ("rate", "low", "high", "rest", "p_value")}
        return {"where": self.where, "pairs": len(self.slice), **numbers}


def in_faults(run: Run) -> np.ndarray:
    """(N,) bool: pairs in the range of a systematic fault."""
    found = np.zeros(len(open_embeddings(run)), bool)
    for finding in open_faults(run).findings:
        found[finding.rows] = True
    return found


def repeated(run: Run) -> list[Repeated]:
    """The generic captions and placeholder images, of the most pairs first, without pairs in faults."""
    emb, judged, rematched = open_embeddings(run), open_judgement(run), open_rematches(run)
    caption_id = emb.caption_id[open_faults(run).caption]
    flagged = (np.asarray(rematched.clean_probability) < rematched.flag_below) & ~in_faults(run)
    found = []
    for kind, code, ids in (
        ("generic_caption", NOISE_KINDS.index("generic"), caption_id),
        ("placeholder_image", NOISE_KINDS.index("placeholder"), emb.image_id),
    ):
        rows = np.flatnonzero(flagged & (np.asarray(judged.noise_kind) == code))
        order = rows[np.argsort(ids[rows], kind="stable")]
        parts = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
        found += [Repeated(kind, part) for part in parts if len(part) > 1]
    return sorted(found, key=lambda one: -len(one.rows))


def slices(columns: Columns, *, most: int = MOST_SLICES) -> list[Where]:
    """The slices of a finished run whose mismatch rate exceeds that of the rest, the most conspicuous first.

    Pairs that a systematic fault, a generic caption or a placeholder image explains take no part.
    Raises UserError where the source has changed.
    """
    run = columns.run
    judged = open_judgement(run)
    prior = prior_of(judged)
    if prior is None or judged.rate is None:
        return []
    clean = np.array(judged.clean_probability, np.float64)
    clean[in_faults(run)] = np.nan
    for one in repeated(run):
        clean[one.rows] = np.nan
    codes, values = {}, {}
    for column in plain_columns(columns.source, MOST_VALUES):
        with suppress(UserError):  # the column is not in every shard
            codes[column], values[column] = _codes(columns, column)
    kinds = [name for name in KINDS if name in codes and columns.is_kind(name)]
    units, whole = units_of_pairs(open_learned(run)), asdict(judged.rate)
    found = uneven_slices(clean, codes, prior=prior, whole=whole, units=units, kinds=kinds, most=most)
    return [Where({name: values[name][code] for name, code in part.where.items()}, part) for part in found]


def _codes(columns: Columns, column: str) -> tuple[np.ndarray, list[Any]]:
    """(N,) int64 codes of a column's values, -1 for null, and the values."""
    import pandas as pd

    seen: dict[Any, int] = {}
    parts = [np.zeros(0, np.int64)]
    for _, part in columns.parts([column]):
        code, values = pd.factorize(part[column])
        place = np.array([*(seen.setdefault(value, len(seen)) for value in values), -1], np.int64)
        parts.append(place[code])
    return np.concatenate(parts), list(seen)
