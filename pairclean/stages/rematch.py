"""Stage four: which caption of the data belongs to each noisy image, and how sure that is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..align import Alignment, ZeroShot
from ..embed import Embeddings
from ..files import write_json
from ..judge import ENCODER_SCORES, REFERENCE, Reference, Scorer, keeping, pair_codes, reference_rows
from ..rematch import SURE, Pool, Searched, Terms, calibrate_rematching, draw_sure, fit_temperature, settle
from ..run import Execution, Run
from ..run.common import emptied, load_array, open_embeddings, save_array
from ..run.execution import learning_device
from .identities import identities

#: The reference is this share of the pairs, but no fewer than to judge by and no more than MOST. All captions that are
#: nearer to an image than any of the reference score alike, and of few there are many such among many.
SHARE, MOST = 1 / 4, 16_384

NO_PARTNER = "no caption of the data fits better"
TAKEN = "the caption that fits best stays with its own picture"
UNSURE = "no rematch is sure enough"
UNCALIBRATED = "too few clean pairs to learn how far rematches can be trusted"
REASONS = [NO_PARTNER, TAKEN, UNSURE, UNCALIBRATED]


def rematch(run: Run, execution: Execution) -> None:
    """Leaves in RUN/rematch, over all pairs: partner.npy (row of the new caption, -1 for none), probability.npy,
    reason.npy (an index into rematch.json's reasons, why a noisy pair has no partner) and clean_probability.npy: the
    judge's, lowered where a pair that was not flagged is rematched.

    Beside them, for the report: offered.npy, the probabilities of all proposals, the surest first, and trials.npy,
    (t, 3): of the proposals of the trials the probability, whether it was right, and its weight.
    """
    emb, config = open_embeddings(run), run.config
    execution.progress.start("rematch")
    home = emptied(run.path / "rematch")
    judged = json.loads((run.path / "judge" / "judge.json").read_text(encoding="utf-8"))
    clean = np.array(load_array(run.path / "judge" / "clean_probability.npy"))
    flag_below = config.flag_below if config.keep_fraction is None else keeping(clean, config.keep_fraction)
    found = _Found(clean, flag_below)
    if judged["unjudged"] is None:
        _rematch(run, emb, found, judged["score"], learning_device(execution))
    found.save(home)


class _Found:
    """What the stage leaves, over all pairs."""

    def __init__(self, clean: np.ndarray, flag_below: float):
        self.clean, self.flag_below = clean, flag_below
        self.partner = np.full(len(clean), -1)
        self.probability = np.full(len(clean), np.nan, np.float32)
        self.reason = np.zeros(len(clean), np.int8)
        self.offered = np.zeros(0, np.float32)
        self.trials = np.zeros((0, 3), np.float32)
        self.about: dict[str, Any] = {"emitted": 0, "expected_precision": None, "calibrated_on": 0, "orphans": None}

    def save(self, home: Any) -> None:
        for name, array in (("clean_probability", self.clean), *((k, getattr(self, k)) for k in _SAVED)):
            save_array(home / f"{name}.npy", array)
        write_json(home / "rematch.json", {**self.about, "flag_below": self.flag_below, "reasons": REASONS})


_SAVED = ("partner", "probability", "reason", "offered", "trials")


def _rematch(run: Run, emb: Embeddings, found: _Found, score: str, device: str) -> None:
    config, clean = run.config, found.clean
    flagged = clean < found.flag_below  # NaN, not judged, is never below
    every = np.flatnonzero(~np.isnan(clean))
    rows = every if config.pool == "all" else np.flatnonzero(clean < max(SURE, found.flag_below))
    if not flagged.any():
        return
    model, held_out = _rematcher(run, emb, clean, score)
    fresh = isinstance(model, ZeroShot) or run.frozen_from is not None  # it has trained on none of the pairs
    prior = float(clean[every].sum() / (1 - clean[every]).sum())
    image_id, caption_id = identities(run, emb)
    terms = Terms(
        config.capacity,
        config.pool == "all",
        np.log(prior) if fresh else None,
        carried=np.unique(pair_codes(image_id[every], caption_id[every])),
    )

    def pool(rows: np.ndarray) -> Pool:
        x, y = model.embed_image(emb.image[rows]), model.embed_text(emb.text[rows])
        return Pool(x, y, image_id[rows], caption_id[rows], clean[rows])

    sure = pool(held_out)
    size = int(np.clip(len(every) * SHARE, REFERENCE, MOST))
    sample = reference_rows(every, np.random.default_rng(config.seed), size)
    reference = Reference.embed(model, emb.image, emb.text, image_id, caption_id, sample)
    # Without a pair to fit by, any temperature does: nothing is calibrated then, and nothing rematched.
    scorer = Scorer(reference, fit_temperature(sure.image, sure.text) if len(held_out) else 1.0, device)
    unsure, again = np.setdiff1d(rows, held_out), np.intersect1d(rows, held_out)
    suspects = Searched(pool(unsure), scorer, terms, gpu=device.startswith("cuda"))
    decoys = load_array(run.path / "judge" / "decoy_clean_probability.npy")
    calibration = calibrate_rematching(suspects, sure, decoys, seed=config.seed)
    if calibration is None:
        found.reason[flagged] = REASONS.index(UNCALIBRATED)
        return
    proposals = suspects.with_pairs(pool(again)).propose(calibration.terms)
    rows = np.concatenate([again, unsure])
    has = proposals.partner >= 0
    chance = np.where(has, calibration(proposals.mass), 0.0)
    # A pair with a rematch that is right with probability p is itself matched with at most 1 - p: one that the judge
    # let pass is flagged by that, unless the user asked for a share to keep.
    wanted = flagged[rows] | ((chance > 1 - found.flag_below) & (config.keep_fraction is None))
    chosen, offered = settle(proposals.partner, chance, flagged[rows], wanted, config.min_precision, terms.again)
    found.reason[rows[has]] = REASONS.index(TAKEN)
    found.reason[rows[offered]] = REASONS.index(UNSURE)
    found.partner[rows[chosen]] = rows[proposals.partner[chosen]]
    found.probability[rows[chosen]] = chance[chosen]
    overturned = rows[chosen & ~flagged[rows]]
    clean[overturned] = (clean[overturned] * (1 - chance[chosen & ~flagged[rows]])).astype(np.float32)
    found.offered = -np.sort(-chance[offered]).astype(np.float32)
    found.trials = np.stack([calibration.probability, calibration.right, calibration.weight], axis=1).astype(np.float32)
    found.about |= {
        "emitted": int(chosen.sum()),
        "expected_precision": float(chance[chosen].mean()) if chosen.any() else None,
        "calibrated_on": calibration.broken,
        "orphans": calibration.orphans,
    }


def _rematcher(run: Run, emb: Embeddings, clean: np.ndarray, score: str) -> tuple[Alignment, np.ndarray]:
    """The model to rematch by, and pairs to calibrate it with: such as it never trained on."""
    learned = run.path / "model" / "aligned_0.safetensors"
    model = Alignment.load(learned) if score not in ENCODER_SCORES and learned.exists() else ZeroShot()
    if isinstance(model, ZeroShot) or run.frozen_from:
        return model, draw_sure(clean, np.random.default_rng(run.config.seed))
    return model, np.asarray(load_array(run.path / "model" / "held_out.npy"))
