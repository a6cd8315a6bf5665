"""Aligned splats from views of several objects and of what lies between them, fitted together within seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.aligned_splats import match_points, weighted_sum
from invert3d_ns.scenes.cameras import FOV_Y
from invert3d_ns.scenes.cloud import SplatCloud, unit_quaternions
from invert3d_ns.scenes.fitting import RATES, WIDEST, ViewError, pixel_width, start_splats
from invert3d_ns.scenes.rendering import render_channels

OWN_RATE = 0.5
"""Learning rate of what one object has for itself, as a share of that of what all share."""
MOVED = 0.02
"""Weight of the mean squared distance by which an object's splats lie off what all share, in world units."""


def fit_aligned_splats(
    images: Float[Tensor, "P F 3 H W"],
    weights: Float[Tensor, "P K"],
    camera_to_world: Float[Tensor, "F r 4"],
    *,
    count: int = 1000,
    steps: int = 250,
    seed: int = 0,
    fov_y: float = FOV_Y,
    given: SplatCloud | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SplatCloud, ...]:
    """Fit K aligned objects to views of blends of them, all on white: splat i is the same part in each.

    Each object's splats start on its own visual hull and are matched one to one (:func:`.match_points`). What all share
    and what each has for itself are then optimized together, the latter at half the rate (:data:`OWN_RATE`), under the
    error of :func:`.fit_splats`; blends that are no vertex say how one object becomes the other.

    Args:
        images: RGB in [0, 1], square.
        weights: of each blend; the vertices must be among them.
        camera_to_world: OpenGL axes, object frame, the same for all blends.
        count: splats.
        steps: optimizer steps, each over all views.
        seed: of the choice of starting points.
        fov_y: vertical field of view in degrees.
        given: the first object as it is and stays; its number of splats counts then. The others start from it.
        progress: called with what is done and the total.

    Raises:
        InputError: a vertex is missing, there is one view or none, or the views are not square.
    """
    objects = weights.shape[1]
    vertices = [_row_of_vertex(weights, index) for index in range(objects)]
    images = images.detach().float()
    poses = camera_to_world[..., :3, :].float().cpu()
    if given is None:
        starts = [start_splats(images[row], poses, count, fov_y, seed) for row in vertices]
        starts = [starts[0], *(cloud.select(_matching(starts[0], cloud)) for cloud in starts[1:])]
    else:
        starts = [given.to(images.device)] * objects
    stacked = {name: torch.stack([getattr(cloud, name) for cloud in starts], 1) for name in RATES}
    shared = {name: values[:, 0].clone() if given is not None else values.mean(1) for name, values in stacked.items()}
    own = {name: (values - shared[name][:, None]).requires_grad_() for name, values in stacked.items()}
    groups = [{"params": [own[name]], "lr": OWN_RATE * rate} for name, rate in RATES.items()]
    if given is None:
        groups += [{"params": [shared[name].requires_grad_()], "lr": rate} for name, rate in RATES.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / max(steps, 1)))
    errors = [ViewError(views) for views in images]
    pixel = pixel_width(poses, images.shape[-1], fov_y)
    # The first object is given: only what the others have for themselves is learned.
    learned = torch.ones(objects, device=images.device)
    learned[0] = float(given is None)
    blends = weights.to(images)
    with torch.enable_grad():
        for step in range(steps):
            loss = images.new_zeros(())
            for blend, error in zip(blends, errors, strict=True):
                if given is not None and blend[0] == 1:
                    continue
                part = (blend * learned).expand(len(shared["means"]), -1)
                mixed = {name: shared[name] + weighted_sum(own[name], part) for name in RATES}
                current = replace(starts[0], **mixed)
                drawn, covered = render_channels(
                    current, current.base_colors, poses, images.shape[-1], background=1.0, fov_y=fov_y
                )
                loss = loss + error(drawn, covered)
            loss = loss + MOVED * own["means"].square().sum(-1).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            falling.step()
            if given is None:
                with torch.no_grad():
                    _bound(shared["scales"], own["scales"], math.log(min(pixel / 2, WIDEST)), math.log(WIDEST))
            if progress is not None:
                progress(step + 1, steps)
    found = []
    for index in range(objects):
        if given is not None and index == 0:
            found.append(starts[0])
            continue
        values = {name: (shared[name] + own[name][:, index]).detach() for name in RATES}
        found.append(replace(starts[0], **{**values, "quats": unit_quaternions(values["quats"])}))
    return tuple(found)


def _row_of_vertex(weights: Float[Tensor, "P K"], index: int) -> int:
    rows = (weights[:, index] == 1).nonzero()[:, 0]
    if not len(rows):
        raise InputError(f"there are no views of object {index + 1} alone; give some for each object")
    return int(rows[0])


def _matching(cloud: SplatCloud, other: SplatCloud) -> Tensor:
    return match_points(cloud.means, other.means).to(other.device)


def _bound(shared: Tensor, own: Tensor, low: float, high: float) -> None:
    """Keep every object's logarithms of sizes within bounds, in place; what all share stays."""
    own.copy_((shared[:, None] + own).clamp_(low, high) - shared[:, None])
