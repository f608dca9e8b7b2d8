"""A look at some rows before anything is embedded: a misread column would make every pair unreadable."""

from __future__ import annotations

from collections import Counter

from ..pairs import Row, UserError
from ..sources import Source
from ..sources.values import ONE_IMAGE
from .decode import Unreadable, decode
from .embed import why_no_caption

#: How many shards are looked at, and how many rows in all.
SHARDS, ROWS = 8, 64
#: The least share of the rows that has to be readable.
LEAST = 0.05


def check_readable(source: Source) -> None:
    """Raises UserError where (nearly) nothing of a sample of rows from several shards can be read.

    Rows that the source itself marks as failed, or whose image is null, do not count.
    """
    whole = [shard for shard in source.shards if shard.rows and not shard.broken]
    shards = whole[:: max(1, -(-len(whole) // SHARDS))]
    rows = [(shard, row) for shard in shards for row in source.sample(shard, ROWS // len(shards)) if not row.absent]
    problems = [(problem, shard, row) for shard, row in rows if (problem := _problem(row)) is not None]
    readable = len(rows) - len(problems)
    if not rows or readable >= LEAST * len(rows):
        return
    reason, count = Counter(problem for problem, *_ in problems).most_common(1)[0]
    file, example = next((shard.path, row) for problem, shard, row in problems if problem == reason)
    image, caption = source.roles.image, source.roles.caption
    if "image path" in reason or "no image file" in reason or "only a path" in reason:
        remedy = "name the folder that image paths are relative to with --image-root"
    elif reason.endswith(ONE_IMAGE):
        remedy = "write a row for each image with the caption that describes it"
    else:
        remedy = "name the right columns with --image-column and --caption-column"
    raise UserError(
        f"{readable or 'none'} of {len(rows)} rows that were tried can be read, with the image from {image!r} and the "
        f"caption from {caption!r} ({count}: {reason}, such as row {example.row} of {file}): {remedy}, or read it all "
        "the same with --force"
    )


def _problem(row: Row) -> str | None:
    reasons = [why_no_caption(caption) for caption in row.captions]
    if row.image is None:
        return row.reason or "no image"
    if all(reasons):
        return row.reason or reasons[0]
    try:
        decode(row.image, 32)
    except Unreadable as error:
        return str(error)
    return row.reason
