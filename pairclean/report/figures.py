"""The report's figures, as inline SVG.

Positions are percentages of a drawing without a viewBox, so that a figure takes the width of its column while text and
strokes keep their size. Colours come from the page's style sheet through classes, so that a figure works in light mode,
in dark mode and in print. Only numbers and the page's own words come in here, and everything is escaped by Markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def histogram(
    edges: Sequence[float],
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    curve: tuple[str, Sequence[float]] | None = None,
    mark: tuple[float, str] | None = None,
    label: str,
) -> Markup:
    """Stacked bars over bins, with an optional step curve over them and a marked position on the axis.

    edges: B + 1 increasing floats.  series: (name, B counts) from the bottom up; the name is the bar's class.
    curve: (name, B values).  mark: (position on the axis, its text).  label: what a screen reader says.
    """
    totals = [sum(values) for values in zip(*(values for _, values in series), strict=True)]
    highest = max([*totals, *(curve[1] if curve else ()), 0]) or 1
    ticks = nice_ticks(0, highest, 3)
    top = max(highest, ticks[-1])
    low, span = edges[0], (edges[-1] - edges[0]) or 1.0

    def x(value: float) -> float:
        return 100 * (value - low) / span

    parts = [_gridline(100 - 100 * tick / top, compact(tick)) for tick in ticks]
    base = [0.0] * len(totals)
    for name, values in series:
        for index, ((left, right), value) in enumerate(zip(pairwise(edges), values, strict=True)):
            if value > 0:
                hint = f"{axis_number(left)} to {axis_number(right)}: {value:,} {name}"
                parts.append(_bar(x(left), x(right), 100 * base[index] / top, 100 * value / top, name, hint))
            base[index] += value
    if curve:
        parts.append(_step_curve([x(edge) for edge in edges], [100 - 100 * v / top for v in curve[1]], curve[0]))
    if mark:
        parts.append(_mark(x(mark[0]), mark[1]))
    parts.append(_line(0, 100, 100, 100, "axis"))
    parts.extend(_axis_label(x(tick), axis_number(tick)) for tick in nice_ticks(edges[0], edges[-1], 5))
    return _svg("plot", label, parts)


def interval(estimate: float, low: float, high: float, *, label: str) -> Markup:
    """A share and its interval on a scale from 0 to 100%."""
    parts = [
        _line(0, 50, 100, 50, "axis"),
        _rect(100 * low, 30, 100 * (high - low), 40, "band"),
        _line(100 * estimate, 5, 100 * estimate, 95, "estimate"),
    ]
    parts.extend(_axis_label(percent, f"{percent}%") for percent in (0, 25, 50, 75, 100))
    return _svg("interval", label, parts)


def small_interval(estimate: float, low: float, high: float, whole: float | None) -> Markup:
    """A share and its interval on a scale from 0 to 100%, one table row high, with the overall share marked.

    It is hidden from screen readers, because numbers beside it say the same.
    """
    parts = [_rect(0, 0, 100, 100, "track")]
    if whole is not None:
        parts.append(_line(100 * whole, 0, 100 * whole, 100, "whole"))
    parts.append(_rect(100 * low, 25, 100 * (high - low), 50, "band"))
    parts.append(_line(100 * estimate, 0, 100 * estimate, 100, "estimate"))
    return Markup('<svg class="small-interval" aria-hidden="true" focusable="false">{}</svg>').format(
        Markup("").join(parts)
    )


def reliability(points: Sequence[tuple[float, float, float, float, str]], *, label: str) -> Markup:
    """What was predicted against what was found, both from 0 to 1, with the diagonal on which they agree.

    points: (predicted, found, low, high, hint); low and high bound what was found.
    """
    parts = [_gridline(100 - 100 * tick, axis_number(tick)) for tick in _QUARTERS]
    parts.append(_line(0, 100, 100, 0, "diagonal"))
    for said, found, low, high, hint in points:
        parts.append(_line(100 * said, 100 - 100 * low, 100 * said, 100 - 100 * high, "error"))
        parts.append(_dot(100 * said, 100 - 100 * found, hint))
    parts.append(_line(0, 100, 100, 100, "axis"))
    parts.extend(_axis_label(100 * tick, axis_number(tick)) for tick in _QUARTERS)
    return _svg("square", label, parts)


def curves(
    x: Sequence[float],
    series: Sequence[tuple[str, Sequence[float | None]]],
    *,
    low: float,
    mark: tuple[float, str] | None = None,
    level: float | None = None,
    label: str,
) -> Markup:
    """Lines over a common horizontal axis that begins at 0; the vertical axis goes from `low` to 1, in percent.

    x: ascending.  series: (name, a value for each x or None); the name is the line's class.  mark: (position on the
    axis, its text).  level: a value at which to draw a horizontal line.
    """
    last = x[-1] or 1

    def height(value: float) -> float:
        return 100 - 100 * (max(value, low) - low) / (1 - low)

    parts = [_gridline(height(tick), f"{100 * tick:.4g}%") for tick in nice_ticks(low, 1, 4)]
    if level is not None and level > low:
        parts.append(_line(0, height(level), 100, height(level), "level"))
    for name, values in series:
        known = [(100 * at / last, height(value)) for at, value in zip(x, values, strict=True) if value is not None]
        parts.append(_curve(known, name))
    if mark:
        parts.append(_mark(100 * mark[0] / last, mark[1]))
    parts.append(_line(0, 100, 100, 100, "axis"))
    parts.extend(_axis_label(100 * tick / last, compact(tick)) for tick in nice_ticks(0, last, 5))
    return _svg("plot low", label, parts)


def strip(parts: Sequence[tuple[str, int]], *, label: str) -> Markup:
    """One bar, divided in proportion to the counts; the name is the class of a part."""
    total = sum(count for _, count in parts) or 1
    drawn, start = [], 0.0
    for name, count in parts:
        if count:
            hint = f"{name}: {count:,}"
            drawn.append(_bar(100 * start / total, 100 * (start + count) / total, 0, 100, name, hint))
        start += count
    return _svg("strip", label, drawn)


def share_bar(share: float) -> Markup:
    """A small bar beside a number that says the same, so it is hidden from screen readers.  share: 0 to 1."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup('<svg class="share" aria-hidden="true" focusable="false">{}{}</svg>').format(
        _rect(0, 0, 100, 100, "track"), _rect(0, 0, width, 100, "fill")
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high], with about `about` intervals.

    >>> nice_ticks(0, 100, 4)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def axis_number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-12 else "0"


def compact(value: float) -> str:
    """1500 as 1.5k, because axis labels have little space."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _svg(kind: str, label: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" role="img" aria-label="{}">{}</svg>').format(kind, label, Markup("").join(parts))


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return Markup('<rect class="{}" x="{}%" y="{}%" width="{}%" height="{}%"/>').format(
        kind, _round(x), _round(y), _round(width), _round(height)
    )


def _bar(left: float, right: float, base: float, height: float, kind: str, hint: str) -> Markup:
    """A rectangle that stands on `base`, both measured from the bottom; `hint` is its tooltip."""
    return Markup('<rect class="{}" x="{}%" y="{}%" width="{}%" height="{}%"><title>{}</title></rect>').format(
        kind, _round(left), _round(100 - base - height), _round(right - left), _round(height), hint
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}%" y1="{}%" x2="{}%" y2="{}%"/>').format(
        kind, _round(x1), _round(y1), _round(x2), _round(y2)
    )


def _gridline(y: float, text: str) -> Markup:
    label = Markup('<text class="y" x="0" y="{}%" dx="-8" dy="0.35em">{}</text>').format(_round(y), text)
    return _line(0, y, 100, y, "grid") + label


def _axis_label(x: float, text: str) -> Markup:
    return Markup('<text class="x" x="{}%" y="100%" dy="1.5em">{}</text>').format(_round(x), text)


def _mark(x: float, text: str) -> Markup:
    side = Markup('class="mark start" dx="6"') if x < 50 else Markup('class="mark end" dx="-6"')
    label = Markup('<text {} x="{}%" y="0" dy="0.3em">{}</text>').format(side, _round(x), text)
    return _line(x, 0, x, 100, "mark") + label


def _step_curve(x: Sequence[float], y: Sequence[float], kind: str) -> Markup:
    """x: B + 1 positions, y: B heights, both in percent. Paths do not accept percentages, hence the viewBox."""
    steps = " ".join(f"V{_round(10 * level)}H{_round(10 * right)}" for level, right in zip(y, x[1:], strict=True))
    path = f"M{_round(10 * x[0])} 1000{steps}V1000"
    return Markup(
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        '<path class="{}" d="{}" vector-effect="non-scaling-stroke"/></svg>'
    ).format(kind, path)


def _curve(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """Like `_step_curve`, with straight lines between the points.  points: (x, y) in percent."""
    path = "L".join(f"{_round(10 * x)} {_round(10 * y)}" for x, y in points)
    return Markup(
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        '<path class="{}" d="{}" vector-effect="non-scaling-stroke"/></svg>'
    ).format(f"line {kind}", f"M{path}" if points else "")


def _dot(x: float, y: float, hint: str) -> Markup:
    return Markup('<circle class="dot" cx="{}%" cy="{}%" r="4.5"><title>{}</title></circle>').format(
        _round(x), _round(y), hint
    )


def _round(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
