"""Stage one: pictures and captions become vectors, a part file a shard."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..embed import Encoder, embed_source, keep_parts, load_encoder, resolve_devices
from ..pairs import UserError
from ..run import Execution, Run
from .common import part_fingerprints


def embed(run: Run, execution: Execution) -> None:
    config, progress = run.config, execution.progress
    source = run.open_source()
    roles = asdict(source.roles)
    devices = resolve_devices(execution.device)

    def load(device: str) -> Encoder:
        return load_encoder(config.model, pretrained=config.pretrained, device=device, dtype=config.dtype)

    first = load(devices[0])
    # Through JSON, as the manifest will give it back: a tuple is not a list.
    encoder = json.loads(json.dumps({"description": first.description, "comparable": first.comparable}))
    if run.manifest.setdefault("encoder", encoder) != encoder:
        raise UserError(
            f"{config.model} is not the encoder that was used before "
            "(other weights, precision or library): name another directory"
        )
    parts = part_fingerprints(source, encoder)
    precision = first.description.get("dtype", "float32")
    shown = ", ".join(f"{role} {name}" for role, name in _shown(roles).items())
    progress.say(f"{source.layout}, {len(source.shards)} shards: {shown}")
    progress.say(f"{config.model} on {', '.join(devices)} in {precision}")
    run.manifest |= {"layout_of_source": source.layout, "roles": roles, "device": f"{devices[0]} ({precision})"}
    if parts != run.manifest.get("parts"):
        run.set_stale("embed")  # from here on its files are not what its record says
    run.save()
    progress.start("embed", sum(shard.rows for shard in source.shards))
    embed_source(
        source,
        devices,
        lambda device: first if device == devices[0] else load(device),
        run.embeddings,
        lambda shard: parts[shard.name],
        workers=execution.workers,
        advance=progress.advance,
    )
    run.manifest |= {"shards": [shard.name for shard in source.shards], "parts": parts}
    keep_parts(run.embeddings, run.shards)


def _shown(roles: dict[str, Any]) -> dict[str, Any]:
    return {role: name for role, name in {**roles, "id": roles["id"] or "<shard>:<row>"}.items() if name}
