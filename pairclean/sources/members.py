"""Which members of a tar's samples are the pictures, and where the captions are: by their endings and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ..pairs import UserError
from .base import IMAGES, Faults, counted_as
from .roles import CAPTION_NAMES, caption_kind


@dataclass(frozen=True)
class Captions:
    """Where captions are: in members of this extension, in a field of KEY.json, or in a column of the sidecar."""

    place: Literal["member", "json", "sidecar"]
    name: str
    many: bool = False


def last_part(extension: str) -> str:
    """`jpg` of `input.jpg`."""
    return extension.rpartition(".")[2]


def find_images(
    path: str,
    kinds: Mapping[str, int],
    together: Mapping[tuple[str, str], Sequence[str]],
    named: str | None,
    faults: Faults,
) -> tuple[str, ...]:
    """The extensions that hold the image, the preferred one first: the named one, then by how many samples have it.

    kinds: how many samples have each extension.  together: the samples that have both of two of IMAGES.
    """
    order = sorted((kind for kind in kinds if kind in IMAGES), key=lambda kind: (-kinds[kind], kind != "jpg", kind))
    told = ", ".join(kinds)
    if named is not None:
        if named.lower() not in kinds:
            raise UserError(
                f"no sample of {path} has .{named} (its members end in: {told}): name the right ending with "
                "--image-column"
            )
        return (named.lower(), *(kind for kind in order if kind != named.lower()))
    if not order:  # KEY.input.jpg
        order = [kind for kind in kinds if last_part(kind) in IMAGES]
        if len(order) > 1:
            raise UserError(
                f"the samples of {path} have several images, {', '.join('KEY.' + kind for kind in order)}, and a pair "
                f"has one: choose with --image-column (its members end in: {told})"
            )
        if not order:
            raise UserError(
                f"no sample of {path} has an image (its members end in: {told}): name the right ending with "
                "--image-column"
            )
    for both, samples in together.items():
        first, second = sorted(both, key=order.index)
        if 2 * len(samples) > kinds[first]:
            raise UserError(
                f"{samples[0]} has several images, {first}, {second}, and so have most samples: choose with "
                "--image-column"
            )
        faults.note(path, f"has .{first} and .{second} in {counted_as(len(samples), 'sample')}: .{first} is read")
    return tuple(order)


def find_captions(
    path: str,
    members: Mapping[str, int],
    fields: Mapping[str, Any],
    columns: Mapping[str, pa.DataType],
    named: str | None,
) -> Captions:
    """Lists of captions go before texts, which img2dataset makes of them by `str`; the tar before its sidecar."""
    in_json = {name: isinstance(value, list) for name, value in fields.items() if isinstance(value, str | list)}
    in_sidecar = {name: caption_kind(kind) == "list" for name, kind in columns.items() if caption_kind(kind)}
    if named is not None:
        if named.lower() in members and named.lower() not in IMAGES:
            return Captions("member", named.lower())
        if named in in_sidecar:
            return Captions("sidecar", named, in_sidecar[named])
        if named in in_json:
            return Captions("json", named, in_json[named])
        raise UserError(
            f"{path} has no captions called {named!r}: there are {', '.join({**members, **in_json, **in_sidecar})}"
        )
    choices: tuple[tuple[Literal["member", "json", "sidecar"], list[str], bool], ...] = (
        ("sidecar", [name for name, many in in_sidecar.items() if many and name.lower() in CAPTION_NAMES], True),
        ("json", [name for name, many in in_json.items() if many and name.lower() in CAPTION_NAMES], True),
        ("member", _texts_beside(members), False),
        ("json", [name for name in in_json if name.lower() in CAPTION_NAMES], False),
        ("sidecar", [name for name in in_sidecar if name.lower() in CAPTION_NAMES], False),
    )
    for place, names, many in choices:
        if len(names) > 1:
            raise UserError(
                f"{path} has several texts that could be the caption, {', '.join(map(repr, names))}: "
                "choose with --caption-column"
            )
        if names:
            return Captions(place, names[0], many)
    raise UserError(
        f"{path} has no captions that can be told (KEY.txt, or a field `caption` of KEY.json): name them with "
        f"--caption-column (there are {', '.join({**members, **in_json, **in_sidecar}) or 'none'})"
    )


def _texts_beside(members: Mapping[str, int]) -> list[str]:
    """The extensions that hold a caption: KEY.txt or KEY.caption, both where many have both; or KEY.outputs.txt."""
    plain = sorted(("txt", "caption"), key=lambda name: -members.get(name, 0))
    found = [name for name in plain if members.get(name, 0) > members.get(plain[0], 0) // 2]
    return found or [name for name in members if last_part(name) in plain]
