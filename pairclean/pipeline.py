"""The order of the stages, and the calls that run them from Python: `clean`, `embed`, `apply`, `preview`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config
from .options import SHARD_WISE, STAGES, overridden
from .pairs import UserError
from .run import Execution, Run, remote
from .run.directory import Objects, limited, object_name
from .run.remote import create_run
from .stages.on_ray import check_engine

if TYPE_CHECKING:
    from .embed import Encoder
    from .export import Writer
    from .sources import Source


def clean(
    source: str | Path | Source,
    run: str | Path,
    *,
    encoder: Encoder | None = None,
    writer: Writer | None = None,
    execution: Execution | None = None,
    **options: Any,
) -> Run:
    """Embed, align, judge, rematch, export and report; an interrupted run is resumed.

    source: a folder of shards, one file, a pattern in the last part of the path (`DIR/*.tar`), a remote address, or an
    object of your own that satisfies `sources.Source`.
    run: the run directory, new or of the same source and options; or a remote address of one, such as
    `s3://bucket/run`.
    encoder: an `embed.Encoder` of your own, in place of the option `model`.
    writer: an `export.Writer` of your own, which writes `cleaned/` in place of the layout `to`.
    execution: device, workers, progress; nothing in it changes the results.
    options: those of `Config`.
    Returns the finished run.
    Raises UserError for everything that the caller can fix: an unreadable source, an option with a wrong value, a
    directory that holds something else.

    Whoever resumes a run with such objects has to hand in the same ones: a run knows them by class and `path`, a source
    also by the fingerprints of its shards, an encoder by its `description`. Commands that read only the run directory
    work without them; those that read the source or embed (`export`, `audit --by`, `story`) need them.

    """
    objects = Objects(None if isinstance(source, str | Path) else source, encoder, writer)
    if encoder is not None:
        options["model"] = object_name(encoder)
    named = source if isinstance(source, str | Path) else object_name(source)
    made = create_run(run, named, Config.make(**options), objects=objects)
    advance(made, list(STAGES), execution or Execution())
    return made


def embed(source: str | Path, run: str | Path, *, execution: Execution | None = None, **options: Any) -> list[str]:
    """Run the first stage, only for shards that are new or changed, then repeat the stages that had been done after it.

    source, run, execution: as for `clean`; as one job of several (`Execution.num_shards`) only this stage, and of it
    only the parts of this job.  options: those of this stage.
    Returns the names of the stages that were run.
    Raises UserError as `clean` does.
    """
    made = create_run(run, source, Config.make(**options), compare=("embed",))
    return redo(made, "embed", execution or Execution())


def apply(
    trained: str | Path,
    source: str | Path,
    run: str | Path,
    *,
    execution: Execution | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    image_root: str | None = None,
    limit: int | None = None,
) -> Run:
    """Judge other data with the saved model and calibration of a run; nothing is learned.

    trained: the directory of the run whose model judges.  source, run, execution: as for `clean`.
    image_column, caption_column, id_column: columns of `source`, where their names differ from those in `trained`.
    image_root, limit: as in `Config`.
    Returns the finished run.
    Raises UserError as `clean` does, and if `trained` has not judged anything.
    """
    origin = Run.open(trained)
    columns = {"image_column": image_column, "caption_column": caption_column, "id_column": id_column}
    options = {
        **origin.config.model_dump(),
        **{name: column for name, column in columns.items() if column is not None},
        "image_root": image_root,
        "limit": limit,
        "use_labels": False,  # those are of the pairs of `trained`, whose recalibration is applied
    }
    if "encoder" in origin.manifest:  # in the same precision, also where "auto" would be another one
        options["dtype"] = origin.manifest["encoder"]["description"].get("dtype", options["dtype"])
    made = create_run(run, source, Config.make(**options), frozen_from=origin)
    advance(made, list(STAGES), execution or Execution())
    return made


def open_run(path: str | Path) -> Run:
    """Open an existing run directory; one at an address is downloaded to a temporary directory.

    Raises UserError if `path` is not one, or its manifest is damaged.
    """
    return remote.open_run(path, whole=True)


def advance(run: Run, stages: Sequence[str], execution: Execution) -> list[str]:
    """Run these stages in order, skipping those that are done.  Returns the names of the stages that were run.

    Raises UserError if an earlier stage is missing, or another process works on this run.
    """
    if execution.is_array_job:
        raise UserError(f"only {' and '.join(SHARD_WISE)} take --shard-index: run the stages one by one")
    check_engine(run, execution)
    with run.locked(stages[0]):
        _check_before(run, stages[0], execution)
        return [stage for stage in stages if _do(run, stage, execution)]


def redo(run: Run, stage: str, execution: Execution, **options: Any) -> list[str]:
    """Repeat one stage with these options (None: unchanged), then the stages that had been done after it.

    If an option is one of an earlier stage, the work begins with that.  One job of several (`Execution.num_shards`)
    makes its parts of this stage, and nothing else.

    Returns the names of the stages that were run: none if nothing has changed.
    Raises UserError, and changes nothing, if an option is wrong, an earlier stage is missing, or one job of several
    would replace what was exported with other options.
    """
    if execution.is_array_job and stage not in SHARD_WISE:
        raise UserError(f"`{stage}` needs all pairs at once: only {' and '.join(SHARD_WISE)} take --shard-index")
    check_engine(run, execution)
    given = {name: value for name, value in options.items() if value is not None}
    with run.locked(stage):
        _check_before(run, stage, execution)
        config = Config.make(**overridden(run.manifest["config"], given))
        if run.manifest["frozen_from"] and stage in ("align", "judge") and config != run.config:
            raise UserError(f"{run.path} is judged by the model of another run: apply that one anew instead")
        order = list(STAGES)
        changed = [name for name in order if config.of(name) != run.config.of(name)]
        last = max([order.index(stage), *(order.index(name) for name in run.manifest["stages"])])
        stage = min(stage, *changed, key=order.index) if changed else stage
        if config != run.config:
            if not run.alone:
                raise UserError(f"other processes run `{stage}` on {run.path} with other options: wait for them")
            if stage == "export":
                from .export import check_layout

                check_layout(run.open_source(), config.to, config.cleaned_to)
                if execution.is_array_job:
                    _module("export").check_that_nothing_is_lost(run, config.cleaned_to)
            if stage == "judge" and config.use_labels:
                from .review.reviewed import labelled_pairs

                labelled_pairs(run)
            run.manifest["config"] = config.model_dump()
            run.set_stale(stage)
        if execution.is_array_job:
            last = order.index(stage)
        return [name for name in order[order.index(stage) : last + 1] if _do(run, name, execution)]


def _check_before(run: Run, stage: str, execution: Execution) -> None:
    """Raises UserError if an earlier stage is missing. One whose parts were all made by array jobs is finished here."""
    run.fetch(stage, execution)
    for needed in list(STAGES)[: list(STAGES).index(stage)]:
        if run.is_done(needed):
            continue
        if not run.has_begun(needed):
            raise UserError(
                f"{run.path} has not been through `{needed}`, which comes first: run `{run.command(needed)}`"
            )
        from .run.parts import missing_parts, named, seconds_of_parts

        missing = missing_parts(run, needed)
        if missing:
            raise UserError(
                f"{len(missing):,} of {len(run.shards):,} parts of `{needed}` are missing in {run.path} "
                f"({named(missing)}): make them with `{run.command(needed)}`"
            )
        run.have_alone(needed)
        seconds = seconds_of_parts(run, needed)
        _module(needed).finish(run)
        run.set_done(needed, seconds)
    run.have_alone(stage)


def _module(stage: str) -> Any:
    return import_module(f".stages.{stage}", __package__)


def _do(run: Run, stage: str, execution: Execution) -> bool:
    """Run a stage if it is not up to date.  Returns whether it was run."""
    labels = run.labels_for(stage)
    run.have_alone(stage)
    if stage != "embed" and run.is_done(stage) and run.labels_of(stage) == labels:
        return False
    run.fetch(stage, execution)
    # `embed` checks the source and the encoder first, and may find nothing to do. Where this process has joined another
    # one, that one did it.
    if stage != "embed" and run.alone:
        run.set_stale(stage)
    begun = time.perf_counter()
    getattr(_module(stage), stage)(run, execution)
    seconds = time.perf_counter() - begun
    if execution.is_array_job:  # the stage is done when all jobs are, and the next one records that
        return not run.is_done(stage)
    new = run.set_done(stage, seconds, labels)
    if new:
        execution.progress.finish(stage, seconds)
    return new


def preview(
    source: str | Path,
    run: str | Path,
    *,
    execution: Execution | None = None,
    measure: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """What `clean` would read and write, as plain values for JSON; nothing is written, and no model is loaded unless
    `measure` is true.

    source, run, execution, options: as for `clean`.
    measure: whether to embed a few hundred pairs, into a temporary folder, to estimate the time of a run.
    Returns source, layout, columns, roles, shards, rows, pairs, first_caption, broken and notes (by file), model,
    pretrained, devices, embedding_bytes and rematch_bytes (what `rematch` takes while it works, if half of the pairs
    may be mismatched; both None where only loading the model would tell), cleaned_bytes_at_most and free_bytes; with
    `measure` also seconds (by stage, estimated), pairs_per_second (of embed, as measured) and not_measured (why that is
    None).
    Raises UserError as `clean` would for the source, the device, the options and the run directory.

    >>> import tempfile
    >>> from pairclean.synthetic.scenes import draw_scenes, write_shards
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_shards(draw_scenes(30, seed=0), Path(folder, "shards"), shard_size=20)
    ...     found = preview(Path(folder, "shards"), Path(folder, "run"), model="hog-tfidf")
    >>> found["layout"], found["shards"], found["pairs"], found["columns"][:3]
    ('img2dataset', 2, 30, ['caption', 'url', 'key'])
    """
    from .embed import check_readable, resolve_devices
    from .export import check_layout
    from .sources import has_vectors, open_source
    from .sources.storage import file_size
    from .stages.estimate import room_to_rematch

    execution, config = execution or Execution(), Config.make(**options)
    made = create_run(run, source, config)
    opened = open_source(source, config.columns, strict=execution.strict)
    check_layout(opened, config.to, config.cleaned_to)
    if not (execution.force or has_vectors(opened)):
        check_readable(opened)
    bytes_of_source = sum(file_size(shard.path) for shard in opened.shards)
    rows_of_source = sum(shard.rows for shard in opened.shards)
    shards = limited(opened.shards, config.limit)
    rows = pairs = 0
    first: str | None = None
    for shard in shards:
        rows += shard.rows
        for row in opened.rows(shard, images=False):
            pairs += len(row.captions)
            first = first or next((caption for caption in row.captions if caption), None)
            if not row.many and first:
                pairs += shard.rows - row.row - 1
                break
    dims = opened.dims if has_vectors(opened) else _dims(config.model)
    comparable = config.model != "hog-tfidf" if dims is None else dims[0] == dims[1]
    devices = resolve_devices(execution.device)
    on_cpu = devices[0] == "cpu"
    time_of_run = _time_of_run(opened, config, execution, pairs, comparable) if measure else {}
    return {
        "source": opened.path,
        "layout": opened.layout,
        "columns": opened.columns,
        "roles": vars(opened.roles),
        "shards": len(shards),
        "rows": rows,
        "pairs": pairs,
        "first_caption": first,
        "broken": dict(opened.broken),
        "notes": dict(opened.notes),
        "model": opened.vectors or config.model,
        "pretrained": None if opened.vectors else config.pretrained,
        "devices": devices,
        "embedding_bytes": None if dims is None else 2 * pairs * sum(dims),
        "rematch_bytes": None if dims is None else room_to_rematch(pairs, dims, on_cpu=on_cpu),
        "cleaned_bytes_at_most": round(bytes_of_source * rows / rows_of_source),
        "free_bytes": shutil.disk_usage(_nearest(made.path)).free,
        **time_of_run,
    }


def _time_of_run(source: Source, config: Config, execution: Execution, pairs: int, comparable: bool) -> dict[str, Any]:
    from .stages.estimate import later_stages, pairs_per_second

    speed = why_not = None
    try:
        speed = pairs_per_second(source, config, execution)
    except UserError as error:
        why_not = str(error)
    later = later_stages(pairs, config.method, comparable=comparable)
    seconds = {"embed": pairs / speed if speed else None, **later}
    return {"seconds": seconds, "pairs_per_second": speed, "not_measured": why_not}


def _nearest(path: Path) -> Path:
    """The nearest parent folder that exists; `path` will be on its disk."""
    path = Path(os.path.abspath(path))
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _dims(model: str) -> tuple[int, int] | None:
    """Dimensions of the image and text vectors; None where only loading the model would tell."""
    import json

    if model == "hog-tfidf":
        from .embed.hog_tfidf import HogTfidf

        return HogTfidf.image_dim, HogTfidf.text_dim
    if model.startswith("hf-hub:"):
        return None
    if model.startswith("local-dir:"):
        path = Path(model.removeprefix("local-dir:")) / "open_clip_config.json"
        try:
            dim = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]["embed_dim"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path.parent} is no model folder: it has no readable {path.name}") from None
        return dim, dim
    import open_clip

    known = open_clip.get_model_config(model.replace("/", "-"))
    if known is None:
        raise UserError(f"open_clip knows no model {model!r}: --model also takes hf-hub:, local-dir: and hog-tfidf")
    return known["embed_dim"], known["embed_dim"]
