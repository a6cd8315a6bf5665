"""Styles of a scene, as a person would make them, for evaluations."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invert3d_ns.metrics.text_runs import apply_settings, quiet_run

if TYPE_CHECKING:
    from invert3d_ns.metrics.held_out import Prompt
    from invert3d_ns.scenes.cloud import SplatCloud

METHOD = "clip-splat"
OBJECTS = ("a red chair", "a blue mug", "a green airplane", "an orange mushroom", "a pink lamp", "a brown tree")
"""Objects of different classes, in colors that training holds back."""
NOT_BY_COLOR = ("photo", "pixel art")
"""Styles that no colors can carry: what the scene is already, and blocks that redraw its outline."""
SPACING = 0.02
"""Edge of the voxels that objects are made splats in, in world units."""


@dataclass(frozen=True)
class Way:
    """One way of giving a scene a style."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the pipeline, by dotted name."""


def _only(name: str) -> dict[str, float]:
    weights = {f"style.{other}": 0.0 for other in ("clip", "augmented", "directional", "patch")}
    return {**weights, f"style.{name}": 1.0}


DEFAULT, PLAIN = "directional + patch", "plain"
LOSSES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: _only("clip"),
    "augmented": _only("augmented"),
    DEFAULT: {},
    f"{DEFAULT}, reach 0": {"style.reach": 0.0},
}
"""What pulls: the score alone (CLIP-GS), the same of augmented views, the method's own losses, and these as published
(CLIPGaussian)."""
FREE: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", SH + opacity": {"free": ("opacities",)},
    ", all": {"free": ("opacities", "scales", "means", "quats")},
}
"""What may change: colors and their harmonics, opacities as well, everything."""
WAYS = tuple(Way(loss + free, {**LOSSES[loss], **FREE[free]}) for loss in LOSSES for free in FREE)
"""What can be compared."""


@dataclass(frozen=True)
class MadeStyles:
    """A scene in styles; splat i is the same in all of them."""

    original: SplatCloud
    """The scene as it was, as the run keeps it."""
    styles: tuple[SplatCloud, ...]
    seconds: tuple[float, ...]
    """Of each style's phase; not of starting the program."""


def stylization_cases(count: int = len(OBJECTS)) -> list[Prompt]:
    """The first of the fixed objects, as plain photos."""
    from invert3d_ns.metrics.held_out import photo_prompts

    known = {case.text: case for case in photo_prompts(True)}
    return [known[text] for text in OBJECTS[:count]]


def color_styles() -> tuple[str, ...]:
    """The styles of the world that color alone can carry."""
    from invert3d_ns.world.vocabulary import STYLES

    return tuple(name for name in STYLES if name not in NOT_BY_COLOR)


def said(style: str) -> str:
    """A style as a person types it.

    Example:
        >>> said("van gogh"), said("pencil sketch"), said("night")
        ('in van gogh style', 'a pencil sketch', 'at night')
    """
    from invert3d_ns.world.vocabulary import STYLES

    return STYLES[style][0].replace("{}", "").strip().removesuffix(" of")


def case_splats(case: Prompt) -> SplatCloud:
    """The splats that are given a style: of the true object that a prompt asks for."""
    from invert3d_ns.world.splats import splats_of

    return splats_of(case.object(), spacing=SPACING)


def followed_towers() -> tuple[str, ...]:
    """The CLIP towers that the method follows where nobody says."""
    from invert3d_ns.methods.stylization import stylization

    config: Any = stylization(METHOD)
    return tuple(config.pipeline.towers)


def run_settings(way: Way, styles: Sequence[str], seed: int, towers: Sequence[str], steps: int | None = None) -> Any:
    """The configuration of a run that makes styles.

    Args:
        way: how.
        styles: names in STYLES.
        seed: of everything random. What a style draws depends on its place among them, too.
        towers: that are followed.
        steps: of each style; the method's own number if None.
    """
    from invert3d_ns.methods.stylization import stylization

    config: Any = stylization(METHOD)
    config.prompts, config.machine.seed = tuple(said(style) for style in styles), seed
    config.pipeline.towers, config.pipeline.preview_every = tuple(towers), 0
    if steps is not None:
        config.pipeline.steps = steps
    apply_settings(config.pipeline, way.settings)
    return config


def settings_digest(way: Way, steps: int | None = None) -> str:
    """Eight digits that change with the settings under which a way makes a style, the method's own among them."""
    from invert3d_ns.methods.stylization import RATES

    pipeline = run_settings(way, (), 0, (), steps).pipeline
    told = {name: repr(getattr(pipeline, name)) for name in ("style", "keep", "cameras", "free", "steps", "sh_degree")}
    return hashlib.sha256(json.dumps([told, RATES, SPACING], sort_keys=True).encode()).hexdigest()[:8]


def make_styles(config: Any, cloud: SplatCloud) -> MadeStyles:
    """Give splats all styles of a configuration by ``ns-train``, in folders that are thrown away."""
    from invert3d_ns.scenes.ply import write_splats
    from invert3d_ns.scenes.runs import read_run_objects

    with tempfile.TemporaryDirectory(prefix="invert3d-start-") as folder:
        config.data = Path(folder) / "scene.ply"
        write_splats(config.data, cloud, up="z")
        with quiet_run(config) as run:
            original, *styles = read_run_objects(run)
            seconds = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["seconds"]
    return MadeStyles(original, tuple(styles), tuple(seconds[f"style{1 + i}"] for i in range(len(styles))))


def in_style(case: Prompt, style: str) -> Prompt:
    """What views of an object in a style should show."""
    return replace(case, style=style)
