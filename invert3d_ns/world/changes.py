"""Objects, and the same objects as a prompt changes them: in blue, with red legs, striped, in van gogh style.

Edits ask for this. A prior that saw pairs, the words that stand for an object and the object as something else, learns
which of an object's properties a word replaces and that all the others stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from invert3d_ns.base.english import with_article, with_article_unless_plural
from invert3d_ns.world.assemblies import NAME, part_word, sample_assembly
from invert3d_ns.world.objects import WorldObject, held_out, pattern_color, sample_object, tint
from invert3d_ns.world.primitives import KINDS
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERN_NOUNS, PATTERNS, STYLES

PLACE = "{}"
"""What stands for the object in the words."""
CHANGES: dict[Literal["color", "part", "pattern", "material"], float] = {
    "color": 0.3,
    "part": 0.3,
    "pattern": 0.25,
    "material": 0.15,
}
"""Kinds of changes, and their shares."""
STYLED_SHARE = 0.15
"""Share of changes that put the object in a style as well."""


def sample_changed(rng: np.random.Generator) -> tuple[WorldObject, WorldObject, str]:
    """Draw an object, a class's or a random assembly by turns of chance, and a change of it.

    No change leads to a combination that is held out.

    Returns:
        The object as a photo, the object that it becomes, and the words for that around :data:`PLACE`.
    """
    assembly = rng.random() < 0.5
    while True:
        item = sample_assembly(rng, style="photo") if assembly else sample_object(rng, style="photo")
        changed, words = change(rng, item)
        if assembly or not held_out(changed.name, changed.color, changed.pattern, changed.style):
            return item, changed, words


def change(rng: np.random.Generator, item: WorldObject) -> tuple[WorldObject, str]:
    """Draw a change of an object.

    Returns:
        The object that it becomes, its shape and its other properties untouched, and the words for the change around
        :data:`PLACE`, as in "a blue {}" and "{} with red legs".
    """
    kind = list(CHANGES)[rng.choice(len(CHANGES), p=list(CHANGES.values()))]
    parts = _named_parts(item) if kind == "part" else {}
    if kind == "part" and parts:
        changed, words = _with_part(rng, item, parts)
    elif kind == "pattern":
        changed, words = _with_pattern(rng, item)
    elif kind == "material":
        changed, words = _of_material(rng, item)
    else:
        changed, words = _of_color(rng, item)
    if rng.random() < STYLED_SHARE:
        style = list(STYLES)[1 + rng.integers(len(STYLES) - 1)]
        changed, words = replace(changed, style=style), _pick(rng, STYLES[style]).format(words)
    return changed, words


def _of_color(rng: np.random.Generator, item: WorldObject) -> tuple[WorldObject, str]:
    """All but the part that has a color of its own; an assembly, whose parts have no names, as a whole."""
    color = _pick(rng, tuple(name for name in COLORS if name not in (item.color, item.second)))
    rows = item.primitives.copy()
    own = _of_part(rows, item) if item.part is not None and item.name != NAME else np.zeros(len(rows), bool)
    rows[~own, 18:21] = tint(rng, color)
    words = (_article(color), _article(color), _article(color), f"{PLACE} in {color}", f"{PLACE} that is {color}")
    second, part = (None, None) if item.name == NAME else (item.second, item.part)
    return replace(item, color=color, second=second, part=part, primitives=rows), _pick(rng, words)


def _with_part(
    rng: np.random.Generator, item: WorldObject, parts: dict[str, Bool[np.ndarray, " P"]]
) -> tuple[WorldObject, str]:
    part = _pick(rng, tuple(parts))
    color = _pick(rng, tuple(name for name in COLORS if name not in (item.color, item.second)))
    rows = item.primitives.copy()
    rows[parts[part], 18:21] = tint(rng, color)
    rows[parts[part], 24] = 0
    words = f"{PLACE} with {with_article_unless_plural(f'{color} {part}')}"
    return replace(item, part=part, second=color, primitives=rows), words


def _with_pattern(rng: np.random.Generator, item: WorldObject) -> tuple[WorldObject, str]:
    # White checks on black and black checks on white are one thing.
    void = {"plain", item.pattern, *(("checkered",) if item.color in ("white", "black") else ())}
    pattern = _pick(rng, tuple(name for name in PATTERNS if name not in void))
    second = pattern_color(rng, item.color)
    said = rng.random() < 0.35
    if said:
        second = _pick(rng, tuple(name for name in COLORS if name != item.color))
    rows = item.primitives.copy()
    rows[:, 21:24], rows[:, 24] = tint(rng, second), list(PATTERNS).index(pattern)
    rows[:, 25] = rng.uniform(2.1, 2.8) if pattern == "spotted" else rng.uniform(3.0, 4.2)
    words = _article(_pick(rng, PATTERNS[pattern]))
    if said:
        words = f"{words if rng.random() < 0.5 else PLACE} with {second} {PATTERN_NOUNS[pattern]}"
    return replace(item, pattern=pattern, second=second, part=None, primitives=rows), words


def _of_material(rng: np.random.Generator, item: WorldObject) -> tuple[WorldObject, str]:
    rows, indices = item.primitives.copy(), {name: index for index, name in enumerate(MATERIALS)}
    options = [name for name, index in indices.items() if name != "matte" and (rows[:, 28] != index).any()]
    material = _pick(rng, tuple(options))
    rows[:, 28] = indices[material]
    return replace(item, material=material, primitives=rows), _article(_pick(rng, MATERIALS[material]))


def _named_parts(item: WorldObject) -> dict[str, Bool[np.ndarray, " P"]]:
    """Which primitives belong to each part that words can name, but for the body."""
    rows = item.primitives
    if item.name != NAME:
        shape = CLASSES[item.name](np.random.default_rng(0))
        names = list(dict.fromkeys(primitive.part for primitive in shape.primitives))
        found = {part: rows[:, 26] == names.index(part) for part in shape.second if part in names}
        return {part: there for part, there in found.items() if there.any()}
    found = {}
    for index, kind in enumerate(KINDS):
        there = (rows[:, 0] == index) & (rows[:, 26] != rows[0, 26])
        # Of the body's own kind, words would mean the body, too.
        if there.any() and rows[0, 0] != index:
            found[part_word(kind, int(there.sum()))] = there
    return found


def _of_part(rows: Float[np.ndarray, "P 32"], item: WorldObject) -> Bool[np.ndarray, " P"]:
    parts = _named_parts(item)
    return parts.get(item.part or "", np.zeros(len(rows), bool))


def _article(adjective: str) -> str:
    return with_article(f"{adjective} {PLACE}")


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
