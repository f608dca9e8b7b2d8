"""Compositional scenes and their pictures: groups of coloured things on a textured background, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]
Rng = np.random.Generator
Box = tuple[float, float, float, float]  # centre x, centre y, width, height, in units of the picture's side

SIDE = 128  # pixels of the finished picture
CANVAS = 2 * SIDE  # drawn at twice the size and averaged down, which smooths the edges


@dataclass(frozen=True)
class Group:
    """`count` things of one kind and one colour; `small` ones leave room around them."""

    kind: str
    colour: str
    count: int
    small: bool = False


@dataclass(frozen=True)
class Scene:
    """What a picture shows, independent of any one drawing: `layout` names the place of each group (`LAYOUTS`)."""

    texture: str
    colours: tuple[str, str]  # the background's main colour and its second (unused where the texture is plain)
    layout: str
    groups: tuple[Group, ...]


COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 216, 50),
    "green": (50, 155, 65),
    "turquoise": (60, 200, 200),
    "blue": (40, 85, 205),
    "purple": (128, 55, 165),
    "pink": (247, 140, 185),
    "brown": (125, 78, 40),
    "black": (32, 32, 36),
    "grey": (142, 145, 150),
    "white": (247, 247, 244),
}
FIXED = {"wood": (112, 72, 40), "glass": (205, 230, 245), "ink": (38, 38, 44), "cream": (244, 232, 208)}


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Floats:
    """Polygon of an ellipse's arc; angles in degrees, clockwise from the right."""
    t = np.radians(np.linspace(start, stop, 33))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def _rays(points: int, inner: float, turn: float = -90.0) -> Floats:
    """A star: `points` tips on the unit circle, the notches at radius `inner`."""
    t = np.radians(np.linspace(0, 360, 2 * points, endpoint=False) + turn)
    r = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def _points(*xy: tuple[float, float]) -> Floats:
    return np.array(xy, dtype=float)


def _heart() -> Floats:
    t = np.linspace(0, 2 * np.pi, 49)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16.5
    return np.stack([0.97 * np.sin(t) ** 3, y], 1)


def _box(left: float, top: float, right: float, bottom: float) -> Floats:
    return _points((left, top), (right, top), (right, bottom), (left, bottom))


def _flower() -> list[tuple[str, Floats]]:
    petals = [_ellipse(0.6 * np.cos(a), 0.6 * np.sin(a), 0.37, 0.37) for a in np.radians(np.arange(-90, 270, 60))]
    return [*(("main", petal) for petal in petals), ("cream", _ellipse(0, 0, 0.34, 0.34))]


#: Each thing as polygons in [-1, 1]², y downwards, painted in order; `main`, `dark`, `light` are tones of its colour.
SHAPES: dict[str, list[tuple[str, Floats]]] = {
    "ball": [("main", _ellipse(0, 0, 0.95, 0.95)), ("light", _ellipse(-0.35, -0.4, 0.24, 0.18))],
    "box": [("main", _box(-0.85, -0.85, 0.85, 0.85))],
    "triangle": [("main", _points((0, -0.95), (0.98, 0.8), (-0.98, 0.8)))],
    "star": [("main", _rays(5, 0.42))],
    "heart": [("main", _heart())],
    "house": [
        ("main", _box(-0.72, -0.15, 0.72, 0.95)),
        ("dark", _points((0, -0.98), (0.98, -0.12), (-0.98, -0.12))),
        ("wood", _box(-0.5, 0.3, -0.1, 0.95)),
        ("glass", _box(0.15, 0.15, 0.52, 0.5)),
    ],
    "tree": [
        ("wood", _box(-0.16, 0.45, 0.16, 1.0)),
        ("main", _points((0, -0.35), (0.85, 0.6), (-0.85, 0.6))),
        ("main", _points((0, -1.0), (0.65, 0.05), (-0.65, 0.05))),
    ],
    "fish": [
        ("dark", _points((0.35, 0), (1.0, -0.55), (1.0, 0.55))),
        ("main", _ellipse(-0.2, 0, 0.78, 0.52)),
        ("glass", _ellipse(-0.6, -0.12, 0.14, 0.14)),
        ("ink", _ellipse(-0.62, -0.12, 0.05, 0.05)),
    ],
    "cup": [
        ("dark", _ellipse(0.5, 0.05, 0.48, 0.45)),
        ("cream", _ellipse(0.5, 0.05, 0.24, 0.22)),
        ("main", _points((-0.85, -0.7), (0.55, -0.7), (0.4, 0.85), (-0.7, 0.85))),
        ("light", _ellipse(-0.15, -0.7, 0.7, 0.16)),
    ],
    "car": [
        ("main", _points((-0.6, -0.1), (-0.35, -0.6), (0.3, -0.6), (0.62, -0.1))),
        ("glass", _points((-0.42, -0.1), (-0.27, -0.46), (0.22, -0.46), (0.44, -0.1))),
        ("main", _points((-0.98, -0.1), (0.9, -0.1), (1.0, 0.15), (1.0, 0.42), (-1.0, 0.42))),
        ("ink", _ellipse(-0.52, 0.42, 0.25, 0.25)),
        ("ink", _ellipse(0.52, 0.42, 0.25, 0.25)),
    ],
    "sun": [("dark", _rays(12, 0.62)), ("main", _ellipse(0, 0, 0.6, 0.6))],
    "moon": [("main", np.concatenate([_ellipse(0, 0, 0.95, 0.95, 50, 310), _ellipse(0.45, 0, 0.72, 0.78, 285, 75)]))],
    "flower": _flower(),
    "boat": [
        ("wood", _box(-0.07, -1.0, 0.05, 0.35)),
        ("cream", _points((0.1, -0.95), (0.8, 0.2), (0.1, 0.2))),
        ("light", _points((-0.12, -0.8), (-0.12, 0.2), (-0.7, 0.2))),
        ("main", _points((-1.0, 0.32), (1.0, 0.32), (0.6, 0.95), (-0.6, 0.95))),
    ],
    "mushroom": [
        ("cream", _points((-0.28, 0.0), (0.28, 0.0), (0.36, 0.95), (-0.36, 0.95))),
        ("main", _ellipse(0, 0.1, 0.98, 1.0, 180, 360)),
        ("light", _ellipse(-0.42, -0.3, 0.17, 0.15)),
        ("light", _ellipse(0.25, -0.5, 0.17, 0.15)),
    ],
    "umbrella": [
        ("wood", _box(-0.06, -0.1, 0.06, 0.98)),
        ("main", _ellipse(0, 0.1, 1.0, 0.95, 180, 360)),
        ("dark", _ellipse(0, 0.1, 0.36, 0.95, 180, 360)),
    ],
}

#: Where the groups of a scene stand; the first of "beside" and "row" is leftmost, of all other layouts uppermost.
LAYOUTS: dict[str, tuple[Box, ...]] = {
    "centre": ((0.5, 0.5, 0.92, 0.92),),
    "left": ((0.26, 0.5, 0.5, 0.92),),
    "right": ((0.74, 0.5, 0.5, 0.92),),
    "top": ((0.5, 0.26, 0.92, 0.5),),
    "bottom": ((0.5, 0.74, 0.92, 0.5),),
    "top left": ((0.27, 0.27, 0.5, 0.5),),
    "top right": ((0.73, 0.27, 0.5, 0.5),),
    "bottom left": ((0.27, 0.73, 0.5, 0.5),),
    "bottom right": ((0.73, 0.73, 0.5, 0.5),),
    "beside": ((0.255, 0.5, 0.49, 0.9), (0.745, 0.5, 0.49, 0.9)),
    "above": ((0.5, 0.255, 0.9, 0.49), (0.5, 0.745, 0.9, 0.49)),
    "row": ((0.18, 0.5, 0.32, 0.9), (0.5, 0.5, 0.32, 0.9), (0.82, 0.5, 0.32, 0.9)),
    "column": ((0.5, 0.18, 0.9, 0.32), (0.5, 0.5, 0.9, 0.32), (0.5, 0.82, 0.9, 0.32)),
    "pyramid": ((0.5, 0.26, 0.9, 0.47), (0.26, 0.74, 0.48, 0.47), (0.74, 0.74, 0.48, 0.47)),
}
ROWS: dict[int, tuple[tuple[int, ...], ...]] = {  # ways to arrange this many things in rows
    1: ((1,),),
    2: ((2,), (1, 1)),
    3: ((1, 2), (3,), (1, 1, 1)),
    4: ((2, 2), (4,), (1, 1, 1, 1)),
}


def slots(box: Box, group: Group) -> tuple[list[tuple[float, float]], float]:
    """Centres of the group's things and their radius, in units of the side, arranged so that the radius is largest."""
    x, y, width, height = box
    rows = max(ROWS[group.count], key=lambda rows: min(width / max(rows), height / len(rows)))
    step = min(width / max(rows), height / len(rows))
    centres = [
        (x + step * (i - (across - 1) / 2), y + step * (j - (len(rows) - 1) / 2))
        for j, across in enumerate(rows)
        for i in range(across)
    ]
    return centres, step / 2 * (0.55 if group.small else 0.92)


_U = np.linspace(0, 1, CANVAS, endpoint=False, dtype=np.float32)[None, :]  # across
_V = _U.T  # down


def _wave(t: Floats, phase: float) -> Floats:
    return ((t + phase) % 1 < 0.5).astype(np.float32)


def _speckle(rng: Rng) -> Floats:
    return (rng.random((CANVAS // 8, CANVAS // 8)) < 0.4).astype(np.float32).repeat(8, 0).repeat(8, 1)


def _dots(phase: float) -> Floats:
    u, v = (5 * _U + phase) % 1 - 0.5, (5 * _V + phase) % 1 - 0.5
    return (u**2 + v**2 < 0.1).astype(np.float32)


def _bricks(phase: float) -> Floats:
    v = 6 * _V + phase
    across = (3 * _U + 0.5 * (v // 1 % 2)) % 1
    return ((v % 1 < 0.16) | (across < 0.08)).astype(np.float32)


#: The share of the second colour in each pixel of the background (broadcast over it), given a phase in [0, 1).
TEXTURES: dict[str, Callable[[float, Rng], Floats]] = {
    "plain": lambda phase, rng: np.zeros((1, 1), np.float32),
    "horizontal stripes": lambda phase, rng: _wave(5 * _V, phase),
    "vertical stripes": lambda phase, rng: _wave(5 * _U, phase),
    "diagonal stripes": lambda phase, rng: _wave(4 * (_U + _V), phase),
    "checks": lambda phase, rng: np.abs(_wave(2.5 * _U, phase) - _wave(2.5 * _V, phase)),
    "dots": lambda phase, rng: _dots(phase),
    "gradient": lambda phase, rng: _V,
    "speckles": lambda phase, rng: _speckle(rng),
    "bricks": lambda phase, rng: _bricks(phase),
    "waves": lambda phase, rng: _wave(5 * _V + 0.25 * np.sin(6 * np.pi * (_U + phase)), phase),
    "rings": lambda phase, rng: _wave(6 * np.hypot(_U - 0.5, _V - 0.5), phase),
}


def sample_scene(rng: Rng) -> Scene:
    """Draw a random scene: the groups differ in kind, and none has a colour of the background."""
    number = int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
    layouts = [name for name, boxes in LAYOUTS.items() if len(boxes) == number]
    main, second, *others = (str(c) for c in rng.permutation(list(COLOURS)))
    groups = tuple(
        Group(str(kind), colour, int(rng.choice([1, 2, 3, 4], p=[0.55, 0.2, 0.13, 0.12])), bool(rng.random() < 0.2))
        for kind, colour in zip(rng.permutation(list(SHAPES))[:number], others, strict=False)
    )
    return Scene(str(rng.choice(list(TEXTURES))), (main, second), str(rng.choice(layouts)), groups)


def _blend(colour: tuple[int, ...], towards: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round((1 - share) * c + share * t) for c, t in zip(colour, towards, strict=True))


def _paint(draw: ImageDraw.ImageDraw, kind: str, colour: str, centre: Floats, radius: float, angle: float) -> None:
    main = COLOURS[colour]
    tones = {
        **FIXED,
        "main": main,
        "dark": _blend(main, (0, 0, 0), 0.3) if colour != "black" else (70, 70, 78),
        "light": _blend(main, (255, 255, 255), 0.55),
    }
    outline = FIXED["ink"] if colour != "black" else (225, 225, 225)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for tone, polygon in SHAPES[kind]:
        corners = [(x, y) for x, y in (polygon @ turn * radius + centre).tolist()]
        draw.polygon(corners, fill=tones[tone])
        draw.line([*corners, corners[0]], fill=outline, width=3)


def draw_picture(scene: Scene, rng: Rng) -> Image.Image:
    """Draw the scene once, as a (SIDE, SIDE) RGB image: phases, tints, positions and tilts vary slightly with `rng`."""
    tint = rng.integers(-10, 11, (2, 3))
    back, front = (
        tuple(int(c) for c in np.clip(np.array(COLOURS[name]) + shift, 0, 255))
        for name, shift in zip(scene.colours, tint, strict=True)
    )
    size = (CANVAS, CANVAS)
    share = np.broadcast_to(TEXTURES[scene.texture](rng.random(), rng), size)
    mask = Image.fromarray((255 * share).astype(np.uint8))
    picture = Image.composite(Image.new("RGB", size, front), Image.new("RGB", size, back), mask)
    draw = ImageDraw.Draw(picture)
    for box, group in zip(LAYOUTS[scene.layout], scene.groups, strict=True):
        centres, radius = slots(box, group)
        shift = rng.uniform(-0.015, 0.015, 2)
        for centre in centres:
            size_now, angle = CANVAS * radius * rng.uniform(0.92, 1.0), rng.uniform(-0.15, 0.15)
            _paint(draw, group.kind, group.colour, CANVAS * (np.array(centre) + shift), size_now, angle)
    return picture.reduce(CANVAS // SIDE)
