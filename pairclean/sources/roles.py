"""Which column plays which part: named by the user, marked by the format, known by its name, or the only one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import Any, Literal

import pyarrow as pa

from ..pairs import Columns, Roles, UserError

ImageKind = Literal["bytes", "struct", "path", "list"]

#: The least share of values that has to be readable where a column is chosen by what it holds.
LEAST = 0.05
#: img2dataset calls the image column after its encoding.
ENCODINGS = ("jpg", "png", "webp")
IMAGE_NAMES = {*ENCODINGS, "jpeg", "image", "img"}
PATH_NAMES = {
    *("image", "images", "image_paths", "image_path", "image_file", "image_name", "img", "img_path", "path"),
    *("file", "file_name", "file_path", "filename", "filepath"),
}
CAPTION_NAMES = {"caption", "captions", "text", "texts", "txt", "alt_text", "alttext", "sentences"}
ID_NAMES = ("key", "uid", "id", "__key__")
URL_NAMES = {"url", "image_url", "img_url", "__url__"}
#: Strings that are never a caption, though they may be the only ones there.
OTHER_NAMES = {"status", "error_message", "exif", "md5", "sha256", "split", "source", "license", "language", "lang"}


def image_kind(kind: pa.DataType) -> ImageKind | None:
    """How a column of this type can hold images: encoded bytes, `struct<bytes, path>`, text, or lists of one of these.

    Text ("path") is a path, or the image as base64.
    """
    if is_one_of(kind, "binary", "large_binary", "binary_view"):
        return "bytes"
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        data = fields.get("bytes")
        only_paths = data is not None and pa.types.is_null(data) and "path" in fields
        return "struct" if only_paths or (data is not None and image_kind(data) == "bytes") else None
    if is_list(kind) and image_kind(kind.value_type) in ("bytes", "struct", "path"):
        return "list"
    return "path" if is_text(kind) else None


def caption_kind(kind: pa.DataType) -> Literal["text", "list"] | None:
    """Whether a column of this type can hold one caption per row (also as bytes), or a list of captions."""
    if is_text(kind) or image_kind(kind) == "bytes":
        return "text"
    return "list" if is_list(kind) and is_text(kind.value_type) else None


def id_kind(kind: pa.DataType) -> Literal["text", "integer"] | None:
    if is_text(kind):
        return "text"
    return "integer" if pa.types.is_integer(kind) else None


def same(columns: Iterable[str], known: str) -> str | None:
    """The column of a known name, in whatever case it is written (`URL` for `url`)."""
    return next((name for name in columns if name.lower() == known), None)


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return is_one_of(kind, "string", "large_string", "string_view")


def is_list(kind: pa.DataType) -> bool:
    return is_one_of(kind, "list", "large_list", "fixed_size_list", "list_view", "large_list_view")


def is_one_of(kind: pa.DataType, *names: str) -> bool:
    """Whether `pa.types.is_<name>` holds for one of the names."""
    # Views came to pyarrow after the oldest version that is supported.
    return any(getattr(pa.types, f"is_{name}", lambda _: False)(kind) for name in names)


def huggingface_features(schema: pa.Schema) -> dict[str, Any]:
    """The features that `datasets` wrote into a schema, by column; empty where it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def marked_images(schema: pa.Schema) -> set[str]:
    """The columns that the Hugging Face metadata marks as images."""
    features = huggingface_features(schema)
    return {name for name, value in features.items() if isinstance(value, dict) and value.get("_type") == "Image"}


def detect_roles(
    types: Mapping[str, pa.DataType],
    *,
    path: str,
    marked: Collection[str] = (),
    columns: Columns = Columns(),
    holds_image: Callable[[str], float | None] = lambda _: None,
    holds_text: Callable[[str], float | None] = lambda _: None,
    has_images: bool = True,
) -> Roles:
    """Find the columns for the image, the caption and the identifier.

    types: the source's columns in order.  path: what the messages call the source.  marked: columns known to be images.
    columns: what the user named. Where there is an `image_root`, columns of paths are preferred to columns of bytes.
    holds_image, holds_text: the share of a column's first values that are images or texts, None where nothing is known.
    A column that holds what is looked for is preferred to one that does not.
    has_images: False where vectors are read instead; nothing then plays the image's part.

    Raises UserError where a named column is missing or of another type, where nothing fits, and where several do.
    """
    there = {name: kind for name, kind in types.items() if not name.startswith("pairclean_")}
    detect = _Detection(there, path, holds_image, holds_text)
    if columns.image is not None:
        detect.check(columns.image, "image", image_kind)
    if columns.caption is not None:
        detect.check(columns.caption, "caption", caption_kind)
    if columns.id is not None and columns.id != "none":
        detect.check(columns.id, "id", id_kind)

    # A column that is named for one role is not looked at for another.
    named = {columns.image, columns.caption, columns.id}
    image = columns.image
    if image is None and has_images:
        image = detect.image([name for name in there if name not in named], marked, columns.image_root)
    caption = columns.caption or detect.caption([name for name in there if name not in named | {image}])
    identifier = columns.id or detect.id([name for name in there if name not in {image, caption}]) or "none"

    files = image is not None and image_kind(there[image]) in ("path", "struct", "list")
    if columns.image_root is not None and not files:
        raise UserError(f"column {image!r} of {path} holds the images themselves, not paths: leave --image-root out")
    return Roles(image, caption, None if identifier == "none" else identifier, columns.image_root)


class _Detection:
    """The rules for each role, and their messages."""

    def __init__(
        self,
        columns: Mapping[str, pa.DataType],
        path: str,
        holds_image: Callable[[str], float | None],
        holds_text: Callable[[str], float | None],
    ) -> None:
        self.columns, self.path = columns, path
        self.holds_image, self.holds_text = holds_image, holds_text

    @property
    def listing(self) -> str:
        return ", ".join(self.columns) or "none"

    def check(self, name: str, role: str, kind_of: Callable[[pa.DataType], str | None]) -> None:
        if name not in self.columns:
            raise UserError(f"{self.path} has no column {name!r}; its columns are: {self.listing}")
        if kind_of(self.columns[name]) is None:
            raise self.unfit(name, role)
        if role == "caption" and image_kind(self.columns[name]) == "bytes" and (self.holds_text(name) or 0) <= 0.5:
            raise self.unfit(name, role)

    def unfit(self, name: str, role: str) -> UserError:
        return UserError(
            f"column {name!r} of {self.path} is {self.columns[name]} and cannot be the {role}: "
            f"name another with --{role}-column (its columns are: {self.listing})"
        )

    def one_of(self, candidates: Iterable[str], role: str) -> str | None:
        candidates = list(candidates)
        if len(candidates) > 1:
            choices = ", ".join(repr(name) for name in candidates)
            raise UserError(
                f"{self.path} has several columns that could be the {role}, {choices}: choose with --{role}-column"
            )
        return candidates[0] if candidates else None

    def image(self, candidates: Iterable[str], marked: Collection[str], image_root: str | None) -> str:
        kinds = {name: image_kind(self.columns[name]) for name in candidates}
        inner = {name: self._element(name) for name in kinds}
        inside = [name for name, kind in inner.items() if kind in ("bytes", "struct")]
        paths = [name for name, kind in inner.items() if kind == "path" and name.lower() in PATH_NAMES]
        rules = [
            [name for name, kind in kinds.items() if kind and name in marked],
            [name for name in inside if name.lower() in IMAGE_NAMES],
            inside,
            paths,
        ]
        if image_root is not None:
            rules.insert(1, paths)
        texts = [name for name, kind in inner.items() if kind == "path"]
        shares = {name: self.holds_image(name) for name in dict.fromkeys([*chain(*rules), *texts])}
        good = {name for name, share in shares.items() if share is not None and share >= LEAST}
        known = [[name for name in names if name in good] for names in [*rules, texts]]
        unknown = [[name for name in names if shares[name] is None] for names in rules]
        for names in [*known, *unknown, *rules]:
            image = self.one_of(names, "image")
            if image is not None:
                return image
        urls = [name for name, kind in kinds.items() if kind == "path" and name.lower() in URL_NAMES]
        if urls:
            raise only_urls(self.path, urls[0])
        raise UserError(
            f"{self.path} has no column that looks like an image: "
            f"name it with --image-column (its columns are: {self.listing})"
        )

    def _element(self, name: str) -> ImageKind | None:
        """The kind of a column, or of the elements of its lists."""
        kind = self.columns[name]
        return image_kind(kind.value_type if image_kind(kind) == "list" else kind)

    def caption(self, candidates: Iterable[str]) -> str:
        candidates = list(candidates)
        texts = [name for name in candidates if caption_kind(self.columns[name]) and self._element(name) != "bytes"]
        if not texts:  # written by programs that do not mark text as such
            binary = [name for name in candidates if image_kind(self.columns[name]) == "bytes"]
            texts = [name for name in binary if (self.holds_text(name) or 0) > 0.5]
        known = [name for name in texts if name.lower() in CAPTION_NAMES]
        never = {*ID_NAMES, *URL_NAMES, *PATH_NAMES, *OTHER_NAMES}
        others = [name for name in texts if name.lower() not in never and not name.startswith("__")]
        if not known:
            others = [name for name in others if self.holds_text(name) != 0]
        caption = self.one_of(known, "caption") or self.one_of(others, "caption")
        if caption is None:
            unfit = [name for name in candidates if name.lower() in CAPTION_NAMES and name not in texts]
            if unfit:
                raise self.unfit(unfit[0], "caption")
            raise UserError(
                f"{self.path} has no column that looks like a caption: "
                f"name it with --caption-column (its columns are: {self.listing})"
            )
        return caption

    def id(self, candidates: Collection[str]) -> str | None:
        found = (same(candidates, known) for known in ID_NAMES)
        return next((name for name in found if name is not None and id_kind(self.columns[name])), None)


def only_urls(path: str, column: str) -> UserError:
    """A table that names images but does not have them; pairclean does not download."""
    return UserError(
        f"{path} has no images, only their URLs (column {column!r}): download them with img2dataset "
        "(--output_format parquet) and clean what it writes"
    )
