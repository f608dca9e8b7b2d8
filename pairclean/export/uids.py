"""A DataComp subset file: the uids of the pairs that stay as they were."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..pairs import Shard, UserError, Verdict
from ..sources import Source
from .kept import Writer, column, whole

UID = np.dtype("u8,u8")
_FORM = re.compile(r"[0-9a-fA-F]{32}")
_PARTS = "uids"


@dataclass(frozen=True)
class Uids:
    """`uids.npy`: a sorted array of dtype `u8,u8`, each uid's upper and lower 64 bits, as DataComp's tools read it.

    It can only name pairs that stay as they were; the rematched ones go to `rematched/`, as `rematched` writes them.
    """

    source: Source
    rematched: Writer

    def files(self, shard: Shard) -> list[str]:
        return [f"{_PARTS}/{shard.name}.npy", *(f"rematched/{name}" for name in self.rematched.files(shard))]

    def write(self, shard: Shard, kept: pa.Table, out: Path) -> None:
        verdict = column(kept, "pairclean_verdict")
        uids = self._uids(shard, kept.filter(pc.equal(verdict, Verdict.CLEAN.value)))
        with whole(out / _PARTS / f"{shard.name}.npy") as file:
            np.save(file, as_uids(uids, shard.path), allow_pickle=False)
        self.rematched.write(shard, kept.filter(pc.equal(verdict, Verdict.REMATCHED.value)), out / "rematched")

    def _uids(self, shard: Shard, clean: pa.Table) -> list[str]:
        """The column `uid` where there is one (img2dataset puts a `key` beside it), else the pairs' ids."""
        if "uid" not in self.source.columns:
            found: list[str] = column(clean, "pairclean_pair_id").to_pylist()
            return found
        batches = self.source.batches(shard, ["uid"])
        uids = pa.chunked_array([batch.column(0).cast(pa.string()) for batch in batches], pa.string())
        return [str(uid) for uid in uids.take(column(clean, "row")).to_pylist()]

    def finish(self, out: Path) -> None:
        parts = sorted((out / _PARTS).glob("*.npy"))
        uids = np.concatenate([np.empty(0, UID), *(np.load(part, allow_pickle=False) for part in parts)])
        with whole(out / "uids.npy") as file:
            np.save(file, np.sort(uids), allow_pickle=False)
        for part in parts:
            part.unlink()
        if parts:  # none, where all shards are broken
            (out / _PARTS).rmdir()


def as_uids(uids: Iterable[str], path: str) -> np.ndarray:
    """(n,) of dtype `u8,u8`.  Raises UserError where one is not 32 hexadecimal digits."""
    found = list(uids)
    wrong = next((uid for uid in found if not _FORM.fullmatch(uid)), None)
    if wrong is not None:
        raise UserError(
            f"{wrong!r} in {path} is no DataComp uid of 32 hexadecimal digits: --to uids needs such in a column 'uid' "
            "or as the ids"
        )
    return np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in found], UID)
