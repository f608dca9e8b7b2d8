"""Stage four: which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..align import Alignment, ZeroShot
from ..embed import Embeddings
from ..files import write_json
from ..judge import Reference, Scorer, reference_rows
from ..rematch import SURE, Pool, calibrate_rematching, draw_sure, emit, fit_temperature, propose
from ..run import Execution, Run
from .common import emptied, learning_device, load_array, open_embeddings, save_array

NO_PARTNER = "no caption of the data fits better"
TAKEN = "the caption that fits best stays with its own picture"
UNSURE = "no rematch is sure enough"
UNCALIBRATED = "too few clean pairs to learn how far rematches can be trusted"


def rematch(run: Run, execution: Execution) -> None:
    """Leaves in RUN/rematch, over all pairs: partner.npy (row of the new caption, -1 for none), probability.npy, and
    reason.npy (an index into rematch.json's reasons, why a noisy pair has no partner).
    """
    emb, config = open_embeddings(run), run.config
    execution.progress.start("rematch")
    gpu = learning_device(execution).startswith("cuda")
    home = emptied(run.path / "rematch")
    clean = np.asarray(load_array(run.path / "judge" / "clean_probability.npy"))
    judged = json.loads((run.path / "judge" / "judge.json").read_text(encoding="utf-8"))
    partner = np.full(len(emb), -1)
    probability = np.full(len(emb), np.nan, np.float32)
    reasons = [NO_PARTNER, TAKEN, UNSURE, UNCALIBRATED]
    reason = np.zeros(len(emb), np.int8)
    about: dict[str, Any] = {"emitted": 0, "expected_precision": None, "calibrated_on": 0, "orphans": None}
    rows = np.flatnonzero(clean < max(SURE, config.flag_below))  # NaN, not judged, is never below
    if judged["unjudged"] is None and len(rows):
        model, held_out = _rematcher(run, emb, clean, judged["score"])
        sure = _pool(emb, model, held_out, clean)
        sample = reference_rows(np.flatnonzero(~np.isnan(clean)), np.random.default_rng(config.seed))
        reference = Reference.embed(model, emb.image, emb.text, emb.image_id, emb.caption_id, sample)
        # Without a pair to fit by, any temperature does: nothing is calibrated then, and nothing rematched.
        scorer = Scorer(reference, fit_temperature(sure.image, sure.text) if len(held_out) else 1.0)
        suspects = _pool(emb, model, np.setdiff1d(rows, held_out), clean)
        decoys = load_array(run.path / "judge" / "decoy_clean_probability.npy")
        calibration = calibrate_rematching(
            suspects, sure, scorer, decoys, flag_below=config.flag_below, seed=config.seed, gpu=gpu
        )
        noisy = clean < config.flag_below  # False for NaN
        if calibration is None:
            reason[noisy] = reasons.index(UNCALIBRATED)
        else:
            proposals = propose(_pool(emb, model, rows, clean), scorer, gpu=gpu)
            has = proposals.partner >= 0
            to = rows[proposals.partner]
            free = noisy[to]  # a caption whose own pair is not flagged is not given away
            wanted = has & noisy[rows]
            reason[rows[wanted & ~free]] = reasons.index(TAKEN)
            reason[rows[wanted & free]] = reasons.index(UNSURE)
            offered = np.flatnonzero(wanted & free)
            chance = calibration(proposals.mass[offered])
            chosen = emit(chance, config.min_precision)
            partner[rows[offered[chosen]]] = to[offered[chosen]]
            probability[rows[offered[chosen]]] = chance[chosen]
            about |= {
                "emitted": int(chosen.sum()),
                "expected_precision": float(chance[chosen].mean()) if chosen.any() else None,
                "calibrated_on": calibration.broken,
                "orphans": calibration.orphans,
            }
    save_array(home / "partner.npy", partner)
    save_array(home / "probability.npy", probability)
    save_array(home / "reason.npy", reason)
    write_json(home / "rematch.json", {**about, "reasons": reasons})


def _rematcher(run: Run, emb: Embeddings, clean: np.ndarray, score: str) -> tuple[Alignment, np.ndarray]:
    """The model to rematch by, and pairs to calibrate it with: such as it never trained on."""
    learned = run.path / "model" / "rematcher.safetensors"
    model = Alignment.load(learned) if score != "clip" and learned.exists() else ZeroShot()
    if isinstance(model, ZeroShot) or run.frozen_from:
        return model, draw_sure(clean, 1.0, np.random.default_rng(run.config.seed))
    return model, np.asarray(load_array(run.path / "model" / "held_out.npy"))


def _pool(emb: Embeddings, model: Alignment, rows: np.ndarray, clean: np.ndarray) -> Pool:
    return Pool(
        model.embed_image(emb.image[rows]),
        model.embed_text(emb.text[rows]),
        emb.image_id[rows],
        emb.caption_id[rows],
        clean[rows],
    )
