"""The registry of methods: what each is called, says of itself and needs, and where its class is.

`--method` and `Config.method` offer the methods registered here, and `pairclean methods` describes them. This module
loads nothing that learns: a class is imported when `load` asks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any

#: `auto` leaves an encoder that is aligned already as it is when there are fewer pairs than this to teach it.
FEW = 10_000

AUTO = (
    "--method auto chooses zero-shot where the encoder can compare images with captions by itself and there are fewer "
    f"than {FEW:,} pairs to teach it more, and l2rm otherwise."
)


@dataclass(frozen=True)
class MethodInfo:
    """A method as `--method` names it, described in the words of `pairclean methods`."""

    name: str
    learns: str  # from what
    needs: str
    cost: str
    use_for: str
    class_path: str  # "module:class"
    labels: bool = False  # whether it learns from class labels


_METHODS = (
    MethodInfo(
        "zero-shot",
        learns="nothing: the encoder's own similarity is used",
        needs="an encoder with one space for images and captions (CLIP)",
        cost="none",
        use_for="few pairs, and an encoder that knows this kind of data",
        class_path="pairclean.align.zero_shot:ZeroShot",
    ),
    MethodInfo(
        "canonical",
        learns="a linear map of each side onto what both have in common",
        needs="nothing",
        cost="seconds; grows with the square of the vectors' length",
        use_for="a quick look, or a small machine",
        class_path="pairclean.align.linear:Canonical",
    ),
    MethodInfo(
        "l2rm",
        learns="from likely matches, and from a transport plan between likely mismatches",
        needs="nothing",
        cost="five small networks, and a transport plan per training step",
        use_for="everything, unless there is a reason to choose another",
        class_path="pairclean.align.l2rm:L2RM",
    ),
    MethodInfo(
        "rcar",
        learns="from all pairs; the targets of likely mismatches are corrected by the model's own predictions",
        needs="nothing",
        cost="five small networks",
        use_for="comparison with l2rm",
        class_path="pairclean.align.rcar:RCAR",
    ),
    MethodInfo(
        "drcl",
        learns="each side alone, from class labels; no pair is trusted",
        needs="--label-column, or better, labels of each side: --image-label-column and --caption-label-column",
        cost="twenty small networks",
        use_for="retrieval by class, however noisy the pairs; it cannot tell pairs of one class apart",
        class_path="pairclean.align.drcl:DRCL",
        labels=True,
    ),
)

#: Every method by its name, in the order in which they are listed.
METHODS: dict[str, MethodInfo] = {method.name: method for method in _METHODS}


def load(name: str) -> type[Any]:
    """The class of a method, a subclass of `align.Alignment`.  name: a key of METHODS."""
    module, _, attribute = METHODS[name].class_path.partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def choose(method: str, *, comparable: bool, pairs: int) -> str:
    """The method itself, or the one that `auto` stands for by the rule in AUTO.

    comparable: whether the encoder's image and text vectors lie in one space.
    """
    if method != "auto":
        return method
    return "zero-shot" if comparable and pairs < FEW else "l2rm"


def measured() -> list[dict[str, Any]]:
    """What `benchmarks/methods.py` measured: medians over its seeds, one entry per data set, noise and method.

    Each entry has `data`, `noise`, `method`, `seeds` (their number), and the figures: `auroc` and `average_precision`
    of the method's own scores, `auroc_chosen` of the scores that the judge chose, `rate_error`, `rsum`, `map`,
    `seconds`.
    """
    from statistics import median

    file = files("pairclean") / "align" / "measured.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["noise"], run["method"]), []).append(run)
    out = []
    for (data, noise, method), same in groups.items():
        figures = [name for name in same[0] if name not in ("data", "noise", "method", "seed")]
        medians = {name: median(run[name] for run in same) for name in figures}
        out.append({"data": data, "noise": noise, "method": method, "seeds": len(same), **medians})
    return out
