"""Stage three: score every pair by a model that never trained on it, and calibrate the scores by decoys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import judge as judging
from ..embed import CaptionReader, blanked, load_encoder, resolve_devices
from ..execution import Execution
from ..judge import Faults, Words
from ..pairs import UserError
from ..review.reviewed import labelled_pairs
from ..run import Run
from ..run.results import open_embeddings, open_faults, open_judgement, open_learned, save_judgement


def _captions(run: Run) -> Iterator[str | None]:
    emb = open_embeddings(run)
    for shard in run.shards:
        for chunk in emb.pair_table(shard, ["caption"])["caption"].chunks:
            yield from chunk.to_pylist()


def _words(run: Run, faults: Faults, execution: Execution) -> Words:
    """What reads the captions of a run by phrases.  Raises UserError if its encoder cannot be had."""
    config = run.config
    if not run.has_encoder:
        raise UserError(
            f"the vectors of {run.path} were made elsewhere, and phrases have to be encoded: leave out --phrases"
        )
    encoder = run.objects.encoder or load_encoder(
        config.model,
        pretrained=config.pretrained,
        device=execution.device,
        dtype=config.dtype,
        exact=config.exact_preprocessing,
    )
    emb, shared = open_embeddings(run), frozenset(run.manifest.get("shared_sentences", []))

    def captions(rows: np.ndarray) -> list[str]:
        return [blanked(caption or "", shared) for caption in emb.captions(faults.caption[rows])]

    return Words(captions, CaptionReader(encoder, sorted(shared)).encode_captions)


def judge(run: Run, execution: Execution) -> None:
    emb, config, device = open_embeddings(run), run.config, resolve_devices(execution.device)[0]
    execution.progress.start("judge")
    faults = open_faults(run)
    if config.use_labels and (faults.caption != np.arange(len(faults.caption))).any():
        raise UserError(
            f"{run.path} gave captions back to their images (--repair), and the labels are of the pairs as they came: "
            "judge with --no-use-labels, or rematch with --no-repair first"
        )
    words = _words(run, faults, execution) if config.phrases else None
    of = (faults.mended(emb.pairs), np.flatnonzero(emb.readable), open_learned(run, device))
    if run.frozen_from:
        earlier = open_judgement(run.frozen_from)
        found = judging.judge_as(earlier, *of, words=words, comparable=run.comparable, seed=config.seed, device=device)
    else:
        found = judging.judge(
            *of,
            score=config.score,
            calibration=config.calibration,
            scripts=judging.script_codes(_captions(run))[faults.caption],
            captions=lambda rows: emb.captions(faults.caption[rows]),
            words=words,
            comparable=run.comparable,
            seed=config.seed,
            device=device,
        )
    found = judging.with_strays(found, faults, emb.caption_id)
    if config.use_labels:
        found = judging.with_labels(found, labelled_pairs(run), emb.image_id)
    save_judgement(run, found)
