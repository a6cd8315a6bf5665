"""Classes of objects of the procedural world: for each, a function that draws a shape from a random generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from invert3d_ns.world.primitives import Primitive, Shape

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
        main="body",
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
    return Shape([seat, back, *legs], ("legs", "back"), main="seat")


def _table(r: np.random.Generator) -> Shape:
    w, d, leg, h = r.uniform(0.85, 1.0), r.uniform(0.6, 0.9), r.uniform(0.07, 0.11), r.uniform(0.45, 0.6)
    legs = [
        Primitive("box", (x, y, -h), (leg, leg, h), "legs") for x in (-w + leg, w - leg) for y in (-d + leg, d - leg)
    ]
    return Shape([Primitive("box", (0, 0, 0), (w, d, 0.09), "top"), *legs], ("legs",), main="top")


def _mushroom(r: np.random.Generator) -> Shape:
    w = r.uniform(0.7, 0.95)
    stem = Primitive("cone", (0, 0, -0.45), (r.uniform(0.25, 0.35), 0.22, 0.55), "stem")
    return Shape([Primitive("ellipsoid", (0, 0, 0.2), (w, w, 0.42), "cap"), stem], ("stem",), main="cap")


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
        main="body",
    )


def _house(r: np.random.Generator) -> Shape:
    w, d, h = r.uniform(0.6, 0.75), r.uniform(0.6, 0.8), r.uniform(0.4, 0.55)
    roof = Primitive(
        "prism", (0, 0, h + 0.28), (w * 1.2, d * 1.15, 0.28), "roof", turn=(0, 0, 90 if r.random() < 0.3 else 0)
    )
    door = Primitive("box", (0, -d, -h + 0.25), (0.14, 0.03, 0.25), "door", rounding=0.005)
    chimney = Primitive("box", (w * 0.6, d * 0.3, h + 0.45), (0.1, 0.1, 0.24), "roof")
    return Shape([Primitive("box", (0, 0, 0), (w, d, h), "walls"), roof, chimney, door], ("roof", "door"), main="walls")


def _tree(r: np.random.Generator) -> Shape:
    trunk = Primitive("cone", (0, 0, -0.7), (0.15, 0.12, 0.4), "trunk")
    if r.random() < 0.5:
        w = r.uniform(0.55, 0.7)
        crown = [
            Primitive("cone", (0, 0, 0.35 * k - 0.15), (w * (1 - 0.25 * k), 0.03, 0.42), "crown") for k in range(3)
        ]
    else:
        crown = [Primitive("ellipsoid", (0, 0, 0.2), (r.uniform(0.5, 0.65), 0.55, 0.65), "crown")]
    return Shape([*crown, trunk], ("trunk",), main="crown")


def _car(r: np.random.Generator) -> Shape:
    length, h = r.uniform(0.9, 1.05), r.uniform(0.18, 0.25)
    wheels = [
        Primitive("cone", (x, y, -0.2), (0.2, 0.2, 0.09), "wheels", turn=(90, 0, 0))
        for x in (-0.58, 0.58)
        for y in (-0.42, 0.42)
    ]
    cabin = Primitive("box", (r.uniform(0.15, 0.28), 0, 2 * h - 0.02), (0.48, 0.38, h), "cabin", rounding=0.1)
    return Shape(
        [Primitive("box", (0, 0, 0.02), (length, 0.45, h), rounding=0.08), cabin, *wheels],
        ("wheels", "cabin"),
        main="body",
    )


def _lamp(r: np.random.Generator) -> Shape:
    return Shape(
        [
            Primitive("cone", (0, 0, 0.6), (r.uniform(0.5, 0.65), r.uniform(0.25, 0.35), 0.35), "shade"),
            Primitive("cone", (0, 0, -0.2), (0.07, 0.07, 0.7), "pole"),
            Primitive("cone", (0, 0, -0.95), (0.42, 0.38, 0.07), "base"),
        ],
        ("base",),
        main="shade",
    )


def _bottle(r: np.random.Generator) -> Shape:
    w, h = r.uniform(0.36, 0.46), r.uniform(0.5, 0.6)
    return Shape(
        [
            Primitive("cone", (0, 0, -0.35), (w, w, h), "body", rounding=0.05),
            Primitive("cone", (0, 0, h - 0.35 + 0.14), (w * 0.95, 0.15, 0.16), "body"),
            Primitive("cone", (0, 0, h + 0.1), (0.15, 0.15, 0.2), "neck"),
            Primitive("cone", (0, 0, h + 0.32), (0.19, 0.19, 0.1), "cap"),
        ],
        ("cap", "neck"),
        main="body",
    )


def _airplane(r: np.random.Generator) -> Shape:
    span, chord = r.uniform(0.85, 1.0), r.uniform(0.2, 0.27)
    return Shape(
        [
            Primitive("ellipsoid", (0, 0, 0), (0.2, 1.0, 0.2), "body"),
            Primitive("box", (0, -0.1, 0), (span, chord, 0.045), "wings"),
            Primitive("box", (0, 0.82, 0.28), (0.045, 0.16, 0.26), "tail"),
            Primitive("box", (0, 0.82, 0.06), (0.36, 0.14, 0.04), "tail"),
            Primitive("ellipsoid", (0, -0.95, 0), (0.11, 0.13, 0.11), "nose"),
        ],
        ("wings", "tail", "nose"),
        main="body",
    )


CLASSES: dict[str, Builder] = {
    "ball": _ball,
    "cube": _cube,
    "cone": _cone,
    "cylinder": _cylinder,
    "ring": _ring,
    "mug": _mug,
    "chair": _chair,
    "table": _table,
    "mushroom": _mushroom,
    "snowman": _snowman,
    "house": _house,
    "tree": _tree,
    "car": _car,
    "lamp": _lamp,
    "bottle": _bottle,
    "airplane": _airplane,
}
"""Classes that the bundled prior is trained on."""
FRONTED = ("mug", "chair", "snowman", "house", "car", "airplane")
"""Classes whose azimuth can be read off a view: no half turn or less maps them onto themselves."""


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
    "robot": _robot,
    "rocket": _rocket,
    "duck": _duck,
    "boat": _boat,
    "cactus": _cactus,
    "dumbbell": _dumbbell,
}
"""Classes that no training caption or render ever holds: for inversion tests and the demo scene."""


@cache
def part_names() -> frozenset[str]:
    """Names that captions have for parts of objects."""
    shapes = [build(np.random.default_rng(0)) for build in CLASSES.values()]
    return frozenset(part for shape in shapes for part in (*shape.second, *((shape.main,) if shape.main else ())))


def part_heights(name: str) -> dict[str, float]:
    """How high the named parts of a class stand, 0 at the foot to 1 at the top; empty for other words."""
    if name not in CLASSES:
        return {}
    primitives = CLASSES[name](np.random.default_rng(0)).primitives
    low = min(p.center[2] - p.half_extents()[2] for p in primitives)
    high = max(p.center[2] + p.half_extents()[2] for p in primitives)
    heights: dict[str, list[float]] = {}
    for p in primitives:
        heights.setdefault(p.part, []).append((p.center[2] - low) / (high - low))
    return {part: float(np.mean(values)) for part, values in heights.items()}


def secondary_parts(name: str) -> tuple[str, ...]:
    """Names that captions have for parts of objects of a class besides the largest one; none for other words."""
    return CLASSES[name](np.random.default_rng(0)).second if name in CLASSES else ()
