"""Drawn region features and captions with a known structure, for measurements and tests without any data set.

A scene has a topic (their sizes fall as in Zipf's law) and shows `SHOWN` things: most are typical of the topic, some
are any. A region shows one of the scene's things, or the background, with noise of its own. The caption names most of
the things in any order, after a word that says nothing. A few captions name a single thing;
a few pairs of the training data show the picture of another pair.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from .data import END, SPECIAL, START, Ints, RegionCaptions
from .networks import Architecture

THINGS, TOPICS, TYPICAL = 24, 12, 8
SHOWN, OF_TOPIC = 5, 3  # things of a scene, and how many of them are typical of its topic
NAMED = 4  # things that a caption names
REGIONS, DIM = 8, 24
NOISE = 0.5  # length of a region's noise over that of what it shows
BACKGROUND, GENERIC, COPIED = 0.3, 0.02, 0.06
FILLERS = 10
WORDS = len(SPECIAL) + THINGS + FILLERS


def architecture(module: Literal["SGR", "SAF"]) -> Architecture:
    """A small model for these features."""
    return Architecture(
        words=WORDS,
        module=module,
        image_dim=DIM,
        word_dim=16,
        joint_dim=32,
        similarity_dim=16,
        regions=REGIONS,
    )


def draw(images: int, seed: int, *, copies: bool = False) -> RegionCaptions:
    """Pairs of one image and its caption, all right.  The same things and topics are drawn for all seeds.

    copies: whether a few pairs repeat the picture of another, each with a caption of its own.
    """
    world, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
    prototype = _unit(world.standard_normal((THINGS, DIM)))
    background = _unit(world.standard_normal((4, DIM)))
    typical = np.stack([world.permutation(THINGS)[:TYPICAL] for _ in range(TOPICS)])
    popularity = 1 / np.arange(1, TOPICS + 1) ** 0.7
    topic = rng.choice(TOPICS, images, p=popularity / popularity.sum())
    scene = np.stack([_scene(typical[t], rng) for t in topic])

    shown = np.take_along_axis(scene, rng.integers(0, SHOWN, (images, REGIONS)), 1)
    features = prototype[shown]
    empty = rng.random((images, REGIONS)) < BACKGROUND
    features[empty] = background[rng.integers(0, len(background), empty.sum())]
    features = features + NOISE * rng.standard_normal(features.shape) / DIM**0.5
    captions = [_caption(things, rng) for things in scene]
    of = np.arange(images)
    if copies:
        repeated = np.flatnonzero(rng.random(images) < COPIED)
        of[repeated] = rng.choice(np.setdiff1d(of, repeated), len(repeated))
        captions = [_caption(scene[i], rng) if i != j else captions[j] for j, i in enumerate(of)]
    return RegionCaptions(features.astype(np.float32), captions, of)


def _scene(typical: Ints, rng: np.random.Generator) -> Ints:
    own = rng.permutation(typical)[:OF_TOPIC]
    other = rng.permutation(np.setdiff1d(np.arange(THINGS), own))[: SHOWN - OF_TOPIC]
    return np.concatenate([own, other])


def _caption(things: Ints, rng: np.random.Generator) -> Ints:
    named = rng.permutation(things)[: 1 if rng.random() < GENERIC else NAMED]
    words = len(SPECIAL) + named
    filler = WORDS - 1 - rng.integers(FILLERS)
    return np.array([START, filler, *words, END], np.int64)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
