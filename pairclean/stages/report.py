"""Stage six: report.json and report.html."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_json
from ..judge import FOLDS, Faults, Judgement, Learned, threshold_table
from ..methods import load
from ..pairs import UserError
from ..rematch import Rematches
from ..report import (
    check_calibration,
    choose_gallery,
    load_thumbnails,
    pick_examples,
    read_captions,
    rematch_curve,
    render_html,
    summarise,
)
from ..review.audit import uneven_columns
from ..review.columns import Columns
from ..review.reviewed import estimate_or_why
from ..review.slices import MOST_VALUES
from ..run import Execution, Run
from ..run.results import open_embeddings, open_faults, open_judgement, open_learned, open_rematches
from ..run.source import embedded_source
from .findings import find

if TYPE_CHECKING:
    import pandas as pd

FEWEST_PAIRS = 20  # judged pairs in at least two groups
COLUMNS_SHOWN, GROUPS_SHOWN = 6, 12
_OF_REMATCH = ("emitted", "mended", "expected_precision", "calibrated_on", "orphans")


def report(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("report")
    emb, faults, judged, rematched = open_embeddings(run), open_faults(run), open_judgement(run), open_rematches(run)
    learned = open_learned(run)
    try:
        source = embedded_source(run)
    except UserError:  # moved or changed since: the report has its numbers, without the images
        source = None
    reviewed, why_not = estimate_or_why(run)
    columns = None if source is None else Columns(run, source)
    findings = find(run, columns)
    facts = {
        "version": run.manifest["pairclean"],
        "source": run.manifest["source"],
        "layout": run.manifest["layout_of_source"],
        "model": run.manifest["encoder"]["description"].get("vectors", config.model),
        "method": learned.method or config.method,  # nothing was learned from too few pairs
        "score": judged.score,
        "calibration": config.calibration,
        "flag_below": rematched.flag_below,
        "min_precision": config.min_precision,
        "device": run.manifest["device"],
        "seconds": {stage: record["seconds"] for stage, record in run.manifest["stages"].items() if stage != "report"},
        "mismatch_rate": judged.mismatch_rate,
        "rematch": {k: getattr(rematched, k) for k in _OF_REMATCH},
        "retrieval": judged.retrieval and asdict(judged.retrieval),
        "notes": [
            *_given_back(rematched),
            *_of_judge(judged, faults),
            *_half_right(judged, rematched, could_read=run.has_encoder and not config.phrases),
            *([why_not] if why_not else []),
            *([] if run.frozen_from else _sampled(learned, int(emb.readable.sum()))),
            *run.manifest.get("caption_notes", []),
            *(f"{path} {note}" for path, note in run.manifest.get("notes", {}).items()),
        ],
        "score_histogram": judged.histogram and asdict(judged.histogram),
        "calibration_check": _calibration_check(judged, rematched, faults, emb.caption_id),
        "rematch_curve": rematch_curve(rematched.offered, rematched.trials, rematched.emitted),
        "groups": _groups(columns),
        "thresholds": threshold_table(rematched.clean_probability, judged.rate, flag_below=rematched.flag_below),
        "human": reviewed and reviewed.to_json(),
        "findings": findings.content,
        "broken": run.manifest.get("broken") or {},
        "cleaned_to": config.cleaned_to,
    }
    content = summarise(run.verdict_tables(), facts)
    content["notes"] += _several_captions(content["several_captions"], best=config.captions == "best")
    content["notes"] += _left_out(content["copies"]["left_out"], config.deduplicate)
    write_json(run.path / "report.json", content)
    picks = choose_gallery(run.verdict_tables(), flag_below=rematched.flag_below)
    picks = pick_examples(run.verdict_tables(), findings.examples) + picks
    captions = read_captions(picks, (emb.pair_table(name) for name in run.shards))
    render_html(content, load_thumbnails(picks, source, captions), run.path / "report.html")


def _sampled(learned: Learned, pairs: int) -> list[str]:
    """In large data, that the second round's models did not learn from all pairs.  pairs: how many can be read."""
    if learned.method is None or not learned.aligned:
        return []
    most, given = load(learned.method).largest_epoch, pairs - pairs // FOLDS
    if most is None or given <= most:
        return []
    return [f"Each model learned from a sample: at most {most:,} of about {given:,} pairs in an epoch."]


def _given_back(rematched: Rematches) -> list[str]:
    """What the numbers are of, once captions were given back."""
    if not rematched.mended:
        return []
    return [
        f"{rematched.mended:,} captions that had moved were given back before anything was learned: the mismatch rate "
        "and the retrieval are of the pairs as they are now."
    ]


def _of_judge(judged: Judgement, faults: Faults) -> list[str]:
    """The judge's notes, unless captions that moved are why nothing could be judged."""
    if judged.unjudged is None or faults.repaired or faults.moved.mean() < 0.5:
        return judged.notes
    return [
        "Nothing was judged, because most captions are with other images: give them back with `pairclean rematch RUN "
        "--repair`, which then judges all pairs."
    ]


def _half_right(judged: Judgement, rematched: Rematches, *, could_read: bool) -> list[str]:
    """What happens to captions that are half right, if it is known.

    could_read: whether `--phrases` could find them.
    """
    parts = {} if judged.rate is None else judged.rate.parts
    if "partly" in parts:
        return [
            f"About {parts['partly']['estimate']:.0%} of the pairs have a caption that is partly wrong: "
            "`mismatched_text` of the verdicts has the words that fit the picture least."
        ]
    mixed = judged.mixed_clean_probability
    if not len(mixed):
        return []
    share = (mixed < rematched.flag_below).mean()
    return [
        f"Of pairs of which half of the caption belongs to another picture, about {share:.0%} are flagged; the "
        "mismatch rate counts few of the others"
        + ("; `pairclean judge RUN --phrases` looks for them." if could_read else ".")
    ]


def _several_captions(counts: dict[str, int], *, best: bool) -> list[str]:
    """How often the first of several captions is not the likeliest, and what `--captions best` leaves out."""
    if not counts["rows"]:
        return []
    share = counts["first_not_best"] / counts["rows"]
    notes = [f"Of {counts['rows']:,} images with several captions, the first is not the likeliest for {share:.0%}."]
    if best and counts["besides_best"]:
        notes.append(f"cleaned/ leaves out {counts['besides_best']:,} captions that were kept besides a likelier one.")
    return notes


def _left_out(count: int, one_per: str) -> list[str]:
    """What `--deduplicate` leaves out."""
    what = {"none": "", "image": "picture", "pair": "picture and caption"}[one_per]
    return [f"cleaned/ leaves out {count:,} pairs: of copies of one {what}, one pair is kept."] if what else []


def _calibration_check(
    judged: Judgement, rematched: Rematches, faults: Faults, caption_id: np.ndarray
) -> dict[str, Any] | None:
    """Of the pairs that are judged by their scores: where captions moved, their places tell."""
    if judged.rate is None:
        return None
    clean = np.asarray(judged.clean_probability)
    strays = faults.strays(caption_id) & (not faults.repaired)
    shifted = float(strays[~np.isnan(clean)].mean())
    others = (judged.rate.estimate - shifted) / (1 - shifted) if shifted < 1 else 0.0
    by_score = np.where(strays, np.nan, clean)
    found = check_calibration(by_score, np.asarray(judged.decoy_clean_probability), max(0.0, others))
    if found is not None:
        found["overturned"] = int(((rematched.clean_probability < clean) & ~faults.moved).sum())
    return found


def _groups(columns: Columns | None) -> list[dict[str, Any]]:
    """The columns whose groups differ most, each with its largest groups, the highest rates first."""
    if columns is None:
        return []
    uneven = uneven_columns(columns, most_values=MOST_VALUES, fewest_pairs=FEWEST_PAIRS)
    return [
        {
            "column": column,
            "count": len(groups),
            "groups": _largest(groups),
        }
        for column, groups in uneven[:COLUMNS_SHOWN]
    ]


def _largest(groups: pd.DataFrame) -> list[dict[str, Any]]:
    largest = groups.nlargest(GROUPS_SHOWN, "judged").sort_values("rate", ascending=False, kind="stable")
    names = largest.iloc[:, 0]
    return [
        {"name": None if name is None else str(name), **{key: row[key] for key in _SHOWN}}
        for name, row in zip(names, largest.to_dict("records"), strict=True)
    ]


_SHOWN = ("pairs", "judged", "unjudged", "unreadable", "mismatched", "rate", "low", "high", "small")
