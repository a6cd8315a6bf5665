"""The procedural world: captioned, colored objects, drawn from a seed, and their exact renders.

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

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS
from invert3d_ns.world.captions import MATERIALS, PATTERNS, SYNONYMS, describe, varied_caption
from invert3d_ns.world.primitives import PRIMITIVE_FLOATS, pack
from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES
from invert3d_ns.world.styles import STYLES

__all__ = [
    "COLORS",
    "MATERIALS",
    "PATTERNS",
    "STYLES",
    "SYNONYMS",
    "Renders",
    "WorldObject",
    "held_out",
    "render",
    "sample_object",
]

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.88, 0.12),
    "green": (0.13, 0.65, 0.18),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.12, 0.25, 0.90),
    "purple": (0.52, 0.15, 0.72),
    "pink": (1.00, 0.55, 0.75),
    "brown": (0.45, 0.26, 0.12),
    "gray": (0.55, 0.55, 0.57),
    "black": (0.09, 0.09, 0.10),
    "white": (0.97, 0.97, 0.97),
}
"""RGB in [0, 1] of every color that captions name."""
PHOTO_SHARE, PATTERN_SHARE, PART_SHARE = 0.4, 0.4, 0.6
"""Shares of objects that are drawn as photos, that have a pattern, and of plain ones with a part in a color of its
own."""
LIGHT = (-0.45, -0.65, 0.61)
"""Direction to the light, in the object frame (from the front, left and above)."""


@dataclass(frozen=True)
class WorldObject:
    """One object: what it is, and how the renderer sees it."""

    name: str
    """Class."""
    color: str
    """Color of the largest part."""
    pattern: str
    second: str | None
    """Color of the pattern or of the named part."""
    part: str | None
    """The part that has the second color."""
    primitives: Float[np.ndarray, "P 32"]
    style: str = "photo"
    """Name in STYLES; the renderer draws every object as a photo, :mod:`.styles` turns that into the style."""
    material: str = "matte"
    size: str = "normal"
    pose: str = "upright"
    main: str | None = None
    """What captions may call the largest part."""

    def caption(self, rng: np.random.Generator) -> str:
        """One of many wordings; details are left out at times."""
        return varied_caption(self, rng)

    def description(self) -> str:
        """Everything that captions can say of the object, always in the same words."""
        return describe(self)


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
    """Draw an object.

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
    tint = lambda c: tuple(np.clip(np.array(COLORS[c]) * rng.uniform(0.9, 1.1) + rng.uniform(-0.03, 0.03, 3), 0, 1))  # noqa: E731
    paint = dict.fromkeys(parts, tint(main))
    second = part = None
    if print_ != "plain":
        second = _pattern_color(rng, main)
    elif not plain and shape.second and rng.random() < PART_SHARE:
        part = shape.second[rng.integers(min(2, len(shape.second)))]
        second = pick([c for c in COLORS if c != main])
        paint[part] = tint(second)
    material = "matte" if plain or rng.random() < 0.7 else pick(("shiny", "metallic"))
    steady = plain or upright or rng.random() < 0.85
    size = "normal" if steady or rng.random() < 0.5 else "small"
    pose = "upright" if steady or size == "small" else pick(("upside down", "lying"))
    rows = pack(
        shape,
        paint,
        second_color=tint(second) if second else (1.0, 1.0, 1.0),
        pattern=list(PATTERNS).index(print_),
        pattern_parts=tuple(parts),
        frequency=rng.uniform(3.0, 4.2) if print_ != "spotted" else rng.uniform(2.1, 2.8),
        radius=OBJECT_RADIUS * (rng.uniform(0.88, 1.0) if size == "normal" else rng.uniform(0.58, 0.68)),
        turn=({"upright": 0.0, "upside down": 180.0, "lying": -90.0}[pose], 0.0, rng.uniform(-12, 12)),
        material=list(MATERIALS).index(material),
    )
    return WorldObject(chosen, main, print_, second, part, rows, look, material, size, pose, shape.main)


def _pattern_color(rng: np.random.Generator, main: str) -> str:
    """Color of a pattern: white or black on most colors, so that it is plain which of the two is the object's."""
    if main in ("white", "black"):
        options = [c for c in COLORS if c not in ("white", "black", "gray")]
        return options[rng.integers(len(options))]
    return "white" if rng.random() < 0.75 else "black"


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
        pointer(table),
        pointer(counts),
        most,
        pointer(cameras),
        count,
        views,
        size,
        samples,
        ctypes.c_float(math.tan(math.radians(FOV_Y) / 2)),
        pointer(light),
        pointer(rgba),
        pointer(depth),
        pointer(normals),
        pointer(parts),
        threads or torch.get_num_threads(),
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return Renders(rgba[..., :3], rgba[..., 3], depth, normals, parts)


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("invert3d_ns.world._sdf")
    if spec is None or spec.origin is None:
        raise InputError(
            "the renderer of the training world was not compiled; "
            "install a C compiler and reinstall with `pip install -e .`"
        )
    return ctypes.CDLL(spec.origin)
