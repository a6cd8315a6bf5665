"""Primitives that shapes of the procedural world are built of, and their layout for the renderer.

A shape is built z-up with its front facing -y (azimuth 0 of :mod:`invert3d_ns.scenes.cameras`), in units of its own;
:func:`pack_primitives` centers it and scales it to the radius that every scene is normalized to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

Kind = Literal["ellipsoid", "box", "cone", "torus", "cup", "prism"]
KINDS: tuple[Kind, ...] = ("ellipsoid", "box", "cone", "torus", "cup", "prism")
PRIMITIVE_FLOATS = 32
"""Numbers that describe one primitive to the renderer (layout in ``csrc/sdf.c``)."""


@dataclass
class Primitive:
    """One solid: a kind, where it stands, its half sizes, and the part of the object that it belongs to."""

    kind: Kind
    center: tuple[float, float, float]
    size: tuple[float, ...]
    """ellipsoid: semi-axes; box: half extents; cone: radius at the bottom, at the top, half height; torus: radius of
    the ring, of the tube; cup: as cone, and thickness of the wall; prism: half width at the base, half length, half
    height."""
    part: str = "body"
    """Name of the part; parts of one name share a color."""
    rounding: float = 0.02
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotations about x, y, z in degrees, in that order."""

    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Local to object axes."""
        a, b, c = np.radians(self.turn)
        rx = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        ry = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
        rz = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
        return rz @ ry @ rx

    def half_extents(self) -> tuple[float, float, float]:
        """Half sizes of the local axis-aligned box."""
        s = self.size
        if self.kind == "torus":
            return s[0] + s[1], s[0] + s[1], s[1]
        if self.kind in ("cone", "cup"):
            return max(s[0], s[1]), max(s[0], s[1]), s[2]
        return s[0], s[1], s[2]

    def support(self) -> Float[np.ndarray, "P 3"]:
        """Points whose hull encloses the solid closely, in object coordinates."""
        x, y, z = self.half_extents()
        turn = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        if self.kind == "box":
            local = np.array([(i, j, k) for i in (-x, x) for j in (-y, y) for k in (-z, z)])
        elif self.kind == "prism":
            local = np.array([(i, j, -z) for i in (-x, x) for j in (-y, y)] + [(0, -y, z), (0, y, z)])
        elif self.kind == "ellipsoid":
            latitudes = np.radians([-90, -60, -30, 0, 30, 60, 90])
            local = np.array(
                [
                    (x * math.cos(p) * math.cos(t), y * math.cos(p) * math.sin(t), z * math.sin(p))
                    for p in latitudes
                    for t in turn
                ]
            )
        elif self.kind == "torus":
            local = np.array([(x * math.cos(t), y * math.sin(t), k) for k in (-z, z) for t in turn])
        else:
            ends = ((self.size[0], -z), (self.size[1], z))
            local = np.array([(r * math.cos(t), r * math.sin(t), k) for r, k in ends for t in turn])
        return local @ self.rotation().T + np.array(self.center)


@dataclass
class Shape:
    """The primitives of one object and which of its parts a caption may name, most telling first."""

    primitives: list[Primitive]
    second: tuple[str, ...] = field(default=())
    """Parts that may take a second color, by the names that captions use; never the largest, which has the object's
    color."""
    main: str | None = None
    """What captions may call the largest part, as in "a chair with a red seat and black legs"."""


def pack_primitives(
    shape: Shape,
    colors: dict[str, tuple[float, float, float]],
    *,
    second_color: tuple[float, float, float] = (1.0, 1.0, 1.0),
    pattern: int = 0,
    pattern_parts: tuple[str, ...] = (),
    frequency: float = 3.0,
    radius: float = 0.9,
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
    material: int = 0,
) -> Float[np.ndarray, "P 32"]:
    """Center a shape, scale it to a bounding sphere of ``radius``, and lay it out for the renderer.

    Args:
        shape: the object, in units of its own.
        colors: RGB in [0, 1] of each part.
        second_color: RGB in [0, 1] of the pattern.
        pattern: 0 plain, 1 stripes, 2 dots, 3 checks.
        pattern_parts: names of the parts that carry the pattern.
        frequency: repeats of the pattern per world unit after scaling.
        radius: of the bounding sphere, in world units.
        turn: rotation of the whole object about x, y and z, in that order, in degrees.
        material: 0 matte, 1 shiny, 2 metallic.
    """
    points = np.concatenate([p.support() for p in shape.primitives])
    center = (points.min(0) + points.max(0)) / 2
    scale = radius / np.linalg.norm(points - center, axis=1).max()
    pose = Primitive("box", (0, 0, 0), (1, 1, 1), turn=turn).rotation()
    names = list(dict.fromkeys(p.part for p in shape.primitives))
    rows = np.zeros((len(shape.primitives), PRIMITIVE_FLOATS), np.float32)
    for row, p in zip(rows, shape.primitives, strict=True):
        size = np.array((*p.size, 0, 0, 0, 0)[:4]) * scale
        row[0] = KINDS.index(p.kind)
        row[1:4] = pose @ ((np.array(p.center) - center) * scale)
        row[4:13] = (pose @ p.rotation()).ravel()
        row[13:17] = size
        row[17] = min(p.rounding * scale, 0.5 * size[:3][size[:3] > 0].min())
        row[18:21] = colors[p.part]
        row[21:24] = second_color
        row[24] = pattern if p.part in pattern_parts else 0
        row[25] = frequency
        row[26] = names.index(p.part)
        row[27] = np.linalg.norm(p.half_extents()) * scale
        row[28] = material
    return rows
