"""Stage six: report.json and report.html."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_json
from ..pairs import UserError
from ..report import (
    check_calibration,
    choose_gallery,
    load_thumbnails,
    read_captions,
    rematch_curve,
    render_html,
    summarise,
)
from ..review.audit import uneven_columns
from ..run import Execution, Run
from ..run.common import embedded_source, flag_below, load_array, open_embeddings
from ..sources import Source

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 100  # of a column that pairs are grouped by
FEWEST_PAIRS = 20  # judged, in each of two groups at least
COLUMNS_SHOWN, GROUPS_SHOWN = 6, 12


def report(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("report")
    judged = json.loads((run.path / "judge" / "judge.json").read_text(encoding="utf-8"))
    rematched = json.loads((run.path / "rematch" / "rematch.json").read_text(encoding="utf-8"))
    try:
        source = embedded_source(run)
    except UserError:  # moved or changed since: the numbers stand without the pictures
        source = None
    nothing = {"estimate": None, "low": None, "high": None, "level": None}
    facts = {
        "version": run.manifest["pairclean"],
        "source": run.manifest["source"],
        "layout": run.manifest["layout_of_source"],
        "model": run.manifest["encoder"]["description"].get("vectors", config.model),
        "method": _method(run),
        "score": judged["score"],
        "calibration": config.calibration,
        "flag_below": flag_below(run),
        "min_precision": config.min_precision,
        "device": run.manifest["device"],
        "seconds": {stage: record["seconds"] for stage, record in run.manifest["stages"].items() if stage != "report"},
        "mismatch_rate": judged.get("mismatch_rate", nothing),
        "rematch": {k: rematched[k] for k in ("emitted", "expected_precision", "calibrated_on", "orphans")},
        "retrieval": judged["retrieval"],
        "notes": [*judged["notes"], *_half_right(run), *(f"{k} {v}" for k, v in run.manifest.get("notes", {}).items())],
        "score_histogram": judged.get("score_histogram"),
        "calibration_check": _calibration_check(run, judged),
        "rematch_curve": _rematch_curve(run, rematched["emitted"]),
        "groups": _groups(run, source),
        "broken": run.manifest.get("broken") or {},
    }
    content = summarise(run.verdict_tables(), facts)
    write_json(run.path / "report.json", content)
    picks = choose_gallery(run.verdict_tables(), flag_below=flag_below(run))
    emb = open_embeddings(run)
    captions = read_captions(picks, (emb.pair_table(name) for name in run.shards))
    render_html(content, load_thumbnails(picks, source, captions), run.path / "report.html")


def _method(run: Run) -> str:
    """The one that was taken, where the choice was left open."""
    taken = run.path / "model" / "method.json"
    if not taken.exists():  # nothing was learned
        return run.config.method
    return str(json.loads(taken.read_text(encoding="utf-8"))["method"])


def _half_right(run: Run) -> list[str]:
    """What becomes of captions that are half right, where it is known."""
    path = run.path / "judge" / "mixed_clean_probability.npy"
    mixed = np.asarray(load_array(path)) if path.exists() else np.zeros(0)
    if not len(mixed):
        return []
    share = (mixed < flag_below(run)).mean()
    return [
        f"Of pairs of which half of the caption belongs to another picture, about {share:.0%} are flagged; the "
        "mismatch rate counts few of the others."
    ]


def _calibration_check(run: Run, judged: dict[str, Any]) -> dict[str, Any] | None:
    rate = judged.get("mismatch_rate")
    if rate is None:
        return None
    home = run.path / "judge"
    clean = np.asarray(load_array(home / "clean_probability.npy"))
    decoys = np.asarray(load_array(home / "decoy_clean_probability.npy"))
    found = check_calibration(clean, decoys, rate["estimate"])
    if found is not None:
        after = np.asarray(load_array(run.path / "rematch" / "clean_probability.npy"))
        found["overturned"] = int((after < clean).sum())
    return found


def _rematch_curve(run: Run, emitted: int) -> dict[str, Any] | None:
    offered, trials = (run.path / "rematch" / f"{name}.npy" for name in ("offered", "trials"))
    if not offered.exists():  # rematched by an earlier version
        return None
    return rematch_curve(np.asarray(load_array(offered)), np.asarray(load_array(trials)), emitted)


def _groups(run: Run, source: Source | None) -> list[dict[str, Any]]:
    """The columns whose groups differ most, each with its largest groups, the worst first."""
    if source is None:
        return []
    columns = uneven_columns(run, source, most_values=MOST_VALUES, fewest_pairs=FEWEST_PAIRS)
    return [
        {
            "column": column,
            "count": len(groups),
            "groups": _largest(groups),
        }
        for column, groups in columns[:COLUMNS_SHOWN]
    ]


def _largest(groups: pd.DataFrame) -> list[dict[str, Any]]:
    largest = groups.nlargest(GROUPS_SHOWN, "judged").sort_values("rate", ascending=False, kind="stable")
    names = largest.iloc[:, 0]
    return [
        {"name": None if name is None else str(name), **{key: row[key] for key in _SHOWN}}
        for name, row in zip(names, largest.to_dict("records"), strict=True)
    ]


_SHOWN = ("pairs", "judged", "unjudged", "unreadable", "mismatched", "rate", "low", "high", "small")
