"""What the options are called, what they say of themselves, and which stage they belong to.

Apart from `config`, which checks them, so that `pairclean --help` need not load what checking takes.
"""

from __future__ import annotations

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

HELP: dict[str, str] = {
    "image_column": "Column with the image, its bytes or its path.",
    "caption_column": "Column with the caption, or a list of captions.",
    "id_column": "Column that names the pair; 'none' numbers the rows instead.",
    "image_root": "Folder that image paths are relative to.",
    "limit": "Read at most this many rows of the source.",
    "model": "open_clip model, hf-hub:ORG/NAME, local-dir:PATH, or hog-tfidf.",
    "pretrained": "Pretrained tag of the model, or a checkpoint file.",
    "dtype": "Precision of the encoder.",
    "method": "How the alignment is learned.",
    "seed": "Seed of everything random.",
    "score": "Judge by the learned alignment, by the encoder's own similarity, or by what separates best.",
    "flag_below": "Flag pairs whose clean probability is below this.",
    "min_precision": "Rematch as many pairs as this precision allows.",
    "device": "auto, cpu, cuda, cuda:1, cuda:all or mps.",
    "workers": "Threads that decode pictures; as many as there are cores unless given.",
}

#: How a run is executed: nothing here changes its results, so that it is no part of a run's configuration.
EXECUTION = ("device", "workers")


def flag(option: str) -> str:
    """An option as the command line spells it."""
    return "--" + option.replace("_", "-")
