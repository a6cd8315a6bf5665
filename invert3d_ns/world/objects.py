"""Objects of the procedural world: what one is, which combinations training holds back, and drawing one from a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.world.primitives import pack_primitives
from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES
from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERNS, STYLES

PHOTO_SHARE, PATTERN_SHARE, PART_SHARE = 0.4, 0.4, 0.6
"""Shares of objects that are drawn as photos, that have a pattern, and of plain ones with a part in a color of its
own."""


@dataclass(frozen=True)
class WorldObject:
    """One object: its attributes in words of :mod:`.vocabulary`, and the primitives that the renderer takes."""

    name: str
    """Class, a key of CLASSES or UNSEEN_CLASSES."""
    color: str
    """Color of the largest part."""
    pattern: str
    """Key of PATTERNS."""
    second: str | None
    """Color of the pattern or of the named part."""
    part: str | None
    """The part that has the second color."""
    primitives: Float[np.ndarray, "P 32"]
    """As :func:`.primitives.pack_primitives` lays them out."""
    style: str = "photo"
    """Key of STYLES; the renderer draws every object as a photo, :mod:`.styles` turns that into the style."""
    material: str = "matte"
    """Key of MATERIALS."""
    size: str = "normal"
    """Key of SIZES."""
    pose: str = "upright"
    """Key of POSES."""
    main: str | None = None
    """What captions may call the largest part."""


def held_out(name: str, color: str, pattern: str = "plain", style: str = "photo") -> bool:
    """Whether a combination is kept from training, for ever: it is decided by hashes of the words.

    One in ten pairs of class and color of the largest part is held out in whatever pattern and style, and so is one
    in ten combinations of all four.
    """
    pair = hashlib.sha256(f"{name}/{color}".encode()).digest()[0] < 26
    return pair or hashlib.sha256(f"{name}/{color}/{pattern}/{style}".encode()).digest()[0] < 26


def sample_object(
    rng: np.random.Generator,
    *,
    name: str | None = None,
    color: str | None = None,
    pattern: str | None = None,
    style: str | None = None,
    plain: bool = False,
    upright: bool = False,
    split: str = "train",
) -> WorldObject:
    """Draw an object at random.

    Args:
        rng: source of every choice.
        name: class, seen or unseen; drawn from the seen ones when not given.
        color: color of the largest part; drawn when not given.
        pattern: drawn when not given: plain in six of ten.
        style: drawn when not given: a photo in four of ten.
        plain: one color, no pattern, matte, upright, of normal size, and a photo unless ``style`` is given.
        upright: of normal size and standing as usual.
        split: "train" and "held-out" draw combinations from that side of :func:`held_out`; "any" from both, and so do
            all when class and color are given.
    """
    names, colors, styles = list(CLASSES), list(COLORS), list(STYLES)
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    while True:
        chosen, main = name or pick(names), color or pick(colors)
        look = style or ("photo" if plain or rng.random() < PHOTO_SHARE else pick(styles[1:]))
        print_ = pattern or ("plain" if plain or rng.random() > PATTERN_SHARE else pick(list(PATTERNS)[1:]))
        if pattern is None and print_ == "checkered" and main in ("white", "black"):
            continue  # white checks on red and red checks on white are one thing
        if (
            split == "any"
            or (name is not None and color is not None)
            or held_out(chosen, main, print_, look) == (split == "held-out")
        ):
            break
    shape = (CLASSES | UNSEEN_CLASSES)[chosen](rng)
    parts = list(dict.fromkeys(p.part for p in shape.primitives))
    paint = dict.fromkeys(parts, tint(rng, main))
    second = part = None
    if print_ != "plain":
        second = pattern_color(rng, main)
    elif not plain and shape.second and rng.random() < PART_SHARE:
        part = shape.second[rng.integers(min(2, len(shape.second)))]
        second = pick([c for c in COLORS if c != main])
        paint[part] = tint(rng, second)
    material = "matte" if plain or rng.random() < 0.7 else pick(("shiny", "metallic"))
    steady = plain or upright or rng.random() < 0.85
    size = "normal" if steady or rng.random() < 0.5 else "small"
    pose = "upright" if steady or size == "small" else pick(("upside down", "lying"))
    rows = pack_primitives(
        shape,
        paint,
        second_color=tint(rng, second) if second else (1.0, 1.0, 1.0),
        pattern=list(PATTERNS).index(print_),
        pattern_parts=tuple(parts),
        frequency=rng.uniform(3.0, 4.2) if print_ != "spotted" else rng.uniform(2.1, 2.8),
        radius=OBJECT_RADIUS * (rng.uniform(0.88, 1.0) if size == "normal" else rng.uniform(0.58, 0.68)),
        turn=({"upright": 0.0, "upside down": 180.0, "lying": -90.0}[pose], 0.0, rng.uniform(-12, 12)),
        material=list(MATERIALS).index(material),
    )
    return WorldObject(chosen, main, print_, second, part, rows, look, material, size, pose, shape.main)


def tint(rng: np.random.Generator, color: str) -> tuple[float, float, float]:
    """Draw a shade of a named color, RGB in [0, 1]."""
    r, g, b = np.clip(np.array(COLORS[color]) * rng.uniform(0.9, 1.1) + rng.uniform(-0.03, 0.03, 3), 0, 1)
    return float(r), float(g), float(b)


def pattern_color(rng: np.random.Generator, main: str) -> str:
    """Draw a pattern's color: white or black on most colors, so that it is plain which of the two is the object's."""
    if main in ("white", "black"):
        options = [c for c in COLORS if c not in ("white", "black", "gray")]
        return options[rng.integers(len(options))]
    return "white" if rng.random() < 0.75 else "black"
