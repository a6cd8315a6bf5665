"""Random assemblies: things that have no name, built of parts that sit on each other.

A prior that only ever saw classes can render only classes. Assemblies teach it that shapes are made of parts, in any
number, place and color; held-out ones are drawn from seeds of their own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.world.objects import WorldObject
from invert3d_ns.world.primitives import Kind, Primitive, Shape, pack_primitives
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERNS, STYLES

NAME = "thing"
"""What an assembly is called; no key of CLASSES."""
MOST_PARTS = 12
"""Primitives of an assembly, mirrored ones included."""
MIRRORED_SHARE, SOFT_SHARE, CLASS_SHARE = 0.65, 0.25, 0.2
"""Shares of assemblies that are mirrored left to right, whose parts flow into each other, and that grow on an object of
a class instead of on a body."""
ROUND_KINDS: tuple[Kind, ...] = ("ellipsoid", "ellipsoid", "ellipsoid", "cone", "cone")
KINDS: tuple[Kind, ...] = ("ellipsoid", "ellipsoid", "box", "box", "cone", "cone", "torus", "cup", "prism")
PART_WORDS: dict[str, str] = {
    "ellipsoid": "ball",
    "box": "box",
    "cone": "cone",
    "torus": "ring",
    "cup": "cup",
    "prism": "roof",
}
"""What captions call a part of each kind."""


def sample_assembly(rng: np.random.Generator, *, style: str | None = None) -> WorldObject:
    """Draw a random assembly.

    Args:
        rng: source of every choice.
        style: key of STYLES; drawn when not given, a photo in six of ten.
    """
    mirrored, soft = rng.random() < MIRRORED_SHARE, rng.random() < SOFT_SHARE
    shape = _grown(rng, mirrored, soft)
    parts = list(dict.fromkeys(p.part for p in shape.primitives))
    named = {part: _named_color(rng) for part in parts}
    if rng.random() < 0.25:  # one paint for all
        named = dict.fromkeys(parts, named[parts[0]])
    paint = {part: _paint(rng, color) for part, color in named.items()}
    pattern = "plain" if rng.random() < 0.75 else list(PATTERNS)[1 + rng.integers(len(PATTERNS) - 1)]
    carriers = tuple(part for part in parts if rng.random() < 0.5) or (parts[0],)
    look = style or ("photo" if rng.random() < 0.6 else list(STYLES)[1 + rng.integers(len(STYLES) - 1)])
    second = list(COLORS)[rng.integers(len(COLORS))]
    rows = pack_primitives(
        shape,
        paint,
        second_color=_paint(rng, second),
        pattern=list(PATTERNS).index(pattern),
        pattern_parts=carriers,
        frequency=rng.uniform(2.2, 4.2),
        radius=OBJECT_RADIUS * rng.uniform(0.75, 1.0),
        turn=_turn(rng),
        material=0 if rng.random() < 0.7 else 1 + int(rng.integers(len(MATERIALS) - 1)),
    )
    if soft:
        rows[1:, 29] = rng.uniform(0.08, 0.3)
    else:
        rows = _with_own_materials(rng, rows)
    main, part = parts[0], parts[-1]
    other = named[part] if named[part] != named[main] else None
    return WorldObject(
        NAME,
        named[main],
        pattern if main in carriers else "plain",
        other,
        None if other is None else _spoken(shape, part),
        rows,
        look,
        main=None,
    )


def _grown(rng: np.random.Generator, mirrored: bool, soft: bool) -> Shape:
    """A body and parts that sit on it, or on each other."""
    kinds = ROUND_KINDS if soft else KINDS
    if not soft and rng.random() < CLASS_SHARE:
        names = list(CLASSES)
        primitives = list(CLASSES[names[rng.integers(len(names))]](rng).primitives)
    else:
        primitives = [_solid(rng, kinds, 1.0, "body")]
        if mirrored:
            primitives[0] = _upright(primitives[0])
    stretch = rng.uniform(0.7, 1.3, 3)
    most = int(rng.integers(2, MOST_PARTS + 1))
    tries = 0
    while len(primitives) < most and tries < 40:
        tries += 1
        parent = primitives[int(len(primitives) * rng.random() ** 2)]  # more often on the first ones
        label = f"part {len({p.part for p in primitives})}" if rng.random() < 0.75 else parent.part
        size = _mean_size(parent) * rng.uniform(0.25, 0.95)
        child = _solid(rng, kinds, max(size, 0.12), label)
        direction = _direction(rng)
        anchor = np.array(parent.center) + parent.rotation() @ _surface(parent, direction)
        outward = parent.rotation() @ direction
        reach = rng.uniform(0.1, 0.9) * _mean_size(child)
        middle = anchor + outward * reach
        if mirrored and rng.random() < 0.35:
            middle[0] = 0.0
        child = replace(child, center=(float(middle[0]), float(middle[1]), float(middle[2])))
        primitives.append(child if not mirrored or middle[0] != 0.0 else _upright(child))
        if mirrored and abs(middle[0]) > 0.08 and len(primitives) < most:
            primitives.append(_reflected(child))
    return Shape([_stretched(p, stretch) for p in primitives])


def _solid(rng: np.random.Generator, kinds: tuple[Kind, ...], size: float, part: str) -> Primitive:
    """A primitive of a mean half size, thin ones and flat ones among them."""
    kind = kinds[rng.integers(len(kinds))]
    a, b, c = size * np.exp(rng.normal(0, 0.45, 3)).clip(0.3, 2.5)
    turn = (0.0, 0.0, 0.0)
    if rng.random() >= 0.5:
        a_, b_, c_ = (float(v) for v in rng.choice([0, 0, 30, -45, 90, 60], 3))
        turn = (a_, b_, c_)
    thin = max(0.05, 0.12 * size)
    if kind == "torus":
        sizes: tuple[float, ...] = (max(a, 2 * thin), max(thin, 0.3 * b))
    elif kind == "cone":
        sizes = (max(a * rng.uniform(0.4, 1), thin), max(a * rng.choice([0.05, 0.5, 1.0]), 0.02), c)
    elif kind == "cup":
        sizes = (max(a, 0.2), max(a * rng.uniform(0.8, 1.3), 0.2), max(c, 0.2), max(thin, 0.08))
    else:
        sizes = (max(a, thin), max(b, thin), max(c, thin))
    rounding = min(float(rng.choice([0.01, 0.05, 0.15])) * size, 0.4 * min(sizes))
    return Primitive(kind, (0.0, 0.0, 0.0), tuple(float(s) for s in sizes), part, rounding, turn)


def _upright(solid: Primitive) -> Primitive:
    """The same, turned about x alone, so that left and right of it are alike."""
    return replace(solid, turn=(solid.turn[0], 0.0, 0.0))


def _reflected(solid: Primitive) -> Primitive:
    """Its mirror image, left to right. Every kind of solid is its own mirror image in its local x."""
    x, y, z = solid.center
    a, b, c = solid.turn
    return replace(solid, center=(-x, y, z), turn=(a, -b, -c))


def _stretched(solid: Primitive, factors: Float[np.ndarray, " 3"]) -> Primitive:
    """Moved as if space were stretched; the solid itself only grows by the mean, so that it stays of its kind."""
    x, y, z = np.array(solid.center) * factors
    return replace(solid, center=(float(x), float(y), float(z)))


def _mean_size(solid: Primitive) -> float:
    return float(np.prod(solid.half_extents()) ** (1 / 3))


def _direction(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """A unit vector, along an axis in six of ten."""
    if rng.random() < 0.6:
        axes = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, 1), (0, 0, -1)], float)
        return axes[rng.integers(len(axes))]
    vector = rng.normal(size=3)
    return vector / max(np.linalg.norm(vector), 1e-6)


def _surface(solid: Primitive, direction: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """About where a ray from the middle leaves a solid, in its own axes."""
    extents = np.array(solid.half_extents())
    return direction / max(float(np.linalg.norm(direction / extents)), 1e-6)


def _turn(rng: np.random.Generator) -> tuple[float, float, float]:
    """How the whole stands: as it was built, at times turned about the vertical, seldom tipped over."""
    tipped = float(rng.choice([90.0, -90.0, 180.0])) if rng.random() < 0.1 else 0.0
    about = float(rng.uniform(-180, 180)) if rng.random() < 0.3 else float(rng.uniform(-12, 12))
    return tipped, 0.0, about


def _named_color(rng: np.random.Generator) -> str:
    return list(COLORS)[rng.integers(len(COLORS))]


def _paint(rng: np.random.Generator, name: str) -> tuple[float, float, float]:
    """A tint of a named color; in three of ten far off, nearer to its neighbors."""
    base = np.array(COLORS[name])
    if rng.random() < 0.3:
        other = np.array(COLORS[_named_color(rng)])
        base = base + (other - base) * rng.uniform(0, 0.45)
    r, g, b = np.clip(base * rng.uniform(0.85, 1.1) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    return float(r), float(g), float(b)


def _with_own_materials(rng: np.random.Generator, rows: Float[np.ndarray, "P 32"]) -> Float[np.ndarray, "P 32"]:
    """Parts of one thing may be of other materials than the rest."""
    if rng.random() < 0.3:
        for label in np.unique(rows[:, 26]):
            rows[rows[:, 26] == label, 28] = rng.integers(len(MATERIALS))
    return rows


def _spoken(shape: Shape, part: str) -> str:
    """What a caption calls a part, in the plural if there are several."""
    kinds = [p.kind for p in shape.primitives if p.part == part]
    return part_word(kinds[0], len(kinds))


def part_word(kind: str, count: int = 1) -> str:
    """What captions call parts of a kind, in the plural if there are several."""
    word = PART_WORDS[kind]
    if count == 1:
        return word
    return f"{word}es" if word.endswith("x") else f"{word}s"
