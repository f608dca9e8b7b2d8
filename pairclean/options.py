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
        "embeddings",
        "model",
        "pretrained",
        "dtype",
        "exact_preprocessing",
    ),
    "align": ("method", "label_column", "image_label_column", "caption_label_column", "seed"),
    "judge": ("score", "calibration"),
    "rematch": ("flag_below", "keep_fraction", "min_precision", "capacity", "pool"),
    "export": ("to",),
    "report": (),
}

HELP: dict[str, str] = {
    "image_column": "Column with the image, its bytes or its path.",
    "caption_column": "Column with the caption, or a list of captions.",
    "id_column": "Column that names the pair; 'none' numbers the rows instead.",
    "image_root": "Folder that image paths are relative to.",
    "limit": "Read at most this many rows of the source.",
    "embeddings": "Which of the vectors that lie beside the metadata: b32 or l14 (DataComp).",
    "model": "open_clip model, hf-hub:ORG/NAME, local-dir:PATH, or hog-tfidf.",
    "pretrained": "Pretrained tag of the model, or a checkpoint file.",
    "dtype": "Precision of the encoder.",
    "exact_preprocessing": "Decode large JPEGs whole; without it, at a fraction of their size that is still ample.",
    "method": "How the alignment is learned.",
    "label_column": "Column with the class of a pair, or a list of classes; what drcl learns from.",
    "image_label_column": "The same, where it describes the image only.",
    "caption_label_column": "The same, where it describes the caption only.",
    "seed": "Seed of everything random.",
    "score": "Judge by the learned alignment, by the encoder's own similarity (three ways), or by what separates best.",
    "calibration": "How scores become probabilities: by random re-pairings, or by a mixture of two betas or Gaussians.",
    "flag_below": "Flag pairs whose clean probability is below this.",
    "keep_fraction": "Keep this share of the judged pairs, the likeliest, instead of flagging by probability.",
    "min_precision": "Rematch as many pairs as this precision allows.",
    "capacity": "How many images may be given one caption.",
    "pool": "Rematch with the captions of flagged pairs only, or with all.",
    "to": "Layout of the cleaned data; that of the source unless given.",
    "device": "auto, cpu, cuda, cuda:1, cuda:all or mps.",
    "workers": "Threads that decode pictures; as many as there are cores unless given.",
    "force": "Embed also where a sample of the rows cannot be read.",
    "strict": "Stop at a file that cannot be read, instead of reporting it and going on.",
}

#: How a run is executed: nothing here changes its results, so that it is no part of a run's configuration.
EXECUTION = ("device", "workers", "strict", "force")


def flag(option: str) -> str:
    """An option as the command line spells it."""
    return "--" + option.replace("_", "-")
