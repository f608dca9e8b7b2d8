"""Captions for drawn scenes: always true, in varied wording, and as detailed or as brief as people write them."""

from __future__ import annotations

from pairclean.synthetic.drawing import LAYOUTS, Group, Rng, Scene, slots

NOUNS = {  # singular and plural, the usual word first
    "ball": [("ball", "balls"), ("circle", "circles")],
    "box": [("box", "boxes"), ("square", "squares")],
    "triangle": [("triangle", "triangles")],
    "star": [("star", "stars")],
    "heart": [("heart", "hearts")],
    "house": [("house", "houses"), ("cottage", "cottages")],
    "tree": [("tree", "trees"), ("fir tree", "fir trees")],
    "fish": [("fish", "fish")],
    "cup": [("cup", "cups"), ("mug", "mugs")],
    "car": [("car", "cars")],
    "sun": [("sun", "suns")],
    "moon": [("moon", "moons"), ("crescent moon", "crescent moons")],
    "flower": [("flower", "flowers"), ("blossom", "blossoms")],
    "boat": [("boat", "boats"), ("sailing boat", "sailing boats")],
    "mushroom": [("mushroom", "mushrooms"), ("toadstool", "toadstools")],
    "umbrella": [("umbrella", "umbrellas"), ("parasol", "parasols")],
}
COLOUR_WORDS = {"purple": ["purple", "violet"], "turquoise": ["turquoise", "teal"], "grey": ["grey", "gray"]}
SIZE_WORDS = {"small": ["small", "little", "tiny"], "big": ["big", "large"]}
COUNT_WORDS = {2: ["two", "two", "2", "a pair of"], 3: ["three", "three", "3"], 4: ["four", "four", "4"]}
PLACES = {
    "centre": ["in the middle", "in the centre", "at the center"],
    "left": ["on the left", "on the left side", "to the left"],
    "right": ["on the right", "on the right side", "to the right"],
    "top": ["at the top", "in the upper half", "near the top"],
    "bottom": ["at the bottom", "in the lower half", "near the bottom"],
    "top left": ["in the top left corner", "at the upper left", "top left"],
    "top right": ["in the top right corner", "at the upper right", "top right"],
    "bottom left": ["in the bottom left corner", "at the lower left", "bottom left"],
    "bottom right": ["in the bottom right corner", "at the lower right", "bottom right"],
}
RELATIONS = {  # a is the first group, b the second
    "beside": [
        "{a} to the left of {b}",
        "{a} left of {b}",
        "{b} to the right of {a}",
        "{a} on the left and {b} on the right",
        "{a} next to {b}",
        "{b} beside {a}",
        "{a} and {b} side by side",
    ],
    "above": [
        "{a} above {b}",
        "{a} over {b}",
        "{b} below {a}",
        "{b} under {a}",
        "{a} at the top and {b} at the bottom",
        "{a} and {b}, one above the other",
    ],
    "row": ["{a}, {b} and {c} in a row", "from left to right {a}, {b} and {c}", "{b} between {a} and {c}"],
    "column": ["{a}, {b} and {c} from top to bottom", "{a} above {b} above {c}", "{b} between {a} and {c}"],
    "pyramid": ["{a} above {b} and {c}", "{b} and {c} below {a}", "{a} at the top, {b} and {c} underneath"],
}
GROUNDS = {  # words for the background; c is its main colour, d the second
    "plain": ["a {c} background", "a plain {c} background", "{c}", "a solid {c} backdrop"],
    "horizontal stripes": ["horizontal {c} and {d} stripes", "a {c} and {d} background with horizontal stripes"],
    "vertical stripes": ["vertical {c} and {d} stripes", "a {c} and {d} background with vertical stripes"],
    "diagonal stripes": ["diagonal {c} and {d} stripes", "a {c} and {d} background with diagonal stripes"],
    "checks": ["a {c} and {d} checkerboard", "{c} and {d} checks", "a checked {c} and {d} background"],
    "dots": ["{c} with {d} dots", "a {c} background with {d} polka dots", "a dotted {c} and {d} background"],
    "gradient": ["a {c} to {d} gradient", "a background fading from {c} to {d}", "a gradient from {c} to {d}"],
    "speckles": ["speckled {c} and {d}", "a noisy {c} and {d} background", "a speckled {c} and {d} background"],
    "bricks": ["a {c} brick wall", "a wall of {c} bricks with {d} joints", "{c} bricks and {d} mortar"],
    "waves": ["wavy {c} and {d} lines", "{c} and {d} waves", "a {c} and {d} background with wavy stripes"],
    "rings": ["{c} and {d} rings", "a target of {c} and {d} rings", "concentric {c} and {d} rings"],
}
SENTENCES = [  # s describes what is visible; most captions just name it
    "{s}",
    "{s}",
    "{s}",
    "a picture of {s}",
    "a drawing of {s}",
    "an illustration showing {s}",
    "{there} {s}",
    "we see {s}",
]


def pick(rng: Rng, words: list[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _colour(rng: Rng, colour: str) -> str:
    return pick(rng, COLOUR_WORDS.get(colour, [colour]))


def _sizes(scene: Scene) -> list[str]:
    """'small', 'big' or '' for each group: only where it is true of the picture and compared with the other groups."""
    radii = [slots(box, group)[1] for box, group in zip(LAYOUTS[scene.layout], scene.groups, strict=True)]
    return [
        "small" if r <= 0.14 and group.small and r == min(radii) else "big" if r >= 0.2 and r == max(radii) else ""
        for r, group in zip(radii, scene.groups, strict=True)
    ]


def _things(rng: Rng, group: Group, size: str) -> str:
    """'a big red ball', 'three houses in blue'; the size is named only sometimes."""
    size = f"{pick(rng, SIZE_WORDS[size])} " if size and rng.random() < 0.6 else ""
    nouns = NOUNS[group.kind]
    one, many = nouns[int(rng.integers(len(nouns)))]
    noun, colour = (one if group.count == 1 else many), _colour(rng, group.colour)
    named = f"{size}{noun} in {colour}" if rng.random() < 0.08 else f"{size}{colour} {noun}"
    if group.count > 1:
        return f"{pick(rng, COUNT_WORDS[group.count])} {named}"
    return f"{'an' if named[0] in 'aeiou' else 'a'} {named}"


def caption_scene(scene: Scene, rng: Rng) -> str:
    """A caption in random wording that is true of the scene; one in eight does not mention the background.

    >>> import numpy as np
    >>> from pairclean.synthetic.drawing import Group, Scene
    >>> scene = Scene("plain", ("white", "red"), "centre", (Group("ball", "blue", 1),))
    >>> caption_scene(scene, np.random.default_rng(3))
    'on white, a big blue ball in the middle.'
    """
    phrases = [_things(rng, group, size) for group, size in zip(scene.groups, _sizes(scene), strict=True)]
    if scene.layout in RELATIONS:
        seen = pick(rng, RELATIONS[scene.layout]).format(**dict(zip("abc", phrases, strict=False)))
    else:
        seen = phrases[0] if rng.random() < 0.15 else f"{phrases[0]} {pick(rng, PLACES[scene.layout])}"
    first = min(range(len(phrases)), key=lambda i: seen.index(phrases[i]))
    there = "there is" if scene.groups[first].count == 1 else "there are"
    text = pick(rng, SENTENCES).format(s=seen, there=there)
    if rng.random() < 0.87:
        c, d = (_colour(rng, name) for name in scene.colours)
        ground = pick(rng, GROUNDS[scene.texture]).format(c=c, d=d)
        ground = ground.replace("a orange", "an orange")
        text = f"on {ground}, {text}" if rng.random() < 0.25 else f"{text} {pick(rng, ['on', 'against'])} {ground}"
    if rng.random() < 0.35:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.2 else text
