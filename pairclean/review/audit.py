"""Mismatch rates of a finished run by the columns of its source, which are read on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..judge import Judgement, Learned, pair_codes
from ..pairs import UserError, Verdict
from ..run import Run
from ..run.results import open_judgement, open_learned
from ..sources import Source
from ..sources.roles import same
from .columns import DOMAIN, SHARD, URL, Columns
from .kinds import KINDS
from .reviewed import estimate_or_why

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Audit:
    """Mismatch rates of a run, overall and by group.

    by: the grouping columns, as they are named in `groups`.  whole: pairs, judged, unjudged, unreadable, estimate, low,
    high, level; of a run that people have reviewed, human {estimate, low, high, labels, disagreement}, or no_human, why
    the review gives no estimate; if two runs are compared, also against {the same} and difference {estimate, low,
    high}.
    groups: one row per group, the columns of `metrics.group_rates.audit` (or `compare`); None if `by` is empty.
    types: the source's types of the columns `by`, as `groups` calls them.
    """

    by: tuple[str, ...]
    whole: dict[str, Any]
    groups: pd.DataFrame | None
    types: dict[str, pa.DataType] = field(default_factory=dict)

    def to_table(self) -> pa.Table:
        """The groups as Arrow; the values of `by` have the source's types, which cannot be guessed from them."""
        assert self.groups is not None
        columns = {}
        for name, values in self.groups.items():
            if str(name) in self.types:
                found = [None if value is None or value != value else value for value in values]
                columns[str(name)] = _column(found, self.types[str(name)])
            else:
                columns[str(name)] = pa.Array.from_pandas(values)
        return pa.table(columns)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; unknown ones are None."""
        rows = [] if self.groups is None else self.groups.to_dict("records")
        groups = [{name: _plain(value) for name, value in row.items()} for row in rows]
        return {"by": list(self.by), "whole": self.whole, "groups": groups}


def audit(run: Run, by: Sequence[str] = (), *, against: Run | None = None) -> Audit:
    """Mismatch rates with intervals, overall and for every group of pairs with equal values in the columns `by`.

    run: a finished run.
    by: none, one or two (crossed) of the source's columns; `shard` is the file of a pair. If the source has no columns
    of these names, `domain` is the host in its column `url`, and `kind` and `picture_kind` are the kinds that the judge
    found, named by the distinctive words of their captions.
    against: another run to compare with.
    Raises UserError if a run is not finished, its source has changed, or there is no such column.
    """
    from ..metrics.group_rates import compare, difference, shown_names

    by = tuple(by)
    if len(set(by)) != len(by) or len(by) > 2:
        raise UserError("pairs are grouped by at most two columns: name one, or two different ones")
    for one in (run,) if against is None else (run, against):
        one.must_be_done("export")
    columns = Columns(run)
    whole, groups = _whole(run), _groups(columns, by) if by else None
    reviewed, why = estimate_or_why(run)
    if reviewed is not None and reviewed.mismatched is not None:
        whole["human"] = {**asdict(reviewed.mismatched), "disagreement": reviewed.disagreement}
    elif why is not None:
        whole["no_human"] = why
    if against is not None:
        theirs = _whole(against)
        whole = {**whole, "against": theirs, "difference": {"estimate": None, "low": None, "high": None}}
        if whole["estimate"] is not None and theirs["estimate"] is not None:
            known = [side[name] for side in (whole, theirs) for name in ("estimate", "low", "high")]
            values = (float(value) for value in difference(*known))
            whole["difference"] = dict(zip(("estimate", "low", "high"), values, strict=True))
        if groups is not None:
            groups = compare(groups, _groups(Columns(against), by), by)
    names = tuple(shown_names(by))
    types = {shown: _type(columns, column) for shown, column in zip(names, by, strict=True)}
    return Audit(names, whole, groups, types)


def _type(columns: Columns, column: str) -> pa.DataType:
    """The source's type of a column that pairs are grouped by."""
    if column == SHARD:
        return pa.string()
    source = columns.source
    if columns.is_kind(column) or (column == DOMAIN and DOMAIN not in source.columns):
        return pa.string()
    first = next(shard for shard in source.shards if shard.rows)
    kind = next(iter(source.batches(first, [column]))).column(0).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values in this type; as text where a shard or the other run holds them in another."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def uneven_columns(columns: Columns, *, most_values: int, fewest_pairs: int) -> list[tuple[str, pd.DataFrame]]:
    """The columns whose groups differ most in their mismatch rate: (column, its audit), the most uneven first.

    Considered are the `plain_columns`; of these, the ones with at least two groups of `fewest_pairs` judged pairs.
    """
    found = []
    for column in plain_columns(columns.source, most_values):
        try:
            groups = _groups(columns, (column,))
        except UserError:  # the column is not in every shard
            continue
        large = groups[groups["judged"] >= fewest_pairs]
        few = column in (SHARD, DOMAIN, *KINDS) or len(groups) <= most_values
        if len(large) > 1 and few and large["rate"].notna().all():
            mean = np.average(large["rate"], weights=large["judged"])
            spread = float(np.average((large["rate"] - mean) ** 2, weights=large["judged"]))
            found.append((spread, column, groups))
    found.sort(key=lambda item: -item[0])
    return [(column, groups) for _, column, groups in found]


def plain_columns(source: Source, most_values: int) -> list[str]:
    """The shards, the domains if there is a column `url`, the judge's kinds, and the source's plain columns.

    The latter have at most `most_values` different values at the beginning of the source.
    """
    roles = {source.roles.image, source.roles.caption, source.roles.id}
    candidates = [SHARD] if len(source.shards) > 1 else []
    if same(source.columns, URL) and DOMAIN not in source.columns:
        candidates.append(DOMAIN)
    candidates += [name for name in KINDS if name not in source.columns]
    for name in source.columns:
        if name in roles or name in candidates:
            continue
        first = _first_values(source, name)
        if first is not None and len(first.unique()) <= most_values:
            candidates.append(name)
    return candidates


def _first_values(source: Source, column: str) -> pa.Array | None:
    """The first values of a column, if pairs can be grouped by it; else None."""
    try:
        batch = next(iter(source.batches(source.shards[0], [column])), None)
        return None if batch is None or not _is_plain(batch.column(0).type) else batch.column(0)
    except (UserError, IndexError, pa.ArrowException, UnicodeDecodeError):
        return None


def _is_plain(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
    return any(test(kind) for test in tests)


def _groups(columns: Columns, by: Sequence[str]) -> pd.DataFrame:
    from ..metrics import group_rates as rates

    judged = open_judgement(columns.run)
    tallies = [rates.tally(*part) for part in _parts(columns, by)]
    return rates.audit(tallies, by, prior=prior_of(judged), whole=asdict(judged.rate) if judged.rate else {})


def _parts(columns: Columns, by: Sequence[str]) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]]:
    """For each shard: the groups, the clean probabilities, which pairs are unreadable, and which are copies.

    The probabilities are the judge's. The verdicts contain lower ones where rematching overturned the judgement, but
    the calibration's prior can only be removed from the judge's.
    """
    import pandas as pd

    clean, units, start = open_judgement(columns.run).clean_probability, units_of_pairs(open_learned(columns.run)), 0
    verdicts = _verdicts(columns.run)
    for (_, groups), (_, table) in zip(columns.parts(by), verdicts, strict=True):
        unreadable = pc.equal(table["verdict"], Verdict.UNREADABLE.value).to_numpy()
        part = slice(start, start + len(table))
        yield pd.DataFrame(groups), np.asarray(clean[part]), unreadable, units[part]
        start = part.stop


def units_of_pairs(learned: Learned) -> np.ndarray:
    """(N,) int64 of `metrics.group_rates.units_of`, by what the judge takes for copies of an image and of a caption."""
    from ..metrics.group_rates import units_of

    return units_of(pair_codes(learned.image_id, learned.caption_id))


def _verdicts(run: Run) -> Iterator[tuple[str, pa.Table]]:
    for name in run.shards:
        path = run.path / "verdicts" / f"{name}.parquet"
        yield name, pq.read_table(path, columns=["row", "verdict", "clean_probability"])


def prior_of(judged: Judgement) -> float | None:
    """P(mismatched) before the score is seen, which the clean probabilities contain."""
    if judged.calibration is None:
        return None
    prior = judged.calibration.prior if judged.recalibration is None else judged.recalibration.rate
    return min(max(prior, 1e-6), 1 - 1e-6)


def _whole(run: Run) -> dict[str, Any]:
    counts: dict[str, int] = {"pairs": 0, "judged": 0, "unjudged": 0, "unreadable": 0}
    for _, table in _verdicts(run):
        unreadable = pc.sum(pc.equal(table["verdict"], Verdict.UNREADABLE.value)).as_py() or 0
        judged = len(table) - table["clean_probability"].null_count
        found = (len(table), judged, len(table) - judged - unreadable, unreadable)
        counts = {name: counts[name] + value for name, value in zip(counts, found, strict=True)}
    return {**counts, **open_judgement(run).mismatch_rate}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
