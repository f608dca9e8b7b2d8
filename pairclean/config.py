"""The configuration of a run: the options that change its result, validated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from .methods import METHODS
from .options import (
    ARRAY,
    DEFAULT_THRESHOLD,
    EXECUTION,
    OPTIONS,
    STAGES,
    THRESHOLD_RULES,
    Options,
    current_names,
    flag,
)
from .pairs import Columns, UserError

__all__ = ["STAGES", "Config", "read_recipe"]

_FOLDER = "local-dir:"
#: A name that ends in one of these is a checkpoint file, not a tag, even without a folder before it.
_CHECKPOINTS = {".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz"}

if TYPE_CHECKING:

    class _Fields(Options, BaseModel): ...

else:
    _Fields = create_model(
        "_Fields",
        **{
            option.name: (
                option.type,
                Field(option.default, description=option.help, ge=option.ge, gt=option.gt, le=option.le),
            )
            for option in OPTIONS.values()
            if option.name not in (*EXECUTION, *ARRAY)
        },
    )


class Config(_Fields):
    """The options that change the result of a run, as declared in `options`; how it is executed is not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("image_root", "model", "pretrained")
    @classmethod
    def _absolute_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        """So that a run can be resumed from another directory."""
        if value is None or "://" in value:
            return value
        if info.field_name == "model":
            folder = value.removeprefix(_FOLDER)
            return value if folder == value else _FOLDER + _absolute(folder)
        is_checkpoint = os.sep in value or Path(value).suffix in _CHECKPOINTS
        return value if info.field_name == "pretrained" and not is_checkpoint else _absolute(value)

    @field_validator("label_column", "image_label_column", "caption_label_column")
    @classmethod
    def _or_none(cls, value: str | None) -> str | None:
        """The word "none" removes the labels that a run had."""
        return None if value == "none" else value

    @model_validator(mode="before")
    @classmethod
    def _one_threshold(cls, given: dict[str, Any]) -> dict[str, Any]:
        """At most one rule chooses the threshold. The default threshold is the same run whether it is given or not."""
        rules = [name for name in THRESHOLD_RULES if given.get(name) is not None]
        if len(rules) > 1:
            raise ValueError(
                f"{flag(rules[0])} and {flag(rules[1])} both choose the threshold below which pairs are flagged: give "
                "only one of them"
            )
        return {**given, "flag_below": None} if given.get("flag_below") == DEFAULT_THRESHOLD else given

    @model_validator(mode="after")
    def _goes_together(self) -> Config:
        """Combinations that can never be judged are refused before anything is read."""
        if self.model == "hog-tfidf" and self.method == "zero-shot":
            raise ValueError("hog-tfidf cannot compare images with captions untrained: use --method l2rm or canonical")
        if self.model == "hog-tfidf" and self.score in ("clip", "negclip", "lemon"):
            raise ValueError("hog-tfidf has no similarity of its own to judge by: use --score auto or aligned")
        if self.method == "zero-shot" and self.score == "aligned":
            raise ValueError("--method zero-shot learns no alignment to judge by: use --score auto or clip")
        sides = [name for name in ("image_label_column", "caption_label_column") if getattr(self, name)]
        given = ["label_column"] * bool(self.label_column) + sides
        takes_labels = self.method in METHODS and METHODS[self.method].labels
        if takes_labels and not given:
            raise ValueError(f"--method {self.method} learns from class labels: name their column with --label-column")
        if given and not takes_labels:
            able = " or ".join(name for name, method in METHODS.items() if method.labels)
            raise ValueError(
                f"--method {self.method} does not use labels: set {flag(given[0])} to none, or use --method {able}"
            )
        if self.label_column and sides:
            raise ValueError(
                f"--label-column describes both images and captions: leave it out, or leave out {flag(sides[0])}"
            )
        return self

    @classmethod
    def make(cls, **options: Any) -> Config:
        """A configuration from options; those that are None get their defaults.

        Raises UserError that names the option if a value is not allowed or there is no such option.
        """
        try:
            return cls(**current_names({name: value for name, value in options.items() if value is not None}))
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise UserError(message) from None
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise UserError(f"there is no option {name}: use one of {', '.join(cls.model_fields)}") from None
            raise UserError(f"{flag(name)} {first['input']}: {message[:1].lower()}{message[1:]}") from None

    @property
    def columns(self) -> Columns:
        return Columns(self.image_column, self.caption_column, self.id_column, self.image_root, self.embeddings)

    def of(self, stage: str) -> dict[str, Any]:
        """The options that change the result of a stage."""
        return {name: getattr(self, name) for name in STAGES[stage]}


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def read_recipe(path: Path) -> dict[str, Any]:
    """Options from a TOML file, or from the manifest.json of a run.

    The options are those of `Config` and of execution (`device`, `workers`, `strict`), spelled with underscores or
    hyphens.
    Raises UserError if the file cannot be read or holds an unknown option.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    import json

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the recipe {path} ({why}): name a TOML file of options") from None
    try:
        found = json.loads(text)["config"] if path.suffix == ".json" else tomllib.loads(text)
        options = {str(name).replace("-", "_"): value for name, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split()) if isinstance(error, ValueError) else "it holds no config"
        raise UserError(
            f"{path} is not a recipe ({why}): name a TOML file of options or the manifest.json of a run"
        ) from None
    options = current_names(options)
    known = [name for name in OPTIONS if name not in ARRAY]  # every job of an array has its own
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{path} has an unknown option {unknown[0]}: use one of {', '.join(known)}")
    return options
