"""Every option of a run, in one place: the command line, recipes and the manifest all speak this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .pairs import UserError

#: The stages in order, each with the options that change its result.
STAGES: dict[str, tuple[str, ...]] = {
    "embed": (
        "image_column",
        "caption_column",
        "id_column",
        "image_root",
        "limit",
        "model",
        "pretrained",
        "dtype",
    ),
    "align": ("method", "seed"),
    "judge": ("score",),
    "rematch": ("flag_below", "min_precision"),
    "export": (),
    "report": (),
}


class Config(BaseModel):
    """The options that change what comes out. How a run is executed (device, workers) is not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    image_column: str | None = Field(None, description="Column with the image, its bytes or its path.")
    caption_column: str | None = Field(None, description="Column with the caption, or a list of captions.")
    id_column: str | None = Field(None, description="Column that names the pair; 'none' numbers the rows instead.")
    image_root: str | None = Field(None, description="Folder that image paths are relative to.")
    limit: int | None = Field(None, ge=1, description="Read at most this many rows of the source.")
    model: str = Field("ViT-B-32", description="open_clip model, hf-hub:ORG/NAME, local-dir:PATH, or hog-tfidf.")
    pretrained: str | None = Field(None, description="Pretrained tag of the model, or a checkpoint file.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the encoder.")
    method: Literal["l2rm", "canonical", "zero-shot"] = Field("l2rm", description="How the alignment is learned.")
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    score: Literal["auto", "aligned", "clip"] = Field(
        "auto", description="Judge by the learned alignment, by the encoder's own similarity, or by what separates best."
    )
    flag_below: float = Field(0.5, ge=0, le=1, description="Flag pairs whose clean probability is below this.")
    min_precision: float = Field(0.9, ge=0, le=1, description="Rematch as many pairs as this precision allows.")

    @classmethod
    def make(cls, **options: Any) -> Config:
        """Options that are None are left at their defaults.  Raises UserError, naming the option."""
        try:
            return cls(**{k: v for k, v in options.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"option {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def of(self, stage: str) -> dict[str, Any]:
        """The options that change this stage's result."""
        return {name: getattr(self, name) for name in STAGES[stage]}


def read_recipe(path: Path) -> dict[str, Any]:
    """Options from a TOML file, or from a run's manifest.json."""
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
        options = json.loads(text)["config"] if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no recipe: {error}") from None
    unknown = set(options) - set(Config.model_fields)
    if unknown:
        raise UserError(f"{path} has unknown options {sorted(unknown)}; known are {', '.join(Config.model_fields)}")
    return options
