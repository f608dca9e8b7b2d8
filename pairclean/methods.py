"""The methods there are, what each takes, and what was measured of them; loads nothing that learns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from statistics import median
from typing import Any

#: Pairs that `auto` deems too few to teach an encoder that is aligned already.
FEW = 10_000

AUTO = (
    "--method auto takes zero-shot where the encoder's similarity means something by itself and there are fewer than "
    f"{FEW:,} pairs to teach it more, and l2rm otherwise."
)


@dataclass(frozen=True)
class About:
    """A method as `--method` names it, in the words of `pairclean methods`."""

    name: str
    what: str
    needs: str
    cost: str
    when: str


METHODS = (
    About(
        "zero-shot",
        "the encoder's own similarity; nothing is learned",
        "an encoder whose images and captions share a space (CLIP)",
        "none",
        "few pairs, and an encoder that knows their kind",
    ),
    About(
        "canonical",
        "a linear map of each side to what both have in common",
        "nothing",
        "seconds; it grows with the square of the vectors' length",
        "a quick look, or a machine with little to spare",
    ),
    About(
        "l2rm",
        "from likely matches, and from a transport plan between likely mismatches",
        "nothing",
        "five small networks and a plan a step",
        "unless there is a reason for another",
    ),
    About(
        "rcar",
        "from all pairs, with the labels of likely mismatches mended by what the model believes",
        "nothing",
        "five small networks",
        "to compare with l2rm",
    ),
    About(
        "drcl",
        "each side alone, from class labels; no pair is trusted",
        "--label-column, or better labels of both sides: --image-label-column and --caption-label-column",
        "twenty small networks",
        "retrieval by class, whatever the pairs are like; it cannot tell pairs of one class apart",
    ),
)


def choose(method: str, *, comparable: bool, pairs: int) -> str:
    """The method that `auto` stands for, by the rule of AUTO; or the one that was named.

    comparable: whether the encoder's two spaces are one already.
    """
    if method != "auto":
        return method
    return "zero-shot" if comparable and pairs < FEW else "l2rm"


def measured() -> list[dict[str, Any]]:
    """What `benchmarks/methods.py` measured: medians over its seeds, one entry a data set, noise and method.

    Each has `data`, `noise`, `method`, `seeds` (how many), and the figures: `auroc` and `average_precision` of the
    method's own scores, `auroc_chosen` of those that the judge chose, `rate_error`, `rsum`, `map`, `seconds`.
    """
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
