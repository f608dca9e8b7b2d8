"""The numbers of report.json: counts over the verdicts, and the facts that a run knows about itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..export import best_of_rows
from ..judge import pair_codes
from ..pairs import ReasonCode, Verdict

PROBABILITY_BINS = 40
REASONS_SHOWN = 20
_REASONS_COUNTED = 10_000  # a reason that contains a path differs for every pair, and memory must not grow with pairs
_REASON_LENGTH = 300
_NO_RATE = {"estimate": None, "low": None, "high": None, "level": None}


def summarise(verdicts: Iterable[pa.Table], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json, ready for `json.dump`; every number keeps its full precision.

    verdicts: tables with VERDICT_SCHEMA, read one by one; two groups per pair is all that is kept in memory.
    facts: what the run knows: version, source, layout, model, method, score, calibration, flag_below, device, seconds,
    mismatch_rate, rematch, retrieval (recalls in percent, rSum up to 600), notes, score_histogram, calibration_check,
    rematch_curve, groups, findings, broken, thresholds (`judge.threshold_table`), human (the review).  They are copied,
    with NaN and infinity as null.  Where the verdicts say the same, they win: `rematch.emitted` is counted, not copied.

    Added to the facts are pairs, unreadable, flagged (rematched + noisy), verdicts (one count each),
    several_captions {rows: with several judged captions, first_not_best: rows of which the first caption is not the one
    with the highest clean_probability, besides_best: captions that stay besides the likeliest of their row},
    copies {images, captions, pairs (copies in both): {groups: of at least two, pairs: in these}, left_out: pairs that
    `--deduplicate` leaves out of cleaned/; the captions of one row are no copies of their picture},
    unreadable_reasons, noisy_reasons (why there was no rematch), unjudged_reasons (counts, the most frequent first, the
    rest as "other"), reason_codes (a count of each that occurs), and clean_probability_histogram {edges: 41 floats from
    0 to 1, kept: 40 counts, flagged: 40 counts}.
    """
    counts = dict.fromkeys(Verdict, 0)
    reasons = {verdict: _Reasons() for verdict in (Verdict.UNREADABLE, Verdict.NOISY, Verdict.UNJUDGED)}
    codes: Counter[str] = Counter()
    edges = np.arange(PROBABILITY_BINS + 1) / PROBABILITY_BINS
    kept = np.zeros(PROBABILITY_BINS, np.int64)
    flagged = np.zeros(PROBABILITY_BINS, np.int64)
    rematch_sum = 0.0
    captions, copies = _SeveralCaptions(), _Copies()

    for table in verdicts:
        captions.add(table)
        copies.add(table)
        for name, count in _value_counts(table["verdict"]):
            counts[Verdict(name)] += count
        for verdict, counter in reasons.items():
            counter.add(table["reason"].filter(pc.equal(table["verdict"], verdict.value)))
        codes.update(dict(_value_counts(table["reason_code"].drop_null())))
        is_noisy = pc.fill_null(table["is_noisy"], False)
        kept += _histogram(table["clean_probability"].filter(pc.invert(is_noisy)), edges)
        flagged += _histogram(table["clean_probability"].filter(is_noisy), edges)
        rematch_sum += pc.sum(table["rematch_probability"].cast(pa.float64())).as_py() or 0.0

    emitted = counts[Verdict.REMATCHED]
    passed_on = _plain(dict(facts))
    rematch = {"expected_precision": rematch_sum / emitted if emitted else None, **(passed_on.get("rematch") or {})}
    return {
        **passed_on,
        "pairs": sum(counts.values()),
        "unreadable": counts[Verdict.UNREADABLE],
        "flagged": counts[Verdict.REMATCHED] + counts[Verdict.NOISY],
        "verdicts": {verdict.value: count for verdict, count in counts.items()},
        "flag_below": passed_on.get("flag_below", 0.5),
        "mismatch_rate": {**_NO_RATE, **(passed_on.get("mismatch_rate") or {})},
        "rematch": {**rematch, "emitted": emitted},
        "retrieval": passed_on.get("retrieval"),
        "thresholds": passed_on.get("thresholds") or [],
        "human": passed_on.get("human"),
        "seconds": passed_on.get("seconds") or {},
        "device": passed_on.get("device"),
        "notes": passed_on.get("notes") or [],
        "groups": passed_on.get("groups") or [],
        "findings": passed_on.get("findings") or [],
        "broken": passed_on.get("broken") or {},
        "several_captions": captions.counts,
        "copies": {**copies.counts(), "left_out": codes[ReasonCode.DUPLICATE.value]},
        "unreadable_reasons": reasons[Verdict.UNREADABLE].most_common(),
        "noisy_reasons": reasons[Verdict.NOISY].most_common(),
        "unjudged_reasons": reasons[Verdict.UNJUDGED].most_common(),
        "reason_codes": {code.value: codes[code.value] for code in ReasonCode if codes[code.value]},
        "clean_probability_histogram": {
            "edges": edges.tolist(),
            "kept": kept.tolist(),
            "flagged": flagged.tolist(),
        },
    }


class _SeveralCaptions:
    """Counts of rows of several captions."""

    def __init__(self) -> None:
        self.counts = {"rows": 0, "first_not_best": 0, "besides_best": 0}

    def add(self, table: pa.Table) -> None:
        kept = table.filter(pc.is_in(table["verdict"], pa.array([Verdict.CLEAN.value, Verdict.REMATCHED.value])))
        self.counts["besides_best"] += len(kept) - pc.count_distinct(kept["row"]).as_py()
        judged = table.filter(pc.is_valid(table["clean_probability"]))
        row, index = judged["row"].to_numpy(), judged["caption_index"].to_numpy()
        best = best_of_rows(row, judged["clean_probability"].to_numpy())
        _, captions = np.unique(row, return_counts=True)
        self.counts["rows"] += int((captions > 1).sum())
        self.counts["first_not_best"] += int((index[best][captions > 1] > 0).sum())


class _Copies:
    """Counts of copies; all groups have to be in memory."""

    def __init__(self) -> None:
        self.parts = [(np.zeros(0, np.int64),) * 3]
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        row = self.rows + np.cumsum(np.diff(table["row"].to_numpy(), prepend=-1) != 0)
        self.rows = int(row[-1]) if len(row) else self.rows
        there = table["image_group"].is_valid().to_numpy()
        image, caption = (table[name].drop_null().to_numpy() for name in ("image_group", "caption_group"))
        self.parts.append((row[there], image, caption))

    def counts(self) -> dict[str, dict[str, int]]:
        row, image, caption = (np.concatenate(of) for of in zip(*self.parts, strict=True))
        pair = np.arange(len(row))
        return {
            "images": _several(image, row),
            "captions": _several(caption, pair),
            "pairs": _several(pair_codes(image, caption), pair),
        }


def _several(group: np.ndarray, of: np.ndarray) -> dict[str, int]:
    """How many groups have at least two different values of `of`, and how many members these have."""
    _, first = np.unique(pair_codes(group, of), return_index=True)
    groups, count = np.unique(group[first], return_counts=True)
    groups = groups[count > 1]
    return {"groups": len(groups), "pairs": int(np.isin(group, groups).sum())}


class _Reasons:
    """Counts of reasons in bounded memory; reasons that do not fit are counted as "other"."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, column: pa.ChunkedArray) -> None:
        for reason, count in _value_counts(column):
            name = "no reason given" if reason is None else str(reason)[:_REASON_LENGTH]
            known = name in self.counts or len(self.counts) < _REASONS_COUNTED
            self.counts[name if known else "other"] += count

    def most_common(self) -> dict[str, int]:
        other = self.counts.get("other", 0)
        ranked = sorted(((n, c) for n, c in self.counts.items() if n != "other"), key=lambda item: (-item[1], item[0]))
        shown = ranked if len(ranked) + bool(other) <= REASONS_SHOWN else ranked[: REASONS_SHOWN - 1]
        other += sum(count for _, count in islice(ranked, len(shown), None))
        return dict(shown) | ({"other": other} if other else {})


def _value_counts(column: pa.ChunkedArray) -> list[tuple[Any, int]]:
    return [(entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()]


def _histogram(column: pa.ChunkedArray, edges: np.ndarray) -> np.ndarray:
    values = column.drop_null().to_numpy().astype(np.float64)
    return np.histogram(values[np.isfinite(values)], bins=edges)[0].astype(np.int64)


def _plain(value: Any) -> Any:
    """`value` in JSON's types: NumPy scalars and arrays converted, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or type(value) in (bool, int, str):
        return value
    return str(value)
