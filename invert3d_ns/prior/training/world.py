"""The procedural world: captioned, coloured objects, drawn from a seed, and their exact renders.

Own renderer (sphere tracing in C), because a training set of 100,000 views with masks, depth and part labels has to
come from the package alone, in minutes on two cores, with no mesh assets and no OpenGL context.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.errors import InputError
from invert3d_ns.prior.training.shapes import CLASSES, PRIMITIVE_FLOATS, UNSEEN_CLASSES, pack
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10), "orange": (1.00, 0.52, 0.05), "yellow": (0.98, 0.88, 0.12), "green": (0.13, 0.65, 0.18),
    "cyan": (0.10, 0.80, 0.85), "blue": (0.12, 0.25, 0.90), "purple": (0.52, 0.15, 0.72), "pink": (1.00, 0.55, 0.75),
    "brown": (0.45, 0.26, 0.12), "gray": (0.55, 0.55, 0.57), "black": (0.09, 0.09, 0.10), "white": (0.97, 0.97, 0.97),
}  # fmt: skip
"""RGB in [0, 1] of every colour that captions name."""
PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": (), "striped": ("striped",), "spotted": ("spotted", "dotted"), "checkered": ("checkered",),
}  # fmt: skip
"""Patterns and the words for them."""
SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"), "cube": ("cube", "box"), "ring": ("ring", "donut"), "mug": ("mug", "cup"),
    "car": ("car", "toy car"),
}  # fmt: skip
"""Other words for a class; the class's own name where none is given."""
LIGHT = (-0.45, -0.65, 0.61)
"""Direction to the light, in the object frame (from the front, left and above)."""


@dataclass(frozen=True)
class WorldObject:
    """One object: what it is, and how the renderer sees it."""

    name: str
    """Class."""
    colour: str
    """Colour of the largest part."""
    pattern: str
    second: str | None
    """Colour of the pattern or of the named part."""
    part: str | None
    """The part that has the second colour."""
    primitives: Float[np.ndarray, "P 32"]

    def caption(self, rng: np.random.Generator) -> str:
        """A description in one of several wordings; details are sometimes left out, class and colour never."""
        words = SYNONYMS.get(self.name, (self.name,))
        noun = words[0] if rng.random() < 0.7 else words[rng.integers(len(words))]
        adjectives = self.colour
        if self.pattern != "plain":
            adjectives += " " + PATTERNS[self.pattern][rng.integers(len(PATTERNS[self.pattern]))]
        tail = ""
        if self.second is not None and rng.random() < 0.8:
            what = self.part or {"striped": "stripes", "spotted": "spots", "checkered": "checks"}[self.pattern]
            one = what == self.part and not what.endswith("s")
            tail = f" with {_article(self.second) if one else ''}{self.second} {what}"
        article = _article(adjectives).strip()
        form = rng.random()
        if form < 0.55:
            return f"{article} {adjectives} {noun}{tail}"
        if form < 0.7:
            return f"{adjectives} {noun}{tail}"
        if form < 0.85:
            return f"a photo of {article} {adjectives} {noun}{tail}"
        return f"a {noun} that is {adjectives}{tail}"


def held_out(name: str, colour: str) -> bool:
    """Whether a combination of class and colour of the largest part is kept from training (one in ten, for ever)."""
    return hashlib.sha256(f"{name}/{colour}".encode()).digest()[0] < 26


def sample_object(
    rng: np.random.Generator,
    *,
    name: str | None = None,
    colour: str | None = None,
    plain: bool = False,
    split: str = "train",
) -> WorldObject:
    """Draw an object.

    Args:
        rng: source of every choice.
        name: class, seen or unseen; drawn from the seen ones when not given.
        colour: colour of the largest part; drawn when not given.
        plain: one colour, no pattern.
        split: "train" and "held-out" draw combinations from that side of :func:`held_out`; "any" from both.
    """
    names, colours = list(CLASSES), list(COLOURS)
    while True:
        chosen = name or names[rng.integers(len(names))]
        main = colour or colours[rng.integers(len(colours))]
        if (
            split == "any"
            or (name is not None and colour is not None)
            or held_out(chosen, main) == (split == "held-out")
        ):
            break
    shape = (CLASSES | UNSEEN_CLASSES)[chosen](rng)
    parts = list(dict.fromkeys(p.part for p in shape.primitives))
    tint = lambda c: tuple(np.clip(np.array(COLOURS[c]) * rng.uniform(0.9, 1.1) + rng.uniform(-0.03, 0.03, 3), 0, 1))  # noqa: E731
    body = tint(main)
    paint = dict.fromkeys(parts, body)
    second, part, pattern = None, None, "plain"
    draw = 0.0 if plain else rng.random()
    if draw > 0.75:
        pattern = list(PATTERNS)[rng.integers(1, len(PATTERNS))]
        second = _other_colour(rng, main)
    elif draw > 0.4 and shape.second:
        part = shape.second[rng.integers(min(2, len(shape.second)))]
        second = _other_colour(rng, main)
        paint[part] = tint(second)
    rows = pack(
        shape,
        paint,
        second_colour=tint(second) if second else (1.0, 1.0, 1.0),
        pattern=list(PATTERNS).index(pattern),
        pattern_parts=tuple(parts),
        frequency=rng.uniform(3.0, 4.5) if pattern != "spotted" else rng.uniform(2.6, 3.6),
        radius=OBJECT_RADIUS * rng.uniform(0.88, 1.0),
        yaw=rng.uniform(-12, 12),
    )
    return WorldObject(chosen, main, pattern, second, part, rows)


def _article(words: str) -> str:
    return "an " if words[0] in "aeiou" else "a "


def _other_colour(rng: np.random.Generator, colour: str) -> str:
    return [c for c in COLOURS if c != colour][rng.integers(len(COLOURS) - 1)]


@dataclass
class Renders:
    """Views of several objects. Every array starts with (objects, views, height, width)."""

    rgb: UInt8[np.ndarray, "O F H W 3"]
    """Composited on white."""
    alpha: UInt8[np.ndarray, "O F H W"]
    depth: Float[np.ndarray, "O F H W"]
    """Along the optical axis, in world units; 0 where empty."""
    normals: Float[np.ndarray, "O F H W 3"]
    """Object frame, unit length; 0 where empty."""
    parts: UInt8[np.ndarray, "O F H W"]
    """Index of the part; 255 where empty."""


def render(
    objects: Sequence[WorldObject],
    camera_to_world: Float[Tensor, "O F 4 4"],
    size: int = 64,
    *,
    samples: int = 2,
    threads: int | None = None,
) -> Renders:
    """Sphere-trace views of objects.

    Args:
        objects: what to render.
        camera_to_world: OpenGL camera axes, object frame.
        size: pixels of the square image.
        samples: rays a pixel, along each side.
        threads: worker threads; torch's number when not given.

    Raises:
        InputError: the package was installed without a C compiler.
    """
    library = _library()
    count, views = camera_to_world.shape[:2]
    most = max(len(o.primitives) for o in objects)
    table = np.zeros((count, most, PRIMITIVE_FLOATS), np.float32)
    for row, item in zip(table, objects, strict=True):
        row[: len(item.primitives)] = item.primitives
    counts = np.array([len(o.primitives) for o in objects], np.int32)
    cameras = np.ascontiguousarray(camera_to_world.numpy(), np.float32)
    shape = (count, views, size, size)
    rgba, parts = np.empty((*shape, 4), np.uint8), np.empty(shape, np.uint8)
    depth, normals = np.empty(shape, np.float32), np.empty((*shape, 3), np.float32)
    light = np.array(LIGHT, np.float32)
    pointer = lambda a: ctypes.c_void_p(a.ctypes.data)  # noqa: E731
    library.sdf_render(
        pointer(table), pointer(counts), most, pointer(cameras), count, views, size, samples,
        ctypes.c_float(math.tan(math.radians(FOV_Y) / 2)), pointer(light), pointer(rgba), pointer(depth),
        pointer(normals), pointer(parts), threads or torch.get_num_threads(),
    )  # fmt: skip
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return Renders(rgba[..., :3], rgba[..., 3], depth, normals, parts)


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("invert3d_ns.prior.training._sdf")
    if spec is None or spec.origin is None:
        raise InputError(
            "the renderer of the training world was not compiled; "
            "install a C compiler and reinstall with `pip install -e .`"
        )
    return ctypes.CDLL(spec.origin)
