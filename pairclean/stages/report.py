"""Stage six: report.json and report.html."""

from __future__ import annotations

import json

from ..files import write_json
from ..pairs import UserError
from ..report import choose_gallery, load_thumbnails, read_captions, render_html, summarise
from ..run import Execution, Run
from .common import embedded_source, open_embeddings


def report(run: Run, execution: Execution) -> None:
    config = run.config
    execution.progress.start("report")
    judged = json.loads((run.path / "judge" / "judge.json").read_text(encoding="utf-8"))
    rematched = json.loads((run.path / "rematch" / "rematch.json").read_text(encoding="utf-8"))
    nothing = {"estimate": None, "low": None, "high": None, "level": None}
    facts = {
        "version": run.manifest["pairclean"],
        "source": run.manifest["source"],
        "layout": run.manifest["layout_of_source"],
        "model": config.model,
        "method": config.method,
        "score": judged["score"],
        "calibration": "decoy",
        "flag_below": config.flag_below,
        "min_precision": config.min_precision,
        "device": run.manifest["device"],
        "seconds": {stage: record["seconds"] for stage, record in run.manifest["stages"].items() if stage != "report"},
        "mismatch_rate": judged.get("mismatch_rate", nothing),
        "rematch": {k: rematched[k] for k in ("emitted", "expected_precision", "calibrated_on", "orphans")},
        "retrieval": judged["retrieval"],
        "notes": judged["notes"],
        "score_histogram": judged.get("score_histogram"),
    }
    content = summarise(run.verdict_tables(), facts)
    write_json(run.path / "report.json", content)
    picks = choose_gallery(run.verdict_tables(), flag_below=config.flag_below)
    emb = open_embeddings(run)
    captions = read_captions(picks, (emb.pair_table(name) for name in run.shards))
    try:
        source = embedded_source(run)
    except UserError:  # moved or changed since: the numbers stand without the pictures
        source = None
    render_html(content, load_thumbnails(picks, source, captions), run.path / "report.html")
