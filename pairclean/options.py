"""The table of options: the one place where an option is declared.

Recipes, the manifest, `Config`, the command line and its documentation are built from this table. It is apart from
`config`, which validates, so that `pairclean --help` need not load what validation takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from .methods import METHODS

T = TypeVar("T")

Embeddings = Literal["b32", "l14"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Score = Literal["auto", "aligned", "clip", "negclip", "lemon"]
Calibration = Literal["decoy", "beta", "gauss"]
Pool = Literal["noisy", "all"]
Captions = Literal["all", "best"]
Deduplicate = Literal["none", "image", "pair"]
Engine = Literal["local", "ray"]
Layout = Literal["source", "parquet", "webdataset", "uids", "embeddings"]
if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[("auto", *METHODS)]

# The panels of `--help`.
INPUT = "Input"
LEARNING = "Encoder and alignment"
OUTPUT = "Verdicts and output"
EXECUTING = "Execution"


@dataclass(frozen=True)
class Option:
    """An option, as everything that offers it needs to know it."""

    default: Any
    help: str
    panel: str
    metavar: str | None = None
    ge: float | None = None  # the bounds of a number: at least,
    gt: float | None = None  # above,
    le: float | None = None  # at most
    formerly: tuple[str, ...] = ()  # names it had before, which still work with a warning
    name: str = ""  # this and the type are filled in from the declaration
    type: Any = None


def _option(default: Any, help: str, panel: str, metavar: str | None = None, **more: Any) -> Any:
    """Declared as a value of any type, so that type checkers take the annotation beside it."""
    return Option(default, help, panel, metavar, **more)


class _Columns:
    image_column: str | None = _option(None, "Column with the images, as bytes or paths.", INPUT, "NAME")
    caption_column: str | None = _option(None, "Column with the captions: one, or a list, per row.", INPUT, "NAME")
    id_column: str | None = _option(
        None, "Column with the ids of the pairs; 'none' numbers the rows instead.", INPUT, "NAME"
    )
    image_root: str | None = _option(None, "Folder that image paths are relative to.", INPUT, "FOLDER")


class _Selection:
    limit: int | None = _option(None, "Read only the first N rows.", INPUT, "N", ge=1)
    embeddings: Embeddings | None = _option(
        None, "Which of the embeddings stored beside DataComp metadata to use.", INPUT
    )


class _Encoder:
    model: str = _option(
        "ViT-B-32", "Encoder: an open_clip model, hf-hub:ORG/NAME, local-dir:PATH, or hog-tfidf.", LEARNING, "MODEL"
    )
    pretrained: str | None = _option(None, "Weights of the encoder: an open_clip tag, or a file.", LEARNING, "TAG")
    dtype: Dtype = _option("auto", "Floating-point precision of the encoder.", LEARNING)
    exact_preprocessing: bool = _option(
        False,
        "Decode large JPEGs at full size and resize as open_clip does, which is slower. By default they are decoded at "
        "a reduced size, at least twice what the encoder needs, and resized by a faster program.",
        LEARNING,
    )


class _Align:
    method: Method = _option(
        "l2rm", "How the alignment between images and captions is learned; see `pairclean methods`.", LEARNING
    )
    label_column: str | None = _option(
        None, "Column with the class labels of each pair, for --method drcl; 'none' for no labels.", LEARNING, "NAME"
    )
    image_label_column: str | None = _option(
        None, "Column with class labels that describe only the image.", LEARNING, "NAME"
    )
    caption_label_column: str | None = _option(
        None, "Column with class labels that describe only the caption.", LEARNING, "NAME"
    )
    kind_column: str | None = _option(
        None,
        "Column with the kind of each pair (product type, species, language), within which wrong captions resemble the "
        "right ones; without it kinds are found in the captions.",
        LEARNING,
        "NAME",
    )
    seed: int = _option(0, "Seed of the random number generators.", LEARNING, "N", ge=0)
    repair: bool = _option(
        False,
        "Give captions that moved by a number of rows back to their images before anything is learned. Such faults are "
        "always looked for and reported.",
        OUTPUT,
    )


class _Judge:
    score: Score = _option(
        "auto",
        "Score that pairs are judged by: the learned alignment, the encoder's own similarity (clip, negclip, lemon), "
        "or whichever separates pairs best from random re-pairings (auto).",
        OUTPUT,
    )
    calibration: Calibration = _option(
        "decoy",
        "How scores become probabilities: by comparison with random re-pairings (decoy), or by a mixture of two betas "
        "or Gaussians.",
        OUTPUT,
    )
    phrases: bool = _option(
        False,
        "Read captions by phrases too: captions that are partly wrong are found, and the words that do not fit are "
        "named. The encoder reads about ten times as much text.",
        OUTPUT,
    )
    use_labels: bool = _option(
        False,
        "Refit the probabilities with the labels that `pairclean review` has collected; flags and rematches follow.",
        OUTPUT,
    )


class _Rematch:
    flag_below: float | None = _option(
        None,
        "Flag pairs with a clean probability below P as mismatched: 0.5, unless you choose P, or one of the next three "
        "options instead.",
        OUTPUT,
        "P",
        ge=0,
        le=1,
    )
    keep_fraction: float | None = _option(
        None,
        "Keep the fraction F of the judged pairs with the highest clean probability and flag the rest.",
        OUTPUT,
        "F",
        gt=0,
        le=1,
    )
    keep_precision: float | None = _option(
        None,
        "Keep as many pairs as possible of which the share P is expected to be matched, and flag the rest.",
        OUTPUT,
        "P",
        gt=0,
        le=1,
    )
    cost_ratio: float | None = _option(
        None,
        "Flag pairs so that the expected cost is least, if a mismatched pair that is kept costs as much as R matched "
        "pairs that are flagged.",
        OUTPUT,
        "R",
        gt=0,
    )
    min_precision: float = _option(
        0.9, "Rematch as many pairs as possible with an estimated precision of at least P.", OUTPUT, "P", ge=0, le=1
    )
    capacity: int = _option(1, "Use a caption for at most K rematched images.", OUTPUT, "K", ge=1)
    pool: Pool = _option("noisy", "Captions to rematch with: those of flagged pairs, or of all pairs.", OUTPUT)


class _Export:
    to: Layout = _option("source", "Layout of the cleaned data.", OUTPUT)
    cleaned_to: str | None = _option(
        None, "Remote folder that takes cleaned/ and a copy of verdicts/, such as s3://bucket/folder.", OUTPUT, "URL"
    )
    captions: Captions = _option(
        "all", "If a row has several captions, write all that stay, or only the one most likely to be right.", OUTPUT
    )
    deduplicate: Deduplicate = _option(
        "none",
        "Of pairs with the same or nearly the same picture (image), or picture and caption (pair), write only the one "
        "most likely to be right.",
        OUTPUT,
    )


class Options(_Columns, _Selection, _Encoder, _Align, _Judge, _Rematch, _Export):
    """Every option that changes the result of a run, with its type."""


class _Execution:
    device: str = _option("auto", "Device: auto, cpu, cuda, cuda:1, cuda:all or mps.", EXECUTING, "DEVICE")
    workers: int | None = _option(
        None, "Threads that decode images; by default one per available core.", EXECUTING, "N", ge=1
    )
    strict: bool = _option(False, "Stop at the first file that cannot be read, instead of reporting it.", EXECUTING)
    engine: Engine = _option(
        "local",
        "Who embeds and exports the shards: this process, or workers of a Ray cluster, which needs the extra `ray`.",
        EXECUTING,
    )
    ray_address: str | None = _option(
        None, "Address of the Ray cluster, or 'auto'; by default Ray starts on this machine.", EXECUTING, "ADDRESS"
    )
    force: bool = _option(False, "Embed even if almost none of a sample of the rows can be read.", EXECUTING)


class _Array:
    shard_index: int | None = _option(
        None,
        "Make only every N-th part, beginning with this one (from 0): one of N jobs that share a stage.",
        EXECUTING,
        "I",
        ge=0,
    )
    num_shards: int | None = _option(None, "How many jobs share the stage, with --shard-index.", EXECUTING, "N", ge=1)


class RenamedOption(FutureWarning):
    """An option was given under a former name."""


#: Every option by its name, in order.
OPTIONS: dict[str, Option] = {}


def _declared(group: type) -> tuple[str, ...]:
    """Put the options of a group into the table.  Returns their names."""
    types = get_type_hints(group)
    for name in group.__annotations__:
        OPTIONS[name] = replace(vars(group)[name], name=name, type=types[name])
    return tuple(group.__annotations__)


COLUMNS = _declared(_Columns)
SELECTION = _declared(_Selection)
ENCODER = _declared(_Encoder)

#: The stages in order, each with the options that change its result.
STAGES: dict[str, tuple[str, ...]] = {
    "embed": (*COLUMNS, *SELECTION, *ENCODER),
    "align": _declared(_Align),
    "judge": _declared(_Judge),
    "rematch": _declared(_Rematch),
    "export": _declared(_Export),
    "report": (),
}

#: How a run is executed. These change no result and are not part of a run's configuration.
EXECUTION = _declared(_Execution)

#: The stages that write one part per shard. Several processes may share them,
SHARD_WISE = ("embed", "export")
#: and these options say which parts a process makes.
ARRAY = _declared(_Array)


#: The threshold where none of the options is given that choose it.
DEFAULT_THRESHOLD = 0.5

#: Options of which at most one is given: each of them chooses the threshold.
THRESHOLD_RULES = ("flag_below", "keep_fraction", "keep_precision", "cost_ratio")


def overridden(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Options with later ones in their place. A later rule for the threshold also replaces any other such rule."""
    chooses = any(later.get(name) is not None for name in THRESHOLD_RULES)
    kept = {name: value for name, value in earlier.items() if not (chooses and name in THRESHOLD_RULES)}
    return {**kept, **later}


def flag(option: str) -> str:
    """The spelling of an option on the command line."""
    return "--" + option.replace("_", "-")


def current_names(options: Mapping[str, T]) -> dict[str, T]:
    """The same options under today's names. A former name works with a RenamedOption warning that tells the new one.

    Raises UserError if an option is given under two of its names.
    """
    renamed = {old: option.name for option in OPTIONS.values() for old in option.formerly}
    found: dict[str, T] = {}
    for name, value in options.items():
        today = renamed.get(name, name)
        if today in found or (today != name and today in options):
            from .pairs import UserError

            raise UserError(f"{flag(name)} is the former name of {flag(today)}: give only {flag(today)}")
        if today != name:
            sentence = f"{flag(name)} was renamed to {flag(today)}: use the new name, as the old one will be removed"
            warnings.warn(sentence, RenamedOption, stacklevel=3)
        found[today] = value
    return found
