"""Stage three: score every pair by a model that never trained on it, and calibrate the scores by decoys."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..align import Alignment, ZeroShot
from ..arrays import Rows, chunks, unit
from ..embed import Embeddings
from ..files import write_json
from ..judge import (
    ENCODER_SCORES,
    FEWEST,
    FOLDS,
    LEVEL,
    Calibration,
    Company,
    DecoyScale,
    Rate,
    Scorer,
    Scores,
    all_alike,
    calibrate_scores,
    cannot_judge,
    cosine_scores,
    cross_scores,
    fold_of,
    frozen_scores,
    judge_scores,
    keeps_particulars,
    kind_cut,
    lemon_scores,
    mixed_scores,
    near_ranks,
    read_calibration,
    separates_better,
)
from ..metrics.retrieval import retrieval
from ..pairs import UserError
from ..run import Execution, Run
from ..run.common import emptied, open_embeddings, save_array
from ..run.execution import learning_device
from .held_out import clean_by_fold, folds_of
from .identities import identities

#: Of a mismatch: not told, another picture's caption, or a caption of which half is another's.
NOISE_KINDS = (None, "complete", "partial")
HISTOGRAM_BINS = 60
DECOYS_KEPT = 20_000

NOT_LEARNED = (
    "Learning from the judged pairs did not set them further apart from random re-pairings, or less apart "
    "from captions like their own, so they are judged by what it started from."
)
FOREIGN = (
    "The encoder's own similarities do not tell matches from mismatches here, so that the alignment was learned from "
    "nothing."
)
LOWER_BOUND = (
    "The mismatch rate holds for random mismatches; where mismatches resemble matches "
    "(captions swapped between pictures of one kind) it is a lower bound."
)


def judge(run: Run, execution: Execution) -> None:
    emb = open_embeddings(run)
    rows = np.flatnonzero(emb.readable)
    if run.config.score in ENCODER_SCORES and not run.comparable:
        raise UserError(f"{run.config.model} has no similarity of its own to judge by: choose --score auto or aligned")
    execution.progress.start("judge")
    out = _Output(run, emb, rows, learning_device(execution))
    if len(rows) < FEWEST:
        out.unjudged(
            f"only {len(rows)} readable {'pair' if len(rows) == 1 else 'pairs'}: at least {FEWEST} are needed to judge"
        )
    elif run.frozen_from:
        _judge_frozen(run, out)
    else:
        _judge(run, out)


def _judge(run: Run, out: _Output) -> None:
    emb, rows, config = out.emb, out.rows, run.config
    fold = folds_of(run, emb, rows)
    elsewhere = fold != fold_of(emb.image_id[rows], FOLDS)
    save_array(out.home / "tied_image_id.npy", emb.image_id[rows][elsewhere])
    save_array(out.home / "tied_fold.npy", fold[elsewhere])
    pairs = (emb.image, emb.text, *identities(run, emb))

    def scored(models: Sequence[Alignment]) -> Scores:
        return cross_scores(models, *pairs, rows, fold, seed=config.seed)

    def near(models: Sequence[Alignment], scores: Scores) -> np.ndarray:
        return near_ranks(models, scores, *pairs, rows, fold, seed=config.seed)

    models = load_models(run, "first", out.device)
    name = "negclip" if _is_encoder(models) else "first"
    if run.comparable and name == "first" and config.method != "canonical":
        out.notes.append(FOREIGN)
    chosen = untouched = scored(models)
    out.aligned_similarity[rows] = untouched.similarity
    learned_models = load_models(run, "aligned", out.device)
    if learned_models:
        learned = scored(learned_models)
        out.aligned_similarity[rows] = learned.similarity
        if config.score == "aligned" or (
            config.score == "auto"
            and separates_better(learned, untouched)
            and keeps_particulars(near(learned_models, learned), near(models, untouched))
        ):
            name, models, chosen = "aligned", learned_models, learned
        elif config.score == "auto":
            out.notes.append(NOT_LEARNED)
    if config.score in ENCODER_SCORES and config.score != name:
        name, models = config.score, [ZeroShot(device=out.device)]
        chosen = untouched = _encoder_scores(name, pairs, rows, config.seed, out.device)
    why = cannot_judge(untouched)
    if why:
        out.unjudged(why)
        return
    calibration = judge_scores(chosen, untouched, config.calibration, seed=config.seed)
    out.write(name, chosen, calibration, calibration.rate, lambda: _retrieval(out, fold, models))
    out.write_kinds(models, chosen, calibration, fold)


def _is_encoder(models: Sequence[Alignment]) -> bool:
    return all(model.image is None for model in models)


def _encoder_scores(
    name: str, pairs: tuple[Rows, Rows, np.ndarray, np.ndarray], rows: np.ndarray, seed: int, device: str
) -> Scores:
    """By the encoder's own similarity: of the pair alone, without its hubness, or with its neighbours'."""
    if name == "clip":
        return cosine_scores(*pairs, rows, seed=seed)
    if name == "lemon":
        return lemon_scores(*pairs, rows, seed=seed)
    return cross_scores([ZeroShot(device=device)], *pairs, rows, np.zeros(len(rows), np.int64), seed=seed)


def _judge_frozen(run: Run, out: _Output) -> None:
    """By the models, references and calibration of another run: the fold of an image says which of them."""
    assert run.frozen_from is not None
    theirs = run.frozen_from.path / "judge"
    known = json.loads((theirs / "judge.json").read_text(encoding="utf-8"))
    if known["unjudged"]:
        out.unjudged(f"the run that judges was not judged itself: {known['unjudged']}")
        return
    emb, rows, name, seed = out.emb, out.rows, known["score"], run.config.seed
    pairs = (emb.image, emb.text, emb.image_id, emb.caption_id)
    files = sorted(theirs.glob("scorer_*.safetensors"))
    models = [ZeroShot(device=out.device)] if name in ENCODER_SCORES else load_models(run, name, out.device)
    fold = folds_of(run, emb, rows)
    if name == "clip":
        scores = cosine_scores(*pairs, rows, seed=seed)
    elif name == "lemon":
        scores = lemon_scores(*pairs, rows, company=Company.load(files[0]), seed=seed)
    else:
        scores = frozen_scores(models, [Scorer.load(file) for file in files], *pairs, rows, fold, seed=seed)
    why = all_alike(scores)
    if why:
        out.unjudged(why)
        return
    calibration = read_calibration(known["calibration"])
    out.aligned_similarity[rows] = scores.similarity
    # The rate is this data's own; the scale that turns scores into probabilities is the other run's.
    rate = calibrate_scores(scores, known["calibration"]["kind"], seed=seed).rate
    out.notes.append("Probabilities are those of the run that was applied; the mismatch rate is this data's own.")
    out.write(name, scores, calibration, rate, lambda: _retrieval(out, fold, models))
    out.write_kinds(models, scores, calibration, fold)


def load_models(run: Run, name: str, device: str = "cpu") -> list[Alignment]:
    """The models of one round, in the order of their folds."""
    return [Alignment.load(path, device) for path in sorted((run.path / "model").glob(f"{name}_*.safetensors"))]


class _Output:
    """What the stage leaves in RUN/judge: arrays over all pairs (NaN where there is nothing), and judge.json."""

    def __init__(self, run: Run, emb: Embeddings, rows: np.ndarray, device: str):
        self.run, self.emb, self.rows, self.device = run, emb, rows, device
        self.home: Path = emptied(run.path / "judge")
        self.notes: list[str] = []
        self.clean_probability, self.similarity, self.aligned_similarity = (np.full(len(emb), np.nan) for _ in range(3))
        if run.comparable:
            for part in chunks(len(rows), 65536):
                x, y = (unit(np.asarray(e[rows[part]], np.float32)) for e in (emb.image, emb.text))
                self.similarity[rows[part]] = (x * y).sum(1)

    def unjudged(self, why: str) -> None:
        self._write({"score": None, "unjudged": why, "notes": [f"Nothing was judged: {why}."], "retrieval": None})

    def write(
        self, score: str, scores: Scores, calibration: Calibration, rate: Rate, recalls: Callable[[], dict[str, Any]]
    ) -> None:
        # As the verdicts will have them: whoever compares them with a threshold, here or there, finds the same.
        self.clean_probability[self.rows] = calibration.clean_probability(scores.score).astype(np.float32)
        decoys = scores.decoys[:: max(1, len(scores.decoys) // DECOYS_KEPT)]
        save_array(self.home / "decoy_clean_probability.npy", calibration.clean_probability(decoys))
        for k, scorer in enumerate(scores.scorers):
            scorer.save(self.home / f"scorer_{k}.safetensors")
        self._write(
            {
                "score": score,
                "unjudged": None,
                "notes": [*self.notes, LOWER_BOUND],
                "separation": scores.separation,
                "mismatch_rate": {**asdict(rate), "level": LEVEL},
                "calibration": calibration.to_json(),
                "score_histogram": _histogram(scores, rate.estimate),
                "retrieval": recalls(),
            }
        )

    def write_kinds(
        self, models: Sequence[Alignment], scores: Scores, calibration: Calibration, fold: np.ndarray
    ) -> None:
        """noise_kind.npy, (N,) int8, an index into NOISE_KINDS of what each pair would be if it were mismatched; and
        mixed_clean_probability.npy, what is said of captions that are half right."""
        emb, clean = self.emb, self.clean_probability[self.rows]
        pairs = (emb.image, emb.text, *identities(self.run, emb))
        mixed = mixed_scores(models, scores, *pairs, self.rows, fold, clean, seed=self.run.config.seed)
        cut = kind_cut(mixed, scores.decoys)
        kind = np.zeros(len(emb), np.int8)
        if cut is not None:
            kind[self.rows] = np.where(scores.score < cut, NOISE_KINDS.index("complete"), NOISE_KINDS.index("partial"))
        save_array(self.home / "noise_kind.npy", kind)
        save_array(self.home / "mixed_clean_probability.npy", calibration.clean_probability(mixed))

    def _write(self, content: dict[str, Any]) -> None:
        save_array(self.home / "clean_probability.npy", self.clean_probability)
        save_array(self.home / "similarity.npy", self.similarity.astype(np.float32))
        save_array(self.home / "aligned_similarity.npy", self.aligned_similarity.astype(np.float32))
        write_json(self.home / "judge.json", content)


def _histogram(scores: Scores, rate: float) -> dict[str, Any]:
    """Scores of the pairs and of decoys, the decoys scaled to the mismatched pairs they stand for.

    On the decoys' scale, log odds of scoring above a decoy: the raw score crowds all matches together at its upper end.
    """
    scale = DecoyScale.fit(scores.decoys)
    pairs, decoys = -scale(scores.score), -scale(scores.decoys)
    low, high = np.quantile(np.concatenate([pairs, decoys]), [0.0005, 0.9995])
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)

    def count(x: np.ndarray) -> np.ndarray:
        return np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0]

    return {
        "edges": edges.tolist(),
        "observed": count(pairs).tolist(),
        "decoys": (count(decoys) * (rate * len(pairs) / len(decoys))).tolist(),
    }


def _retrieval(out: _Output, fold: np.ndarray, models: Sequence[Alignment]) -> dict[str, Any]:
    """Recall among the judged-clean pairs of each fold, by the model that never saw them; the mean of the folds.

    `aligned` is the space that the run uses: the encoder's own where learning was left out (`learned` is false).
    """
    emb, seed = out.emb, out.run.config.seed
    folds = clean_by_fold(out.rows, fold, out.clean_probability, models=len(models), seed=seed)
    spaces: dict[str, list[dict[str, float]]] = {"zero_shot": [], "aligned": []}
    pairs = 0
    for model, clean in zip(models, folds, strict=True):
        if len(clean) < 2:
            continue
        pairs += len(clean)
        candidates = [("aligned", model, True), ("zero_shot", ZeroShot(), out.run.comparable)]
        for name, space in ((name, space) for name, space, there in candidates if there):
            x, y = space.embed_image(emb.image[clean]), space.embed_text(emb.text[clean])
            spaces[name].append(retrieval(x, y, image_id=emb.image_id[clean], caption_id=emb.caption_id[clean]))
    means = {
        name: {key: float(np.mean([r[key] for r in found])) for key in found[0] if key != "queries"} if found else None
        for name, found in spaces.items()
    }
    return {"pairs": pairs, "learned": not _is_encoder(models), **means}
