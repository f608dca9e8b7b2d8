"""Stage one: images and captions become vectors, one part file per shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from ..embed import (
    CaptionReader,
    Embeddings,
    caption_notes,
    check_readable,
    embed_source,
    encoder_devices,
    keep_source,
    load_encoder,
    prune_parts,
    sampled_captions,
    shared_sentences,
)
from ..export import check_layout
from ..pairs import Shard, UserError
from ..run import Execution, Run
from ..run.parts import say_what_is_left
from ..run.source import part_fingerprints
from ..sources import Source, has_vectors
from ..sources.storage import CORRUPT
from .on_ray import workers_of


def embed(run: Run, execution: Execution) -> None:
    progress = execution.progress
    source = run.open_source(strict=execution.strict)
    if run.writer is None:
        check_layout(source, run.config.to, run.config.cleaned_to)
    if not (execution.force or has_vectors(source) or run.is_done("embed")):
        check_readable(source)
    roles = asdict(source.roles)
    work = _work(run, source, execution)
    parts = part_fingerprints(source, run.manifest["encoder"])
    shown = ", ".join(f"{role} {name}" for role, name in _shown(roles).items())
    shards = f"{len(source.shards)} shard{'s' * (len(source.shards) != 1)}"
    where = f" of {source.path}" if source.path != run.manifest["source"] else ""
    progress.say(f"{source.layout}, {shards}{where}: {shown}")
    progress.say(work.how)
    run.manifest["notes"] = dict(source.notes)
    for file, what in [*source.broken.items(), *source.notes.items()]:
        progress.say(f"{file} {what}")
    mine = execution.share(source.shards)
    with workers_of(run, "embed", execution) as make_parts:
        run.begin_parts(parts, layout_of_source=source.layout, roles=roles, device=f"{work.device} ({work.precision})")
        progress.start("embed", sum(shard.rows for shard in mine))
        with run.shared("embed", wait=not execution.is_array_job):
            if make_parts:
                make_parts([shard.name for shard in mine])
            else:
                work.write(mine, lambda shard: parts[shard.name])
    if execution.is_array_job:
        say_what_is_left(run, "embed", [shard.name for shard in mine], progress)
    elif run.alone:
        finish(run, source)


@contextmanager
def part_maker(run: Run, execution: Execution) -> Iterator[Callable[[str], int]]:
    """What writes a part, by its name, and returns its source rows, for a worker that has nothing but the run.

    Raises UserError if the source or the encoder is not that of the run.
    """
    source = run.open_source(strict=execution.strict)
    work, shards = _work(run, source, execution), {shard.name: shard for shard in source.shards}
    parts: dict[str, str] = run.manifest["parts"]
    if part_fingerprints(source, run.manifest["encoder"]) != parts:
        raise UserError(f"{source.path} has changed since {run.path} was begun: run the command again")

    def make(name: str) -> int:
        work.write([shards[name]], lambda shard: parts[shard.name])
        return shards[name].rows

    yield make


def finish(run: Run, source: Source | None = None) -> None:
    """What is left to do once all parts are there: remove what belongs to none, and note which files are damaged."""
    source = source or run.open_source()
    prune_parts(run.embeddings, run.shards)
    run.manifest["broken"] = {**_corrupt(run, source), **source.broken}


@dataclass(frozen=True)
class _Work:
    """How this source becomes vectors.

    write: writes the parts of these shards, given the fingerprint of each.
    """

    description: dict[str, Any]
    comparable: bool
    device: str
    precision: str
    how: str
    not_the_same: str
    write: Callable[[Sequence[Shard], Callable[[Shard], str]], object]


def _work(run: Run, source: Source, execution: Execution) -> _Work:
    """How this source becomes vectors.  Raises UserError if that is not how the run's are made."""
    own = run.objects.encoder
    devices = encoder_devices(run.config.model, execution.device) if own is None else [own.device]
    make = _given if has_vectors(source) else _encoded
    work = make(run, source, execution, devices)
    # Through JSON, as the manifest returns it: tuples become lists.
    encoder = json.loads(json.dumps({"description": work.description, "comparable": work.comparable}))
    if run.manifest.setdefault("encoder", encoder) != encoder:
        raise UserError(f"{work.not_the_same}: name another directory")
    return work


def _encoded(run: Run, source: Source, execution: Execution, devices: list[str]) -> _Work:
    config, noted = run.config, "caption_notes" in run.manifest
    captions = [] if noted else sampled_captions(source)
    # Once chosen, they stay: shards that come later must not change the vectors of those that are there.
    shared: list[str] = run.manifest.setdefault("shared_sentences", shared_sentences(captions))

    def load(device: str) -> CaptionReader:
        encoder = run.objects.encoder or load_encoder(
            config.model,
            pretrained=config.pretrained,
            device=device,
            dtype=config.dtype,
            exact=config.exact_preprocessing,
        )
        return CaptionReader(encoder, shared)

    first = load(devices[0])
    if not noted:
        run.manifest["caption_notes"] = caption_notes(captions, shared, first)
    precision = first.description.get("dtype", "float32")
    return _Work(
        description=first.description,
        comparable=first.comparable,
        device=devices[0],
        precision=precision,
        how=f"{config.model} on {', '.join(devices)} in {precision}",
        not_the_same=f"{config.model} is not the encoder that was used before (other weights, precision or library)",
        write=lambda shards, fingerprint_of: embed_source(
            source,
            devices,
            lambda device: first if device == devices[0] else load(device),
            run.embeddings,
            fingerprint_of,
            shards=shards,
            wait_for_others=not execution.is_array_job,
            workers=execution.workers,
            advance=execution.progress.advance,
            claim=lambda shard: run.claim(shard.name),
        ),
    )


def _given(run: Run, source: Source, execution: Execution, devices: list[str]) -> _Work:
    """The source has vectors already; no model is used."""
    assert has_vectors(source)
    image, text = source.dims
    return _Work(
        description={"vectors": source.vectors, "image_dim": image, "text_dim": text},
        comparable=image == text,
        device=devices[0],
        precision="vectors as they came",
        how=f"{source.vectors} vectors as they came, of length {image} (image) and {text} (text)",
        not_the_same=f"the vectors of {source.path} are not of the encoder that was used before",
        write=lambda shards, fingerprint_of: keep_source(
            source,
            run.embeddings,
            fingerprint_of,
            shards=shards,
            wait_for_others=not execution.is_array_job,
            advance=execution.progress.advance,
            claim=lambda shard: run.claim(shard.name),
        ),
    )


def _corrupt(run: Run, source: Source) -> dict[str, str]:
    """Files that turned out to be partly broken when they were read, with the first reason."""
    emb = Embeddings.open(run.embeddings, run.shards)
    found = {}
    for shard in source.shards:
        reasons = emb.pair_table(shard.name)["reason"]
        corrupt = reasons.filter(pc.fill_null(pc.starts_with(reasons, CORRUPT), False))
        if len(corrupt):
            found[shard.path] = f"has {len(corrupt)} pairs that cannot be read ({corrupt[0]})"
    return found


def _shown(roles: dict[str, Any]) -> dict[str, Any]:
    return {role: name for role, name in {**roles, "id": roles["id"] or "<shard>:<row>"}.items() if name}
