"""The source of a run, and whether it is still what was embedded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..files import fingerprint
from ..pairs import UserError
from ..sources import Source
from .directory import Run


def part_fingerprints(source: Source, encoder: dict[str, Any]) -> dict[str, str]:
    """A fingerprint of everything that a shard's vectors depend on, by the shard's name."""
    roles = asdict(source.roles)
    return {shard.name: fingerprint(shard.fingerprint, shard.rows, roles, encoder) for shard in source.shards}


def embedded_source(run: Run) -> Source:
    """The source of a run's embeddings.  Raises UserError if it has changed: verdicts refer to its rows by position."""
    source = run.open_source()
    if part_fingerprints(source, run.manifest["encoder"]) != run.manifest["parts"]:
        raise UserError(f"{source.path} has changed since {run.path} was embedded: run `pairclean clean` on it again")
    return source
