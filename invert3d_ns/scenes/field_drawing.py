"""Pictures of a latent field along rays: samples placed, culled, evaluated and summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.latent_field import LatentField
from invert3d_ns.scenes.occupancy import Occupancy
from invert3d_ns.scenes.ray_marching import (
    Rays,
    Samples,
    along_rays,
    place_samples,
    visible,
    weights_of,
)
from invert3d_ns.scenes.shading import Lighting, shade

LEAST_WEIGHT = 1e-4
"""Samples of a smaller share in their ray's picture are left out, when training as well: behind surfaces there is no
gradient, and in thin air the softplus lets pass as little of it as there is density."""
POINTS_AT_ONCE = 1 << 18
"""Of which density alone is evaluated, without gradients."""

WeightsAt = Callable[[Float[Tensor, "M 3"], Int[Tensor, " M"]], Float[Tensor, "*M K"]]
"""Weights of the objects at points, given also which ray each lies on; the same for all, or of each."""


@dataclass(frozen=True)
class Drawn:
    """What rays see."""

    color: Float[Tensor, "R 3"]
    """Premultiplied by alpha: over black."""
    alpha: Float[Tensor, "R 1"]
    """In [0, 1]."""
    depth: Float[Tensor, "R 1"]
    """Mean depth along the camera's axis, in world units; 0 where nothing is seen."""
    normals: Float[Tensor, "R 3"] | None
    """Sums of the normals of what is seen, of length alpha at most, where asked for."""
    samples: Samples
    """What was evaluated."""
    weights: Float[Tensor, " M"]
    """Of the samples in the pictures."""
    sample_normals: Float[Tensor, "M 3"] | None
    """Of the samples, of length 1, where asked for."""


def draw_rays(
    field: LatentField,
    occupancy: Occupancy,
    rays: Rays,
    weights_at: WeightsAt,
    *,
    count: int,
    offsets: Float[Tensor, " R"] | float = 0.5,
    lighting: Lighting | None = None,
    normals: bool = False,
    within: Callable[[Float[Tensor, "M 3"]], Bool[Tensor, " M"]] | None = None,
    least_weight: float = LEAST_WEIGHT,
) -> Drawn:
    """What rays see of a field: differentiable in it, not in the rays.

    Args:
        field: what is drawn.
        occupancy: cells that are not looked into.
        rays: all on the field's device.
        weights_at: under which weights of the objects.
        count: samples along the diameter of the sphere; no ray has more.
        offsets: of the samples along each ray, as a share of their spacing, in [0, 1].
        lighting: with a light for each ray; albedo is shown by default.
        normals: whether to find these, which takes four more looks at the density of all that is seen.
        within: what to draw, if not all.
        least_weight: samples of a smaller share are left out.
    """
    samples = place_samples(rays, occupancy, count, offsets)
    points = samples.points(rays)
    if within is not None:
        inside = within(points).nonzero()[:, 0]
        samples, points = samples.rows(inside), points.index_select(0, inside)
    rows, density, albedo = _seen(field, samples, points, weights_at, least_weight)
    samples, points = samples.rows(rows), points.index_select(0, rows)
    shares = weights_of(density, samples)
    lit = lighting is not None and lighting.shading != "albedo"
    directions = field.normals(points, weights_at(points, samples.rays)) if normals or lit else None
    color = albedo
    if lighting is not None and directions is not None:
        lights = lighting.positions.index_select(0, samples.rays)
        color = shade(albedo, points, directions, lights, lighting.shading)
    depths = (samples.distances * rays.cosines.index_select(0, samples.rays))[:, None]
    channels = [color, torch.ones_like(depths), depths]
    if normals and directions is not None:
        channels.append(directions)
    summed = along_rays(shares[:, None] * torch.cat(channels, dim=1), samples.rays, len(rays))
    alpha = summed[:, 3:4]
    return Drawn(
        color=summed[:, :3],
        alpha=alpha,
        depth=summed[:, 4:5] / alpha.clamp_min(1e-6),
        normals=summed[:, 5:] if normals else None,
        samples=samples,
        weights=shares,
        sample_normals=directions,
    )


def _seen(
    field: LatentField, samples: Samples, points: Float[Tensor, "M 3"], weights_at: WeightsAt, least_weight: float
) -> tuple[Int[Tensor, " V"], Float[Tensor, " V"], Float[Tensor, "V 3"]]:
    """Rows of the samples that are seen, their densities and albedos; with gradients, where these are kept."""
    training = torch.is_grad_enabled()
    looked_at: list[tuple[Tensor, Tensor]] = []

    def density(rows: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        found = []
        for some in rows.split(POINTS_AT_ONCE):
            places = points.index_select(0, some)
            features = field.features(places)
            found.append(field.density_of(features, places, weights_at(places, samples.rays.index_select(0, some))))
            if not training:
                looked_at.append((some, features))
        return torch.cat(found)

    rows, found = visible(samples, density, least_weight)
    places = points.index_select(0, rows)
    weights = weights_at(places, samples.rays.index_select(0, rows))
    if training or not looked_at:
        return rows, *field(places, weights)
    # Without gradients the features that density was found by serve for the albedo, too.
    order = torch.cat([some for some, _ in looked_at])
    where = torch.zeros_like(samples.rays).index_copy_(0, order, torch.arange(len(order), device=order.device))
    features = torch.cat([part for _, part in looked_at]).index_select(0, where.index_select(0, rows))
    return rows, found, field.albedo_of(features, weights)


@contextmanager
def explain_out_of_memory(training: bool, count: int) -> Iterator[None]:
    """Turn the error that a GPU's memory is full into one line that names the flags that help.

    Args:
        training: whether gradients are kept.
        count: samples along the diameter of the sphere, as now.

    Raises:
        InputError: the GPU's memory is full.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        other = "smaller or fewer views at a time" if training else "--pipeline.model.eval-num-rays-per-chunk"
        raise InputError(
            f"the GPU has too little memory to draw the field; lower --pipeline.model.samples (now {count}), or {other}"
        ) from error
