"""Shapes of the procedural world: each class is a function from a random generator to coloured primitives.

A shape is built z-up with its front facing -y (azimuth 0 of :mod:`invert3d_ns.scenes.cameras`), in units of its own;
:func:`pack` centres it and scales it to the radius that every scene is normalised to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Name of the part; parts of one name share a colour."""
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
    """Parts that may take a second colour, by the names that captions use; never the largest, which has the object's
    colour."""


Builder = Callable[[np.random.Generator], Shape]


def _ball(r: np.random.Generator) -> Shape:
    return Shape([Primitive("ellipsoid", (0, 0, 0), (1, 1, 1))])


def _cube(r: np.random.Generator) -> Shape:
    return Shape(
        [Primitive("box", (0, 0, 0), (1, r.uniform(0.9, 1.1), r.uniform(0.9, 1.1)), rounding=r.uniform(0.03, 0.15))]
    )


def _cone(r: np.random.Generator) -> Shape:
    return Shape([Primitive("cone", (0, 0, 0), (r.uniform(0.7, 0.95), 0.04, 1))])


def _cylinder(r: np.random.Generator) -> Shape:
    return Shape([Primitive("cone", (0, 0, 0), (w := r.uniform(0.5, 0.65), w, 1), rounding=0.04)])


def _ring(r: np.random.Generator) -> Shape:
    return Shape([Primitive("torus", (0, 0, 0), (1, r.uniform(0.22, 0.4)), turn=(90 + r.uniform(-10, 10), 0, 0))])


def _mug(r: np.random.Generator) -> Shape:
    h = r.uniform(0.6, 0.8)
    return Shape(
        [
            Primitive("cup", (0, 0, 0), (0.6, r.uniform(0.6, 0.72), h, 0.09)),
            Primitive("torus", (0.72, 0, 0), (h * 0.55, 0.1), "handle", turn=(90, 0, 0)),
        ],
        ("handle",),
    )


def _chair(r: np.random.Generator) -> Shape:
    w, h, leg = r.uniform(0.5, 0.65), r.uniform(0.7, 1.0), r.uniform(0.06, 0.1)
    legs = [
        Primitive("box", (x, y, -0.5), (leg, leg, 0.5), "legs")
        for x in (-w + leg, w - leg)
        for y in (-w + leg, w - leg)
    ]
    seat = Primitive("box", (0, 0, 0), (w, w, 0.09), "seat")
    back = Primitive("box", (0, w - 0.08, h * 0.55), (w, 0.08, h * 0.55), "back")
    return Shape([seat, back, *legs], ("legs", "back"))


def _table(r: np.random.Generator) -> Shape:
    w, d, leg, h = r.uniform(0.85, 1.0), r.uniform(0.6, 0.9), r.uniform(0.07, 0.11), r.uniform(0.45, 0.6)
    legs = [
        Primitive("box", (x, y, -h), (leg, leg, h), "legs") for x in (-w + leg, w - leg) for y in (-d + leg, d - leg)
    ]
    return Shape([Primitive("box", (0, 0, 0), (w, d, 0.09), "top"), *legs], ("legs",))


def _mushroom(r: np.random.Generator) -> Shape:
    w = r.uniform(0.7, 0.95)
    stem = Primitive("cone", (0, 0, -0.45), (r.uniform(0.25, 0.35), 0.22, 0.55), "stem")
    return Shape([Primitive("ellipsoid", (0, 0, 0.2), (w, w, 0.42), "cap"), stem], ("stem",))


def _snowman(r: np.random.Generator) -> Shape:
    low, mid, top = r.uniform(0.58, 0.66), 0.46, r.uniform(0.3, 0.36)
    return Shape(
        [
            Primitive("ellipsoid", (0, 0, -0.6), (low,) * 3),
            Primitive("ellipsoid", (0, 0, 0.18), (mid,) * 3),
            Primitive("ellipsoid", (0, 0, 0.8), (top,) * 3, "head"),
            Primitive("cone", (0, -top - 0.12, 0.8), (0.08, 0.01, 0.16), "nose", turn=(90, 0, 0), rounding=0.005),
        ],
        ("head", "nose"),
    )


def _house(r: np.random.Generator) -> Shape:
    w, d, h = r.uniform(0.6, 0.75), r.uniform(0.6, 0.8), r.uniform(0.4, 0.55)
    roof = Primitive(
        "prism", (0, 0, h + 0.28), (w * 1.2, d * 1.15, 0.28), "roof", turn=(0, 0, 90 if r.random() < 0.3 else 0)
    )
    door = Primitive("box", (0, -d, -h + 0.25), (0.14, 0.03, 0.25), "door", rounding=0.005)
    return Shape([Primitive("box", (0, 0, 0), (w, d, h), "walls"), roof, door], ("roof", "door"))


def _tree(r: np.random.Generator) -> Shape:
    trunk = Primitive("cone", (0, 0, -0.7), (0.15, 0.12, 0.4), "trunk")
    if r.random() < 0.5:
        w = r.uniform(0.55, 0.7)
        crown = [
            Primitive("cone", (0, 0, 0.35 * k - 0.15), (w * (1 - 0.25 * k), 0.03, 0.42), "crown") for k in range(3)
        ]
    else:
        crown = [Primitive("ellipsoid", (0, 0, 0.2), (r.uniform(0.5, 0.65), 0.55, 0.65), "crown")]
    return Shape([*crown, trunk], ("trunk",))


def _car(r: np.random.Generator) -> Shape:
    length, h = r.uniform(0.9, 1.05), r.uniform(0.18, 0.25)
    wheels = [
        Primitive("cone", (x, y, -0.2), (0.2, 0.2, 0.09), "wheels", turn=(90, 0, 0))
        for x in (-0.58, 0.58)
        for y in (-0.42, 0.42)
    ]
    cabin = Primitive("box", (r.uniform(-0.2, 0.1), 0, 2 * h - 0.02), (0.5, 0.38, h), "cabin", rounding=0.1)
    return Shape(
        [Primitive("box", (0, 0, 0.02), (length, 0.45, h), rounding=0.08), cabin, *wheels], ("wheels", "cabin")
    )


def _lamp(r: np.random.Generator) -> Shape:
    return Shape(
        [
            Primitive("cone", (0, 0, 0.6), (r.uniform(0.5, 0.65), r.uniform(0.25, 0.35), 0.35), "shade"),
            Primitive("cone", (0, 0, -0.2), (0.07, 0.07, 0.7), "pole"),
            Primitive("cone", (0, 0, -0.95), (0.42, 0.38, 0.07), "base"),
        ],
        ("base",),
    )


CLASSES: dict[str, Builder] = {
    "ball": _ball, "cube": _cube, "cone": _cone, "cylinder": _cylinder, "ring": _ring, "mug": _mug, "chair": _chair,
    "table": _table, "mushroom": _mushroom, "snowman": _snowman, "house": _house, "tree": _tree, "car": _car,
    "lamp": _lamp,
}  # fmt: skip
"""Classes that the bundled prior is trained on."""


def _robot(r: np.random.Generator) -> Shape:
    limbs = [Primitive("box", (x, 0, -0.85), (0.14, 0.16, 0.35), "legs") for x in (-0.22, 0.22)]
    limbs += [Primitive("box", (x, 0, -0.05), (0.1, 0.12, 0.42), "arms") for x in (-0.58, 0.58)]
    eyes = [Primitive("ellipsoid", (x, -0.3, 0.72), (0.08, 0.06, 0.08), "eyes") for x in (-0.13, 0.13)]
    head = Primitive("box", (0, 0, 0.7), (0.32, 0.28, 0.25), "head", rounding=0.06)
    aerial = Primitive("cone", (0, 0, 1.08), (0.04, 0.04, 0.18), "eyes")
    return Shape(
        [Primitive("box", (0, 0, -0.02), (0.45, 0.28, 0.45), rounding=0.06), head, aerial, *limbs, *eyes],
        ("head", "legs", "arms", "eyes"),
    )


def _rocket(r: np.random.Generator) -> Shape:
    fins = [
        Primitive(
            "box",
            (0.42 * math.cos(a), 0.42 * math.sin(a), -0.75),
            (0.22, 0.04, 0.25),
            "fins",
            turn=(0, 0, math.degrees(a)),
        )
        for a in np.radians([30, 150, 270])
    ]
    return Shape(
        [
            Primitive("cone", (0, 0, -0.2), (0.36, 0.36, 0.65)),
            Primitive("cone", (0, 0, 0.78), (0.36, 0.03, 0.34), "nose"),
            *fins,
        ],
        ("nose", "fins"),
    )


def _duck(r: np.random.Generator) -> Shape:
    return Shape(
        [
            Primitive("ellipsoid", (0, 0.1, -0.3), (0.5, 0.75, 0.45)),
            Primitive("ellipsoid", (0, -0.45, 0.35), (0.34, 0.34, 0.34), "head"),
            Primitive("cone", (0, -0.86, 0.3), (0.16, 0.1, 0.16), "beak", turn=(90, 0, 0)),
            Primitive("cone", (0, 0.85, 0.0), (0.2, 0.05, 0.22), "tail", turn=(-50, 0, 0)),
        ],
        ("beak", "head"),
    )


def _boat(r: np.random.Generator) -> Shape:
    return Shape(
        [
            Primitive("ellipsoid", (0, 0, -0.55), (1.0, 0.4, 0.28), "hull"),
            Primitive("cone", (0, 0, 0.2), (0.05, 0.05, 0.75), "mast"),
            Primitive("prism", (0.0, 0.05, 0.3), (0.55, 0.04, 0.6), "sail"),
        ],
        ("sail", "mast"),
    )


def _cactus(r: np.random.Generator) -> Shape:
    arms = [
        Primitive("ellipsoid", (0.48, 0, 0.25), (0.13, 0.13, 0.38), "arms"),
        Primitive("ellipsoid", (0.3, 0, -0.02), (0.3, 0.12, 0.12), "arms"),
    ]
    arms += [
        Primitive("ellipsoid", (-0.45, 0, 0.0), (0.12, 0.12, 0.32), "arms"),
        Primitive("ellipsoid", (-0.28, 0, -0.2), (0.28, 0.11, 0.11), "arms"),
    ]
    pot = Primitive("cone", (0, 0, -0.85), (0.32, 0.44, 0.25), "pot")
    return Shape([Primitive("ellipsoid", (0, 0, 0.05), (0.25, 0.25, 0.85)), *arms, pot], ("pot",))


def _dumbbell(r: np.random.Generator) -> Shape:
    ends = [Primitive("ellipsoid", (x, 0, 0), (0.42, 0.42, 0.42), "ends") for x in (-0.8, 0.8)]
    return Shape([Primitive("cone", (0, 0, 0), (0.13, 0.13, 0.7), "bar", turn=(0, 90, 0)), *ends], ("ends",))


UNSEEN_CLASSES: dict[str, Builder] = {
    "robot": _robot, "rocket": _rocket, "duck": _duck, "boat": _boat, "cactus": _cactus, "dumbbell": _dumbbell,
}  # fmt: skip
"""Classes that no training caption or render ever holds: for inversion tests and the demo scene."""


def pack(
    shape: Shape,
    colours: dict[str, tuple[float, float, float]],
    *,
    second_colour: tuple[float, float, float] = (1.0, 1.0, 1.0),
    pattern: int = 0,
    pattern_parts: tuple[str, ...] = (),
    frequency: float = 3.0,
    radius: float = 0.9,
    yaw: float = 0.0,
) -> Float[np.ndarray, "P 32"]:
    """Centre a shape, scale it to a bounding sphere of ``radius``, and lay it out for the renderer.

    Args:
        shape: the object, in units of its own.
        colours: RGB in [0, 1] of each part.
        second_colour: RGB in [0, 1] of the pattern.
        pattern: 0 plain, 1 stripes, 2 dots, 3 checks.
        pattern_parts: names of the parts that carry the pattern.
        frequency: repeats of the pattern per world unit after scaling.
        radius: of the bounding sphere, in world units.
        yaw: rotation of the whole object about z, in degrees.
    """
    points = np.concatenate([p.support() for p in shape.primitives])
    center = (points.min(0) + points.max(0)) / 2
    scale = radius / np.linalg.norm(points - center, axis=1).max()
    turn = Primitive("box", (0, 0, 0), (1, 1, 1), turn=(0, 0, yaw)).rotation()
    names = list(dict.fromkeys(p.part for p in shape.primitives))
    rows = np.zeros((len(shape.primitives), PRIMITIVE_FLOATS), np.float32)
    for row, p in zip(rows, shape.primitives, strict=True):
        size = np.array((*p.size, 0, 0, 0, 0)[:4]) * scale
        row[0] = KINDS.index(p.kind)
        row[1:4] = turn @ ((np.array(p.center) - center) * scale)
        row[4:13] = (turn @ p.rotation()).ravel()
        row[13:17] = size
        row[17] = min(p.rounding * scale, 0.5 * size[:3][size[:3] > 0].min())
        row[18:21] = colours[p.part]
        row[21:24] = second_colour
        row[24] = pattern if p.part in pattern_parts else 0
        row[25] = frequency
        row[26] = names.index(p.part)
        row[27] = np.linalg.norm(p.half_extents()) * scale
    return rows
