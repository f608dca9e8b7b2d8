"""The options of the commands, each defined once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pairclean.options import EXECUTION, HELP, flag


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Method(str, Enum):
    auto = "auto"
    l2rm = "l2rm"
    rcar = "rcar"
    drcl = "drcl"
    canonical = "canonical"
    zero_shot = "zero-shot"


class Score(str, Enum):
    auto = "auto"
    aligned = "aligned"
    clip = "clip"
    negclip = "negclip"
    lemon = "lemon"


class Calibration(str, Enum):
    decoy = "decoy"
    beta = "beta"
    gauss = "gauss"


class Pool(str, Enum):
    noisy = "noisy"
    all = "all"


class Vectors(str, Enum):
    b32 = "b32"
    l14 = "l14"


class Layout(str, Enum):
    source = "source"
    parquet = "parquet"
    webdataset = "webdataset"
    uids = "uids"
    embeddings = "embeddings"


def _option(option: str, *, panel: str, **more: Any) -> Any:
    return typer.Option(flag(option), help=HELP[option], rich_help_panel=panel, show_default=False, **more)


_SOURCE, _LEARN, _JUDGE, _HOW = "What is read", "How it is learned", "What comes out", "How it is run"

Shards = Annotated[
    str, typer.Argument(metavar="SHARDS", help="Folder of shards, one file, or a remote address.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The run directory for the other data.", show_default=False)]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the demonstration.", show_default=False)]

ImageColumn = Annotated[str | None, _option("image_column", panel=_SOURCE, metavar="NAME")]
CaptionColumn = Annotated[str | None, _option("caption_column", panel=_SOURCE, metavar="NAME")]
IdColumn = Annotated[str | None, _option("id_column", panel=_SOURCE, metavar="NAME")]
ImageRoot = Annotated[str | None, _option("image_root", panel=_SOURCE, metavar="FOLDER")]
Limit = Annotated[int | None, _option("limit", panel=_SOURCE, metavar="N")]
EmbeddingsOption = Annotated[Vectors | None, _option("embeddings", panel=_SOURCE)]
Model = Annotated[str | None, _option("model", panel=_LEARN, metavar="MODEL")]
Pretrained = Annotated[str | None, _option("pretrained", panel=_LEARN, metavar="TAG")]
DtypeOption = Annotated[Dtype | None, _option("dtype", panel=_LEARN)]
ExactPreprocessing = Annotated[
    bool | None,
    typer.Option("--exact-preprocessing", help=HELP["exact_preprocessing"], show_default=False, rich_help_panel=_LEARN),
]
MethodOption = Annotated[Method | None, _option("method", panel=_LEARN)]
LabelColumn = Annotated[str | None, _option("label_column", panel=_LEARN, metavar="NAME")]
ImageLabelColumn = Annotated[str | None, _option("image_label_column", panel=_LEARN, metavar="NAME")]
CaptionLabelColumn = Annotated[str | None, _option("caption_label_column", panel=_LEARN, metavar="NAME")]
Seed = Annotated[int | None, _option("seed", panel=_LEARN, metavar="N")]
ScoreOption = Annotated[Score | None, _option("score", panel=_JUDGE)]
CalibrationOption = Annotated[Calibration | None, _option("calibration", panel=_JUDGE)]
FlagBelow = Annotated[float | None, _option("flag_below", panel=_JUDGE, metavar="P")]
KeepFraction = Annotated[float | None, _option("keep_fraction", panel=_JUDGE, metavar="P")]
MinPrecision = Annotated[float | None, _option("min_precision", panel=_JUDGE, metavar="P")]
Capacity = Annotated[int | None, _option("capacity", panel=_JUDGE, metavar="K")]
PoolOption = Annotated[Pool | None, _option("pool", panel=_JUDGE)]
To = Annotated[Layout | None, _option("to", panel=_JUDGE)]

Device = Annotated[str | None, _option("device", panel=_HOW, metavar="DEVICE")]
Workers = Annotated[int | None, _option("workers", panel=_HOW, metavar="N")]
Force = Annotated[bool | None, typer.Option("--force", help=HELP["force"], show_default=False, rich_help_panel=_HOW)]
Strict = Annotated[bool | None, typer.Option("--strict", help=HELP["strict"], show_default=False, rich_help_panel=_HOW)]
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file of options, or the manifest.json of a run; what is given here goes before it.",
        metavar="FILE",
        show_default=False,
        rich_help_panel=_HOW,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be read and made; write nothing.", rich_help_panel=_HOW)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_HOW)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_HOW)]

Pairs = Annotated[int, typer.Option("--pairs", help="Pairs to draw.", metavar="N")]
Rate = Annotated[float, typer.Option("--rate", help="Share of the captions to move.", metavar="P")]
DemoSeed = Annotated[int, typer.Option("--seed", help=HELP["seed"], metavar="N")]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as plain values."""
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in options.items()}
    return {name: value for name, value in plain.items() if value is not None}


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that change the result, and those that say how it is run."""
    run = {name: value for name, value in options.items() if name in EXECUTION}
    return {name: value for name, value in options.items() if name not in EXECUTION}, run
