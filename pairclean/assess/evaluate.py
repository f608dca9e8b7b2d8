"""Measure a run: retrieval before and after learning, and its verdicts compared with planted mismatches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..files import fingerprint
from ..pairs import UserError
from ..pipeline import advance
from ..run import Execution, Run

if TYPE_CHECKING:
    import numpy as np

    from ..align import Alignment
    from ..arrays import Pairs
    from ..embed import Embeddings
    from ..judge.scores import Model
    from ..sources import Source

Fold = tuple["Model", "np.ndarray"]  # a model, and the rows to measure it on


def evaluate(
    path: str | Path,
    *,
    source: str | Path | None = None,
    label_column: str | None = None,
    truth: str | Path | None = None,
    execution: Execution | None = None,
    **columns: str | None,
) -> dict[str, Any]:
    """The metrics that `pairclean evaluate` prints, as plain values for JSON.

    path: a run directory, or a folder of embeddings in clip-retrieval's layout.
    source: a test source; it is embedded with the run's encoder, into RUN/evaluate, and mapped with what the run
    learned. Without one, retrieval is measured on the pairs that the run judged clean, each fold with the model that
    was not trained on it.
    label_column: column with the class of a pair, or a list of classes; adds MAP.
    truth: the truth file of `pairclean plant`; returns `metrics.detection.compare_run` of the run instead of retrieval.
    execution: device and progress.
    columns: image_column, caption_column, id_column and image_root of the test source, where they differ from the run.

    Retrieval metrics are `on` (held-out, source or embeddings), `pairs`, `images`, `folds`, and, for each of
    `zero_shot` and `aligned`, what `metrics.retrieval.measure` returns, or None where there is no such space (`aligned`
    is None if the run judges by its encoder alone). `coco_1k` contains the same two if there are 5,000 images. With a
    source, `seen_images` is the number of its images that the run learned from.
    Raises UserError for everything that the caller can fix.
    """
    execution = execution or Execution()
    if truth is not None and (source is not None or label_column is not None):
        raise UserError("--truth compares the verdicts of a run with the truth: leave out --source and --label-column")
    if not (Path(path) / "manifest.json").exists():
        if truth is not None or source is not None:
            raise UserError(f"{path} is not a run directory: --truth and --source need one")
        return _embeddings(path, label_column, execution)
    run = Run.open(path)
    if truth is not None:
        return _detection(run, Path(truth))
    return (
        _held_out(run, label_column, execution)
        if source is None
        else _source(run, source, label_column, columns, execution)
    )


def _detection(run: Run, truth: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..metrics.detection import compare_run
    from ..run.results import open_judgement

    try:
        table = pq.read_table(truth)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {truth}: {error}") from None
    for column in ("key", "caption", "carried_caption"):
        if column not in table.column_names:
            raise UserError(f"{truth} has no column {column}: name a truth file that `pairclean plant` has written")
    return compare_run(run.verdicts(), table, open_judgement(run).mismatch_rate)


def _held_out(run: Run, label_column: str | None, execution: Execution) -> dict[str, Any]:
    import numpy as np

    from ..align import ZeroShot
    from ..judge import CrossFit, clean_by_fold
    from ..run.results import open_embeddings, open_faults, open_judgement, open_learned
    from ..run.source import embedded_source

    if not run.is_done("judge"):
        raise UserError(
            f"{run.path} has not been judged yet: finish it with `pairclean clean`, or measure its vectors as they are "
            f"with `pairclean evaluate {run.path}/embeddings`"
        )
    judged = open_judgement(run)
    if judged.unjudged:
        raise UserError(
            f"{run.path} could not be judged ({judged.unjudged}), so no pair is known to be clean: "
            "name a test set with --source"
        )
    emb = open_embeddings(run)
    rows = np.flatnonzero(emb.readable)
    learned = open_learned(run)
    models = judged.models(learned)
    pairs = open_faults(run).mended(emb.pairs)
    cross_fit = learned.cross_fit(models, pairs, rows) if models else CrossFit.single(ZeroShot(), rows)
    parts = list(clean_by_fold(cross_fit, judged.clean_probability, seed=run.config.seed))
    aligned: list[Fold] = [(model, part) for model, part in parts if models and len(part) > 1]
    zero_shot: list[Fold] = [(ZeroShot(), part) for _, part in parts if len(part) > 1]
    if not zero_shot:
        raise UserError(f"{run.path} has too few clean pairs to measure retrieval on: name a test set with --source")
    labels = None if label_column is None else _labels(embedded_source(run), emb, label_column)
    spaces = {"zero_shot": zero_shot if run.comparable else [], "aligned": aligned}
    return {"on": "held-out", **_measured(pairs, spaces, labels, run.config.seed, execution)}


def _learned(run: Run) -> list[Alignment]:
    """The models that the run uses, in the order of their folds; none where it judges by its encoder alone."""
    from ..run.results import open_judgement, open_learned

    if not run.is_done("align"):
        return []
    learned = open_learned(run)
    return open_judgement(run).models(learned) if run.is_done("judge") else learned.aligned


def _source(
    run: Run, source: str | Path, label_column: str | None, columns: dict[str, str | None], execution: Execution
) -> dict[str, Any]:
    import numpy as np

    from ..run.results import open_embeddings

    aligned = _learned(run)[:1]
    if not aligned and not run.comparable:
        raise UserError(
            f"{run.path} has no learned alignment, and its encoder's image and text vectors are not comparable: "
            "run `pairclean align` first"
        )
    options = {**run.config.model_dump(), "limit": None, "image_root": None}
    options |= {name: column for name, column in columns.items() if column is not None}
    options["dtype"] = run.manifest["encoder"]["description"].get("dtype", options["dtype"])
    config = Config.make(**options)
    name = fingerprint(os.path.abspath(Path(source).expanduser()), config.of("embed"))
    made = Run.create(run.path / "evaluate" / name, source, config, compare=("embed",))
    made.manifest.setdefault("encoder", run.manifest["encoder"])  # embedding with a different one raises
    advance(made, ["embed"], execution)
    found = _whole(made, aligned, label_column, execution)
    seen = np.isin(open_embeddings(made).image_id, open_embeddings(run).image_id)
    images = np.unique(open_embeddings(made).image_id[seen & open_embeddings(made).readable])
    return {"on": "source", **found, "seen_images": len(images)}


def _embeddings(path: str | Path, label_column: str | None, execution: Execution) -> dict[str, Any]:
    from ..sources import open_source

    if open_source(path).vectors is None:
        raise UserError(f"{path} is neither a run directory nor a folder of embeddings: name one of the two")
    with tempfile.TemporaryDirectory(prefix="pairclean-evaluate-") as folder:
        made = Run.create(Path(folder) / "run", path, Config.make())
        advance(made, ["embed"], execution)
        if not made.comparable:
            raise UserError(
                f"the image and text vectors of {path} have different dimensions and cannot be compared: "
                "evaluate a run that has learned an alignment"
            )
        return {"on": "embeddings", **_whole(made, [], label_column, execution)}


def _whole(run: Run, aligned: Sequence[Alignment], label_column: str | None, execution: Execution) -> dict[str, Any]:
    """Retrieval among all readable pairs of an embedded source, with one model; by COCO's 1K protocol too if it can."""
    import numpy as np

    from ..align import ZeroShot
    from ..metrics.retrieval import coco_folds
    from ..run.results import open_embeddings
    from ..run.source import embedded_source

    emb, seed = open_embeddings(run), run.config.seed
    rows = np.flatnonzero(emb.readable)
    if not len(rows):
        raise UserError(f"no pair of {run.manifest['source']} can be read: name another source")
    labels = None if label_column is None else _labels(embedded_source(run), emb, label_column)
    models: dict[str, list[Model]] = {"zero_shot": [ZeroShot()] if run.comparable else [], "aligned": list(aligned)}
    found = _measured(
        emb.pairs, {name: [(m, rows) for m in of] for name, of in models.items()}, labels, seed, execution
    )
    thousands = [rows[fold] for fold in coco_folds(emb.image_id[rows])]
    if thousands:
        spaces = {name: [(m, fold) for m in of for fold in thousands] for name, of in models.items()}
        by_thousand = _measured(emb.pairs, spaces, None, seed, execution)
        found["coco_1k"] = {name: by_thousand[name] for name in spaces}
    return found


def _measured(
    pairs: Pairs, spaces: dict[str, list[Fold]], labels: list[Any] | None, seed: int, execution: Execution
) -> dict[str, Any]:
    """`metrics.retrieval.measure` in each space, averaged over its folds; None for a space without folds."""
    import numpy as np

    from ..embed import resolve_devices
    from ..metrics.retrieval import average_precisions, measure, rank_matches

    device = resolve_devices(execution.device)[0]
    execution.progress.start("evaluate", sum(map(len, spaces.values())))
    found: dict[str, Any] = {}
    for name, folds in spaces.items():
        questions, ranks = [], []
        for model, rows in folds:
            x, y = model.embed_image(pairs.image[rows]), model.embed_text(pairs.text[rows])
            image_id = pairs.image_id[rows]
            ranks.append(rank_matches(x, y, image_id=image_id, caption_id=pairs.caption_id[rows], device=device))
            asked = ranks[-1].questions()
            if labels is not None:
                classes = [labels[row] for row in rows]
                asked |= average_precisions(x, y, classes, image_id=image_id, device=device)
            questions.append(asked)
            execution.progress.advance()
        found[name] = measure(questions, ranks, seed=seed) if folds else None
    parts = next(folds for folds in spaces.values() if folds)
    images = sum(len(np.unique(pairs.image_id[rows])) for _, rows in parts)
    return {"pairs": sum(len(rows) for _, rows in parts), "images": images, "folds": len(parts), **found}


def _labels(source: Source, emb: Embeddings, column: str) -> list[list[str]]:
    """The classes of every pair."""
    from ..stages.labels import labels_of

    labels: list[list[str]] = []
    for shard in source.shards:
        of_row = [cell for batch in source.batches(shard, [column]) for cell in batch.column(0).to_pylist()]
        labels += [list(labels_of(of_row[row])) for row in emb.pair_table(shard.name)["row"].to_pylist()]
    return labels
