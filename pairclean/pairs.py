"""The vocabulary that every room shares: roles of columns, identities, verdicts, schemas, the one user-facing error.

Nothing here reads a file or knows a model; every other room may import this one.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

#: How a manifest refers to an object that the caller handed in: "python:MySource(pairs of 2024)".
PYTHON = "python:"


class UserError(Exception):
    """Something the user can mend: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2; every other exception is a bug.
    """


class Verdict(str, Enum):
    """What was found about one input pair; every pair has exactly one."""

    CLEAN = "clean"
    REMATCHED = "rematched"  # noisy, and a better caption was found
    NOISY = "noisy"  # and none was
    UNJUDGED = "unjudged"  # readable, but the data cannot support a judgement
    UNREADABLE = "unreadable"

    def __str__(self) -> str:
        return self.value


class ReasonCode(str, Enum):
    """Why a pair is not kept as it is, for programs; `reason` says it in words."""

    GENERIC_CAPTION = "generic_caption"  # the caption says nothing of its picture
    PLACEHOLDER_IMAGE = "placeholder_image"  # the picture says nothing
    BELONGS_ELSEWHERE = "belongs_elsewhere"  # the caption was that of another picture, and was replaced
    SHIFTED = "shifted"  # the captions of a range of rows moved together
    PARTLY_WRONG = "partly_wrong"
    ENCODER_CANNOT_TELL = "encoder_cannot_tell"
    TOO_FEW_PAIRS = "too_few_pairs"
    DUPLICATE = "duplicate"  # another pair with the same picture is kept instead
    UNREADABLE_IMAGE = "unreadable_image"
    UNREADABLE_CAPTION = "unreadable_caption"
    FAILED_DOWNLOAD = "failed_download"
    NO_PARTNER = "no_partner"  # mismatched, and no caption of the data fits better
    NOT_SURE_ENOUGH = "not_sure_enough"  # mismatched, and no other caption is sure enough

    def __str__(self) -> str:
        return self.value


#: Reasons why a caption is unreadable, and how the reason for a failed download begins (img2dataset's `status`).
NO_CAPTION, EMPTY_CAPTION, FAILED_DOWNLOAD = "no caption", "empty caption", "failed_to_download"
UNKNOWN_ENCODING = "its caption is not UTF-8, and its encoding is not recognised"


def unreadable_code(reason: str) -> ReasonCode:
    """The code for the reason why a pair is unreadable."""
    if reason in (NO_CAPTION, EMPTY_CAPTION, UNKNOWN_ENCODING):
        return ReasonCode.UNREADABLE_CAPTION
    return ReasonCode.FAILED_DOWNLOAD if reason.startswith(FAILED_DOWNLOAD) else ReasonCode.UNREADABLE_IMAGE


@dataclass(frozen=True)
class Columns:
    """What the user says about the source's columns; None where it is to be detected.

    image, caption, id: names of columns; `id="none"` numbers the rows instead (`<shard>:<row>`). In a tar they are
    endings of members, or fields of KEY.json.
    image_root: the folder that image paths are relative to; without it, the folder that the shards lie in.
    embeddings: which vectors are read where several lie beside the metadata (`b32` or `l14`).
    """

    image: str | None = None
    caption: str | None = None
    id: str | None = None
    image_root: str | None = None
    embeddings: str | None = None


@dataclass(frozen=True)
class Roles:
    """Which column of the source plays which part; `None` where the source has none.

    image_root: the folder that image paths are relative to, for sources that hold paths instead of bytes.
    """

    image: str | None
    caption: str
    id: str | None
    image_root: str | None = None


@dataclass(frozen=True)
class Shard:
    """One file of the source, the unit of all shard-wise work.

    name: unique within the source and safe as a file name (the file's stem).
    rows: source rows (a row with several captions is several pairs).
    fingerprint: changes when the file changes.
    broken: why nothing of it can be read, where that is so; its rows are then all unreadable.
    """

    name: str
    path: str
    rows: int
    fingerprint: str
    broken: str | None = None


@dataclass(frozen=True)
class Row:
    """One source row: one image and its captions, in order.

    id: the row's identifier, unique in the source.  captions: never empty; None where the source has a null.
    many: whether the source holds a list of captions (pair ids then carry the caption's index).
    reason: why the row cannot be read, None where `image` holds the image's encoded bytes.
    absent: whether the source itself says that there is no image: a failed download, or a null.
    """

    row: int
    id: str
    image: bytes | None
    captions: tuple[str | None, ...]
    many: bool = False
    reason: str | None = None
    absent: bool = False

    def pair_id(self, caption_index: int) -> str:
        return f"{self.id}:{caption_index}" if self.many else self.id


def content_id(data: bytes) -> int:
    """Identity by content: the first 8 bytes of BLAKE2b as a signed 64-bit integer."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def normalise_caption(caption: str) -> str:
    """Captions that differ in case, Unicode form or white space only are one caption."""
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split())


def caption_id(caption: str) -> int:
    return content_id(normalise_caption(caption).encode("utf-8", "surrogatepass"))


#: `embeddings/metadata/*.parquet`: one row an input pair, aligned by position with `img_emb` and `text_emb`.
#: `reason` is non-null where the pair is unreadable; its vectors are then zero and its identities meaningless.
PAIR_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("caption_index", pa.int32(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("caption_id", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

#: `verdicts/*.parquet`: one row an input pair, in input order.
VERDICT_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("caption_index", pa.int32(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("is_noisy", pa.bool_()),
        pa.field("clean_probability", pa.float32()),
        pa.field("similarity", pa.float32()),
        pa.field("aligned_similarity", pa.float32()),
        pa.field("rematch_pair_id", pa.string()),
        pa.field("rematch_caption", pa.string()),
        pa.field("rematch_probability", pa.float32()),
        pa.field("reason", pa.string()),
        pa.field("noise_kind", pa.string()),
        pa.field("reason_code", pa.string()),
        pa.field("mismatched_text", pa.string()),
        pa.field("image_group", pa.int64()),
        pa.field("caption_group", pa.int64()),
    ]
)
