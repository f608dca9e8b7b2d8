"""report.html: one file that contains everything it needs and fetches nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from ..files import written_whole
from ..pairs import Verdict
from . import figures
from .gallery import SECTIONS, Gallery, finding_section

_HERE = Path(__file__).parent
_CAPTION_SHOWN = 1000  # characters; a caption can have 100 kB
_CAPTION_TEASER = 130

_DASH = "–"


def render_html(report: dict[str, Any], gallery: Gallery, out: Path) -> None:
    """Write the page for `report` (what `summarise` returned) and `gallery` to `out`, completely or not at all.

    Every number of the report appears as `<data value=... data-path=...>`: the value in full precision, its path within
    report.json, and rounded text.  Everything from the data (captions, names, reasons) is escaped, and a content
    security policy allows only the page's own script and style.
    """
    page = _template().render(number=partial(_number, report), **_context(report, gallery))
    with written_whole(out) as file:
        file.write(page.encode("utf-8"))


@cache
def _template() -> Template:
    """Compiled once in a process: that takes longer than to fill it in."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(figures=figures, share=_share, change=_change, form=_form, counted=_counted)
    environment.filters.update(shown=_shown, teaser=_teaser, marked=_marked, recall_name=_recall_name)
    return environment.get_template("report.html.jinja")


def _context(report: dict[str, Any], gallery: Gallery) -> dict[str, Any]:
    style = Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    script = Markup((_HERE / "report.js").read_text(encoding="utf-8"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'"
    )
    curve = report.get("rematch_curve")
    known = [value for name in ("expected", "measured") for value in (curve or {}).get(name, []) if value is not None]
    pictures = any(tile.image or tile.problem for tile in gallery.tiles)
    sections = [(name, gallery.section(name)) for name in SECTIONS]
    return {
        "report": report,
        "title": PurePath(str(report.get("source") or "")).name or "image-text pairs",
        "findings": [
            (finding, gallery.section(finding_section(number))) for number, finding in enumerate(report["findings"])
        ],
        "sections": sections,
        "tiles": sum(len(tiles) for _, tiles in sections),
        "gallery_verdicts": [
            v.value for v in Verdict if any(t.pick.verdict == v.value for _, tiles in sections for t in tiles)
        ],
        "checked": _checked(report.get("calibration_check")),
        "curve": curve,
        "curve_low": math.floor(10 * min(known, default=0.0)) / 10 if min(known, default=0.0) < 1 else 0.9,
        "measured": curve is not None and any(value is not None for value in curve["measured"]),
        "pictures": pictures,
        "gallery_title": "Pictures" if pictures else "Pairs",
        "cut": _cut(report),
        "recalls": _recalls(report.get("retrieval")),
        "style": style,
        "script": script,
        "policy": policy,
    }


def _checked(check: dict[str, Any] | None) -> list[tuple[float, float, float, float, str]]:
    """The bins of the calibration check that have enough pairs, as points for `figures.reliability`."""
    if check is None:
        return []
    columns = (check[name] for name in ("said", "found", "low", "high", "pairs"))
    return [
        (
            said,
            found,
            low,
            high,
            f"{_counted(pairs, 'pair')}: predicted {_probability(said)}, estimated {_probability(found)}",
        )
        for said, found, low, high, pairs in zip(*columns, strict=True)
        if said is not None
    ]


def _cut(report: dict[str, Any]) -> dict[str, Any] | None:
    """Of each threshold, the highest first, how many pairs it keeps and which share of them is matched."""
    by_labels = {row["threshold"]: row for row in (report.get("human") or {}).get("thresholds", [])}
    rows = [row for row in reversed(report.get("thresholds") or []) if row["kept"]]
    if not rows:
        return None
    said, found = (
        [None if row is None or row["kept"] == 0 else _share_matched(row) for row in side]
        for side in (rows, [by_labels.get(row["threshold"]) for row in rows])
    )
    lowest = min(share for share in (*said, *found) if share is not None)
    return {
        "kept": [row["kept"] for row in rows],
        "by_scores": said,
        "by_labels": found if by_labels else None,
        "low": min(math.floor(10 * lowest) / 10, 0.9),
        "in_use": next((row["kept"] for row in rows if row["threshold"] == report["flag_below"]), None),
    }


def _share_matched(row: dict[str, Any]) -> float | None:
    wrong = row["wrong_left"]["estimate"]
    return None if wrong is None else float(1 - wrong / row["kept"])


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _recalls(retrieval: dict[str, Any] | None) -> list[str]:
    """The names of the recalls that were measured, in the usual order."""
    known = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    measured = {name for side in ("zero_shot", "aligned") for name in ((retrieval or {}).get(side) or {})}
    return [name for name in known if name in measured]


def _recall_name(name: str) -> str:
    way, k = name.split("_r")
    return f"{'image → text' if way == 'i2t' else 'text → image'}, R@{k}"


# Numbers become text only here.


def _number(report: dict[str, Any], path: str, form: str) -> Markup:
    """The report's number at `path` ("mismatch_rate.low"), formatted as `form`."""
    value: Any = report
    for part in path.split("."):
        if value is None:
            break
        value = value[int(part)] if isinstance(value, list) else value[part]
    if value is None:
        return Markup('<span class="missing">–</span>')
    return Markup('<data value="{}" data-path="{}">{}</data>').format(repr(value), path, _form(value, form))


def _form(value: float | None, form: str) -> str:
    return _DASH if value is None else _FORMS[form](value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _counted(number: int, noun: str) -> str:
    """1 pair, 2 pairs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(value: float) -> str:
    """A share as a percentage; a share that is not exactly 0 or 1 is never shown as 0% or 100%."""
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{100 * value:.1f}%"


def _round_percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def _probability(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    if 0.999 < value < 1:
        return ">0.999"
    return f"{value:.3f}"


def _similarity(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _recall(value: float) -> str:
    return f"{value:.1f}"


def _change(before: float, after: float) -> str:
    return f"{after - before:+.1f}".replace("-", "\N{MINUS SIGN}")


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _seconds(value: float) -> str:
    """1 h 02 min, 2 min 05 s, 12.3 s."""
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


_FORMS: dict[str, Callable[[float], str]] = {
    "count": _count,
    "percent": _percent,
    "round percent": _round_percent,
    "probability": _probability,
    "similarity": _similarity,
    "recall": _recall,
    "plain": _plain,
    "seconds": _seconds,
}


def _share(count: float, total: float) -> str:
    return _percent(count / total) if total else _DASH


# Text from the data may be hostile.

# Characters that reorder the text around them (embeddings, overrides, isolates): a caption must not rearrange the page.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Characters that no text needs: controls other than white space, lone surrogates, interlinear annotations.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufff9-\ufffb]")
_MARKS_IN_A_ROW = 4  # no script stacks more combining marks; longer stacks would cover the text around them


def _finalize(value: Any) -> Any:
    """Every expression of the template passes through here before it is escaped, so that none is forgotten."""
    if value is None:
        return _DASH
    if isinstance(value, str) and not isinstance(value, Markup):
        return _visible(value)
    return value


def _visible(text: str) -> str:
    """`text` with invisible and reordering characters made visible, and long stacks of combining marks shortened."""
    text = _BIDI.sub(lambda match: f"‹U+{ord(match[0]):04X}›", text)
    text = _CONTROL.sub(
        lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\N{REPLACEMENT CHARACTER}", text
    )
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS_IN_A_ROW:
            kept.append(character)
    return "".join(kept)


def _shown(caption: str) -> str:
    """The part of a caption that the page contains, on one line; a shortened caption says how long it is."""
    head = " ".join(_visible(caption[: 2 * _CAPTION_SHOWN]).split())
    if len(caption) <= 2 * _CAPTION_SHOWN and len(head) <= _CAPTION_SHOWN:
        return head
    return f"{head[:_CAPTION_SHOWN]} … (the caption has {len(caption):,} characters)"


def _marked(shown: str, wrong: str | None) -> list[tuple[str, bool]]:
    """A caption as it is shown, in parts, each with whether it is the words that do not fit."""
    words = " ".join(_visible(wrong or "").split())
    before, found, after = shown.partition(words) if words else (shown, "", "")
    return [(part, part is found) for part in (before, found, after) if part]


def _teaser(shown: str) -> str | None:
    """The beginning of a long caption; None if the caption is short enough to be shown completely."""
    if len(shown) <= _CAPTION_TEASER + 20:
        return None
    return shown[:_CAPTION_TEASER].rsplit(" ", 1)[0] + " …"
