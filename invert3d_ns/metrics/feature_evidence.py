"""Which layer and timestep of a prior give features that correspond, on objects whose correspondences are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from invert3d_ns.metrics.correspondence import GRID, Matches, match_places
from invert3d_ns.metrics.diffusion_features import layer_features
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world
from invert3d_ns.world.objects import WorldObject, sample_object
from invert3d_ns.world.primitives import Primitive
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import FRONTED
from invert3d_ns.world.vocabulary import COLORS

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

VIEWS = 8
"""Azimuths of each object, evenly spaced."""
AZIMUTH, ELEVATION = 11.0, 15.0
"""Degrees of the first view, and of all."""
LAYERS = ("up_blocks.0", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0", "up_blocks.1")
"""Layers of the bundled prior that are compared: its two decoder blocks, and what is between them."""
TIMESTEPS = (0.1, 0.261, 0.4)
"""Shares of the diffusion that are compared."""
RECOLORED, SHIFTED, ALIKE, TURNED, UPSIDE_DOWN = "recolored", "shifted", "alike", "turned", "upside down"
"""What an object is compared with: itself in another color and striped; its picture moved to the side by an eighth;
another of its class; the same one turned by a quarter; and the same one upside down."""

PLACE_ALONE = "place alone"
"""Matching that looks at nothing: the nearest place of the other silhouette. What a layer adds, it adds to this."""


@dataclass(frozen=True)
class Compared:
    """Views of an object, beside those of what it is compared with."""

    views: dict[str, Float[Tensor, "F 3 S S"]]
    """By name, "" for the object itself."""
    masks: dict[str, Float[Tensor, "F 1 S S"]]
    parts: dict[str, Int[Tensor, "F P"]]
    """Label of the part at each place of a grid."""


def tabulate_layers(
    prior: MultiViewPrior,
    layers: Sequence[str] = LAYERS,
    timesteps: Sequence[float] = TIMESTEPS,
    *,
    names: Sequence[str] = FRONTED,
    ensemble: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Score layers and timesteps on objects of some classes.

    Args:
        prior: any.
        layers: names of modules of its UNet.
        timesteps: shares of the diffusion.
        names: classes of several parts; by default those with a front, whose turns can be seen.
        ensemble: noises.
        seed: of objects and noises.
        progress: called with the number of passes of features done and of all.

    Returns:
        A line for each layer and timestep, in per cent, and one for :data:`PLACE_ALONE`; and the figures in them as
        shares, by "layer, timestep, what". Where it is known which places correspond, the mean miss in widths of the
        view: of an object recolored, or shifted. DIFT distance: of others that are alike, and that are turned; and the
        ratio. And in what share of the matches between alike and upside-down objects both places show the same part.
    """
    compared = [compare_with_variants(name, prior.info.image_size, seed + index) for index, name in enumerate(names)]
    cameras = camera_condition(_azimuths(), torch.full((VIEWS,), ELEVATION))
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    place = [{key: _place_features(len(views)) for key, views in one.views.items()} for one in compared]
    _add_line(table, figures, PLACE_ALONE, "", [_score(f, one) for f, one in zip(place, compared, strict=True)])
    done, total = 0, len(timesteps) * sum(len(one.views) for one in compared)
    for t in timesteps:
        found: dict[str, list[dict[str, float]]] = {layer: [] for layer in layers}
        for one in compared:
            features = {}
            for key, views in one.views.items():
                features[key] = layer_features(prior, views, cameras, layers, t, ensemble=ensemble, seed=seed)
                done += 1
                if progress is not None:
                    progress(done, total)
            for layer in layers:
                found[layer].append(_score({key: f[layer].cpu() for key, f in features.items()}, one))
        for layer, scores in found.items():
            _add_line(table, figures, layer, f"{t:g}", scores)
    return table, figures


def _add_line(
    table: list[dict[str, str]], figures: dict[str, float], layer: str, t: str, scores: Sequence[dict[str, float]]
) -> None:
    means = {what: fmean(score[what] for score in scores) for what in scores[0]}
    means["turned / alike"] = means[TURNED] / max(means[ALIKE], 1e-9)
    figures |= {f"{layer}, {t}, {what}": round(value, 4) for what, value in means.items()}
    shown = {what: f"{value:.2f}" if "/" in what else f"{100 * value:.1f}" for what, value in means.items()}
    table.append({"layer": layer, "t": t, **shown})


def compare_with_variants(name: str, size: int, seed: int) -> Compared:
    """Render a red object of a class, and what it is compared with."""
    rng = np.random.default_rng(seed)
    item, other = (sample_object(rng, name=name, color=color, plain=True, split="any") for color in ("red", "blue"))
    objects = {
        "": item,
        RECOLORED: _striped(item),
        ALIKE: other,
        TURNED: turn_object(other, (0.0, 0.0, 90.0)),
        UPSIDE_DOWN: turn_object(other, (180.0, 0.0, 0.0)),
    }
    poses = orbit_camera_to_world(_azimuths(), torch.tensor(ELEVATION))
    renders = render_objects(list(objects.values()), poses.expand(len(objects), -1, -1, -1), size)
    views, masks, parts = {}, {}, {}
    for index, key in enumerate(objects):
        views[key] = torch.from_numpy(renders.rgb[index].copy()).permute(0, 3, 1, 2).float() / 255
        masks[key] = torch.from_numpy(renders.alpha[index].copy())[:, None].float() / 255
        labels = torch.from_numpy(renders.parts[index].copy())[:, None].float()
        parts[key] = functional.interpolate(labels, (GRID, GRID), mode="nearest-exact").flatten(1).long()
    views[SHIFTED], masks[SHIFTED] = _shifted(views[""], 1.0), _shifted(masks[""], 0.0)
    return Compared(views, masks, parts)


def turn_object(item: WorldObject, degrees: tuple[float, float, float]) -> WorldObject:
    """An object turned about x, y and z of the object frame, in that order."""
    rotation = Primitive("box", (0, 0, 0), (1, 1, 1), turn=degrees).rotation()
    rows = item.primitives.copy()
    rows[:, 1:4] = rows[:, 1:4] @ rotation.T
    rows[:, 4:13] = (rotation @ rows[:, 4:13].reshape(-1, 3, 3)).reshape(-1, 9)
    return replace(item, primitives=rows)


def _score(features: dict[str, Tensor], one: Compared) -> dict[str, float]:
    found = {
        key: match_places(features[""], features[key], one.masks[""], one.masks[key]) for key in one.views if key != ""
    }
    eighth = torch.tensor([0.125, 0.0])
    return {
        RECOLORED: _mean(found[RECOLORED], lambda m, _: _miss(m, torch.zeros(2))),
        SHIFTED: _mean(found[SHIFTED], lambda m, _: _miss(m, eighth)),
        ALIKE: _mean(found[ALIKE], lambda m, _: fmean(float(side.mean()) for side in m.distances())),
        TURNED: _mean(found[TURNED], lambda m, _: fmean(float(side.mean()) for side in m.distances())),
        "parts, alike": _mean(found[ALIKE], lambda m, v: _same_parts(m, one.parts[""][v], one.parts[ALIKE][v])),
        "parts, upside down": _mean(
            found[UPSIDE_DOWN], lambda m, v: _same_parts(m, one.parts[""][v], one.parts[UPSIDE_DOWN][v])
        ),
    }


def _place_features(views: int) -> Float[Tensor, "F 4 P P"]:
    """Features whose cosine falls with the distance of places, and with nothing else."""
    middles = (torch.arange(GRID) + 0.5) / GRID
    x, y = torch.meshgrid(middles, middles, indexing="xy")
    return torch.stack([x.cos(), x.sin(), y.cos(), y.sin()]).expand(views, -1, -1, -1)


def _mean(found: Sequence[Matches | None], score: Callable[[Matches, int], float]) -> float:
    return fmean(score(matches, view) for view, matches in enumerate(found) if matches is not None)


def _miss(matches: Matches, offset: Float[Tensor, "2"]) -> float:
    """How far the neighbors of A's places are from where the places went, whose true place is ``offset`` away."""
    return float((matches.places_b[matches.a_to_b] - matches.places_a - offset).norm(dim=-1).mean())


def _same_parts(matches: Matches, parts_a: Int[Tensor, " P"], parts_b: Int[Tensor, " P"]) -> float:
    a, b = parts_a[_index(matches.places_a)], parts_b[_index(matches.places_b)]
    return float((a == b[matches.a_to_b]).float().mean() + (b == a[matches.b_to_a]).float().mean()) / 2


def _index(places: Float[Tensor, "P 2"]) -> Int[Tensor, " P"]:
    columns, rows = (places * GRID).long().unbind(-1)
    return rows * GRID + columns


def _striped(item: WorldObject) -> WorldObject:
    rows = item.primitives.copy()
    rows[:, 18:21], rows[:, 21:24], rows[:, 24] = COLORS["green"], COLORS["white"], 1
    return replace(item, color="green", pattern="striped", second="white", primitives=rows)


def _shifted(images: Float[Tensor, "F C S S"], fill: float) -> Float[Tensor, "F C S S"]:
    size = images.shape[-1]
    return functional.pad(images, (size // 8, 0), value=fill)[..., :size]


def _azimuths() -> Float[Tensor, " F"]:
    return AZIMUTH + torch.arange(VIEWS) * (360.0 / VIEWS)
