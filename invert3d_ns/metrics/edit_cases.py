"""Cases that edits are graded on: held-out objects, twelve requests for each, and renders of what should come out.

A true object with the attribute replaced stands beside every edit, so that each figure can be read against what the
judge makes of the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.metrics.judge import Judgment
    from invert3d_ns.world.objects import WorldObject
    from invert3d_ns.world.rendering import Renders

Kind = Literal["color", "pattern", "part", "style"]
KINDS: tuple[Kind, ...] = ("color", "pattern", "part", "style")
OBJECTS: dict[str, tuple[str, str, int]] = {
    "chair_red": ("chair", "red", 8),
    "car_blue": ("car", "blue", 8),
    "lamp_pink": ("lamp", "pink", 1),
    "airplane_green": ("airplane", "green", 3),
    "mug_blue": ("mug", "blue", 1),
    "mushroom_orange": ("mushroom", "orange", 3),
}
"""Class, color and seed of plain, matte, upright photos; training holds every one of these pairs back. Chair, car,
airplane and mushroom have a part in a second color."""
COLOR_TARGETS, COLOR_SPARES = ("blue", "yellow", "purple", "green"), ("red", "cyan")
PATTERN_TARGETS = ("striped", "spotted", "checkered")
PART_TARGETS, PART_SPARES = ("red", "cyan"), ("yellow", "blue", "green")
STYLE_TARGETS = ("van gogh", "pencil sketch", "toon")
_TEXTURE_SEED = 4242
_LEAST = 4
"""Pixels that a part must show in a view for its color to be read there."""


@dataclass(frozen=True)
class EditCase:
    """One request: an attribute of an object that shall become another."""

    kind: Kind
    target: str
    """The new color, pattern or style."""
    source: str = ""
    """The color that the object or the part has now."""
    part: str = ""
    """The part that is recolored."""

    @property
    def label(self) -> str:
        """The name of the case in tables and pictures."""
        if self.kind == "part":
            return f"{self.part}: {self.source} -> {self.target}"
        return f"{self.source} -> {self.target}" if self.source else self.target

    def edit(self, **settings: Any) -> Edit:
        """Make the Edit that asks for this in words, as a user would; ``settings`` are other fields of it."""
        from invert3d_ns.editing.edit import TOKEN, Edit
        from invert3d_ns.world.vocabulary import STYLES

        words: dict[str, Any]
        if self.kind == "style":
            words = {"prompt": STYLES[self.target][0].format(TOKEN)}
        elif self.kind == "part":
            words = {"source": _with_part(self.source, self.part), "target": _with_part(self.target, self.part)}
        else:
            words = {"source": self.source, "target": self.target}
        return Edit(**(words | settings))

    @property
    def phrase(self) -> str:
        """The words of the edit that re-weighting (eq. 11) strengthens."""
        return "cartoon" if self.target == "toon" else self.target

    def applied(self, item: WorldObject) -> WorldObject:
        """Make the object as it should be after the edit: the same shape, material and remaining colors."""
        from invert3d_ns.world.vocabulary import COLORS, PATTERNS

        rows = item.primitives.copy()
        of_part = rows[:, 26] == part_index(item, self.part) if self.part else np.zeros(len(rows), bool)
        if self.kind == "color":
            main = rows[:, 26] != part_index(item, item.part) if item.part else np.ones(len(rows), bool)
            rows[main, 18:21] = COLORS[self.target]
            return dataclasses.replace(item, color=self.target, primitives=rows)
        if self.kind == "part":
            rows[of_part, 18:21] = COLORS[self.target]
            return dataclasses.replace(item, part=self.part, second=self.target, primitives=rows)
        if self.kind == "pattern":
            rows[:, 21:24] = COLORS["white"]
            rows[:, 24] = list(PATTERNS).index(self.target)
            # The middle of what the world draws: its spots are wider apart than its stripes and checks.
            rows[:, 25] = 2.45 if self.target == "spotted" else 3.6
            return dataclasses.replace(item, pattern=self.target, primitives=rows)
        return dataclasses.replace(item, style=self.target)


def _with_part(color: str, part: str) -> str:
    from invert3d_ns.base.english import with_article

    words = f"{color} {part}"
    return f"with {words if part.endswith('s') else with_article(words)}"


def object_of(name: str) -> WorldObject:
    """Make one of :data:`OBJECTS` by its name.

    Raises:
        InputError: there is no object of that name.
    """
    from invert3d_ns.base.errors import InputError
    from invert3d_ns.world.objects import sample_object

    if name not in OBJECTS:
        raise InputError(f"no object {name!r} to edit; --objects takes {', '.join(OBJECTS)}")
    kind, color, seed = OBJECTS[name]
    rng = np.random.default_rng(seed)
    return sample_object(rng, name=kind, color=color, pattern="plain", style="photo", upright=True)


def part_names(item: WorldObject) -> list[str]:
    """The object's parts in the order of their indices; the first is the largest."""
    from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES

    shape = (CLASSES | UNSEEN_CLASSES)[item.name](np.random.default_rng(0))
    return list(dict.fromkeys(primitive.part for primitive in shape.primitives))


def part_index(item: WorldObject, part: str | None) -> int:
    """The number that the renderer gives a part; -1 for None."""
    return -1 if part is None else part_names(item).index(part)


def cases_of(item: WorldObject) -> list[EditCase]:
    """List the twelve edits of an object: four colors, three patterns, two colors of a part, three styles.

    A color that the object or the part has already is replaced by the next spare one. An object of one part has no
    part to recolor, and takes spare colors as a whole instead.
    """
    from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES

    spares = (*COLOR_TARGETS, *COLOR_SPARES)
    cases = [EditCase("color", target, item.color) for target in _others(spares, (item.color,), 4)]
    cases += [EditCase("pattern", target) for target in PATTERN_TARGETS]
    second = (CLASSES | UNSEEN_CLASSES)[item.name](np.random.default_rng(0)).second
    if second:
        part = item.part or second[0]
        has = item.second if item.part else item.color
        targets = _others((*PART_TARGETS, *PART_SPARES), (item.color, has), 2)
        cases += [EditCase("part", target, has or "", part) for target in targets]
    else:
        used = [case.target for case in cases]
        more = _others((*COLOR_SPARES, "orange"), (item.color, *used), 2)
        cases += [EditCase("color", target, item.color) for target in more]
    return [*cases, *(EditCase("style", target) for target in STYLE_TARGETS)]


def _others(words: Sequence[str], void: Sequence[str | None], count: int) -> list[str]:
    return [word for word in words if word not in void][:count]


def chosen_cases(item: WorldObject, names: Sequence[str] | None) -> list[EditCase]:
    """List those of :func:`cases_of` whose kind, target or label is among ``names``; all for None.

    Raises:
        InputError: a name fits no edit of the object.
    """
    from invert3d_ns.base.errors import InputError

    cases = cases_of(item)
    if names is None:
        return cases
    known = [{case.kind, case.target, case.label} for case in cases]
    absent = [name for name in names if name not in {*KINDS, *COLOR_TARGETS, *COLOR_SPARES}.union(*known)]
    if absent:
        raise InputError(
            f"no edit {absent[0]!r}; --edits takes kinds ({', '.join(KINDS)}) or targets such as blue or 'van gogh'"
        )
    return [case for case, words in zip(cases, known, strict=True) if words & set(names)]


@dataclass
class Truth:
    """Renders of one object before and after one edit at F cameras. Images are RGB in [0, 1] on white."""

    original: Float[Tensor, "F 3 H W"]
    """True renders of the object as it is."""
    target: Float[Tensor, "F 3 H W"]
    """True renders of the object as it should become."""
    expected_before: Judgment
    """What the originals should be read as."""
    expected_after: Judgment
    """What the edited views should be read as."""
    masks: dict[str, Bool[Tensor, "F H W"]]
    """For part edits: pixels well inside the recolored part ("part") and the largest one ("main")."""
    shades: dict[str, Float[Tensor, "12 F 3"]]
    """For part edits: mean color over each mask if that part had each of the world's colors, as it is lit there."""


def truth_of(
    item: WorldObject, case: EditCase, azimuths: Float[Tensor, " F"], elevations: Float[Tensor, " F"], size: int = 64
) -> Truth:
    """Render an object before and after an edit; angles in degrees."""
    from invert3d_ns.scenes.cameras import orbit_camera_to_world
    from invert3d_ns.world.rendering import render_objects
    from invert3d_ns.world.vocabulary import COLORS

    poses = orbit_camera_to_world(azimuths, elevations)
    edited = case.applied(item)
    renders = render_objects([item, edited], poses.expand(2, *poses.shape), size)
    before, after = _drawn(renders, [item.style, edited.style])
    masks: dict[str, Tensor] = {}
    shades: dict[str, Tensor] = {}
    if case.kind == "part":
        names = {"part": case.part, "main": part_names(item)[0]}
        for key, part in names.items():
            masks[key] = _inside(renders, part_index(item, part))
            painted = [_painted(edited, part, color) for color in COLORS]
            each = render_objects(painted, poses.expand(len(painted), *poses.shape), size)
            images = torch.from_numpy(each.rgb).permute(0, 1, 4, 2, 3).float() / 255
            shades[key] = torch.stack([mean_colors(views, masks[key]) for views in images])
    return Truth(before, after, _expected(item, azimuths), _expected(edited, azimuths), masks, shades)


def _drawn(renders: Renders, styles: Sequence[str]) -> Float[Tensor, "O F 3 H W"]:
    from invert3d_ns.world.styles import apply_styles

    rgb = apply_styles(renders, styles, [_TEXTURE_SEED] * len(styles))
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 1, 4, 2, 3).float() / 255


def _painted(item: WorldObject, part: str, color: str) -> WorldObject:
    from invert3d_ns.world.vocabulary import COLORS

    rows = item.primitives.copy()
    rows[rows[:, 26] == part_index(item, part), 18:21] = COLORS[color]
    return dataclasses.replace(item, primitives=rows)


def _inside(renders: Renders, index: int) -> Bool[Tensor, "F H W"]:
    """Pixels of a part, without its outermost ones where enough remain."""
    own = torch.from_numpy((renders.parts[0] == index) & (renders.alpha[0] == 255))
    inner = -functional.max_pool2d(-own[:, None].float(), 3, 1, 1)[:, 0] > 0.5
    enough = inner.flatten(1).sum(1) >= _LEAST
    return torch.where(enough[:, None, None], inner, own)


def mean_colors(images: Float[Tensor, "F 3 H W"], masks: Bool[Tensor, "F H W"]) -> Float[Tensor, "F 3"]:
    """Mean RGB over each view's mask; NaN where fewer than four pixels show."""
    weight = masks[:, None].float()
    count = weight.sum((2, 3))
    return ((images * weight).sum((2, 3)) / count.clamp_min(1)).masked_fill(count < _LEAST, torch.nan)


def read_colors(images: Float[Tensor, "F 3 H W"], truth: Truth, key: str) -> Int[Tensor, " F"]:
    """Read the color of a part in each view: its index into COLORS, -1 where the part hardly shows.

    The nearest, by its mean RGB, of what the part would show if it had each color: shading is not taken for paint.
    """
    seen = mean_colors(images, truth.masks[key])
    distance = (seen - truth.shades[key]).norm(dim=-1)
    return torch.where(seen.isnan().any(1), -1, distance.nan_to_num(torch.inf).argmin(0))


def _expected(item: WorldObject, azimuths: Float[Tensor, " F"]) -> Judgment:
    from invert3d_ns.metrics.held_out import Prompt, expected_judgment

    return expected_judgment([Prompt("", item.name, item.color, item.pattern, None, item.style)], azimuths[None])


def evaluation_orbit(object_index: int, case_index: int, seed: int, views: int) -> tuple[Tensor, Tensor]:
    """Draw azimuths and elevations (degrees, [F]) of the views of one edit of one object, other ones for each seed."""
    from invert3d_ns.base.random import random_stream
    from invert3d_ns.scenes.cameras import random_orbit

    azimuths, elevations = random_orbit(
        1, views, generator=random_stream("orbits of edits", seed, object_index, case_index)
    )
    return azimuths[0], elevations[0]
