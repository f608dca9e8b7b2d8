"""Every option of a run, in one place: the command line, recipes and the manifest all speak this."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from .options import EXECUTION, HELP, STAGES, flag
from .pairs import Columns, UserError

__all__ = ["STAGES", "Config", "read_recipe"]

_FOLDER = "local-dir:"
#: Without a folder's name these still say that a checkpoint file is meant, not a tag.
_CHECKPOINTS = {".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz"}


class Config(BaseModel):
    """The options that change what comes out. How a run is executed (device, workers) is not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    image_column: str | None = Field(None, description=HELP["image_column"])
    caption_column: str | None = Field(None, description=HELP["caption_column"])
    id_column: str | None = Field(None, description=HELP["id_column"])
    image_root: str | None = Field(None, description=HELP["image_root"])
    limit: int | None = Field(None, ge=1, description=HELP["limit"])
    embeddings: Literal["b32", "l14"] | None = Field(None, description=HELP["embeddings"])
    model: str = Field("ViT-B-32", description=HELP["model"])
    pretrained: str | None = Field(None, description=HELP["pretrained"])
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description=HELP["dtype"])
    exact_preprocessing: bool = Field(False, description=HELP["exact_preprocessing"])
    method: Literal["auto", "l2rm", "rcar", "drcl", "canonical", "zero-shot"] = Field(
        "l2rm", description=HELP["method"]
    )
    label_column: str | None = Field(None, description=HELP["label_column"])
    image_label_column: str | None = Field(None, description=HELP["image_label_column"])
    caption_label_column: str | None = Field(None, description=HELP["caption_label_column"])
    seed: int = Field(0, ge=0, description=HELP["seed"])
    score: Literal["auto", "aligned", "clip", "negclip", "lemon"] = Field("auto", description=HELP["score"])
    calibration: Literal["decoy", "beta", "gauss"] = Field("decoy", description=HELP["calibration"])
    flag_below: float = Field(0.5, ge=0, le=1, description=HELP["flag_below"])
    keep_fraction: float | None = Field(None, gt=0, le=1, description=HELP["keep_fraction"])
    min_precision: float = Field(0.9, ge=0, le=1, description=HELP["min_precision"])
    capacity: int = Field(1, ge=1, description=HELP["capacity"])
    pool: Literal["noisy", "all"] = Field("noisy", description=HELP["pool"])
    to: Literal["source", "parquet", "webdataset", "uids", "embeddings"] = Field("source", description=HELP["to"])

    @field_validator("image_root", "model", "pretrained")
    @classmethod
    def _absolute_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A run can be gone on with from another directory."""
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
        """So that a run that had labels can be learned again without."""
        return None if value == "none" else value

    @model_validator(mode="after")
    def _goes_together(self) -> Config:
        """What could never be judged is refused before anything is read."""
        if self.model == "hog-tfidf" and self.method == "zero-shot":
            raise ValueError("hog-tfidf tells nothing without learning: choose --method l2rm or canonical")
        if self.model == "hog-tfidf" and self.score in ("clip", "negclip", "lemon"):
            raise ValueError("hog-tfidf has no similarity of its own to judge by: choose --score auto or aligned")
        if self.method == "zero-shot" and self.score == "aligned":
            raise ValueError("--method zero-shot learns nothing to judge by: choose --score auto or clip")
        sides = [name for name in ("image_label_column", "caption_label_column") if getattr(self, name)]
        given = ["label_column"] * bool(self.label_column) + sides
        if self.method == "drcl" and not given:
            raise ValueError("--method drcl learns from class labels: name their column with --label-column")
        if given and self.method != "drcl":
            raise ValueError(f"--method {self.method} needs no labels: say {flag(given[0])} none, or choose drcl")
        if self.label_column and sides:
            raise ValueError(f"--label-column is of both sides: leave it out, or {flag(sides[0])}")
        return self

    @classmethod
    def make(cls, **options: Any) -> Config:
        """Options that are None are left at their defaults.  Raises UserError, naming the option."""
        try:
            return cls(**{k: v for k, v in options.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise UserError(message) from None
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise UserError(f"there is no option {name}; there are {', '.join(cls.model_fields)}") from None
            raise UserError(f"{flag(name)} {first['input']}: {message[:1].lower()}{message[1:]}") from None

    @property
    def columns(self) -> Columns:
        return Columns(self.image_column, self.caption_column, self.id_column, self.image_root, self.embeddings)

    def of(self, stage: str) -> dict[str, Any]:
        """The options that change this stage's result."""
        return {name: getattr(self, name) for name in STAGES[stage]}


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def read_recipe(path: Path) -> dict[str, Any]:
    """Options from a TOML file, or from a run's manifest.json.

    They are those of `Config` and, in TOML, `device` and `workers`, spelled with underscores or hyphens.
    Raises UserError if the file cannot be read or has other options.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    import json

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        found = json.loads(text)["config"] if path.suffix == ".json" else tomllib.loads(text)
        options = {str(name).replace("-", "_"): value for name, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split()) if isinstance(error, ValueError) else "it has no config"
        raise UserError(f"{path} is no recipe ({why}): give a TOML file of options or a run's manifest.json") from None
    known = [*Config.model_fields, *EXECUTION]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{path} has the unknown option {unknown[0]}; known are {', '.join(known)}")
    return options
