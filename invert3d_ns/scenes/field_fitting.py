"""Latent fields fitted to posed views of several of their blends: what they start from, or have to keep."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Progress
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import object_pixels
from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cameras import FOV_Y, pinhole_cameras
from invert3d_ns.scenes.field_drawing import draw_rays, explain_out_of_memory
from invert3d_ns.scenes.latent_field_model import LatentFieldModel
from invert3d_ns.scenes.ray_marching import camera_rays

SILHOUETTE = 0.1
"""Weight of the squared error of alpha beside that of the colors: enough to make white parts solid. Of two objects, 1.0
cost 2 dB on unseen views, and 0.3 cost 1."""
RATES = {"features": 5e-2, "heads": 2e-2}
"""Learning rates of Adam, which fall to a tenth; those of guidance, which is far noisier, are 0.01 and 0.001 (A3D)."""
RAYS = 512
"""In each step."""


def fit_field(
    field_model: LatentFieldModel,
    views: Float[Tensor, "P V 3 S S"],
    camera_to_world: Float[Tensor, "*P V r 4"],
    weights: Float[Tensor, "P K"],
    steps: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    fov_y: float = FOV_Y,
) -> None:
    """Train a field on posed views on white of P of its blends, in random rays of all of them.

    The field goes on from what it is, and is trained in place, by an Adam of its own.

    Args:
        field_model: of K objects, on its device.
        views: RGB in [0, 1], square; whatever differs from white is the object.
        camera_to_world: OpenGL axes, object frame; the same for all blends, or of each.
        weights: the blends, points of the simplex.
        steps: of Adam, each of 512 rays.
        seed: of the choice of rays, and of samples along them.
        progress: called with the steps done and all steps.
        fov_y: vertical field of view in degrees.

    Raises:
        InputError: the views are not square, or numbers of views, cameras, weights and objects do not fit together.
    """
    _check(field_model, views, camera_to_world, weights)
    blends, count, size = len(views), views.shape[1], views.shape[-1]
    device = field_model.device
    poses = camera_to_world[..., :3, :].to(device, torch.float32).expand(blends, count, 3, 4).flatten(0, 1)
    rays = camera_rays(pinhole_cameras(poses, size, fov_y=fov_y))
    colors = views.detach().float().flatten(0, 1).movedim(1, -1).flatten(0, 2)  # [P V S S, 3], on their own device
    covered = object_pixels(views.detach().float()).flatten().float()
    each = weights.to(device, torch.float32).repeat_interleave(count * size * size, dim=0)
    near, far = rays.span()
    hits = (far > near).nonzero()[:, 0].cpu()
    groups = field_model.get_param_groups()
    optimizer = torch.optim.Adam(
        [{"params": groups[name], "lr": rate} for name, rate in RATES.items()], betas=(0.9, 0.99), eps=1e-15
    )
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / max(steps, 1)))
    for step in range(steps):
        generator = random_stream("rays of a fit", seed, step)
        chosen = hits[torch.randint(len(hits), (RAYS,), generator=generator)]
        offsets = torch.rand(RAYS, generator=generator).to(device)
        truth, solid = colors[chosen].to(device), covered[chosen, None].to(device)
        there = chosen.to(device)
        theirs = each[there]
        with torch.enable_grad(), explain_out_of_memory(True, field_model.samples):
            drawn = draw_rays(
                field_model.field,
                field_model.occupancy,
                rays[there],
                lambda points, rows, theirs=theirs: theirs[rows],
                count=field_model.samples,
                offsets=offsets,
            )
            error = (drawn.color + 1 - drawn.alpha - truth).square().mean()
            loss = error + SILHOUETTE * (drawn.alpha - solid).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        falling.step()
        field_model.after_step(step, generator)
        if progress is not None:
            progress(step + 1, steps)


def _check(field_model: LatentFieldModel, views: Tensor, camera_to_world: Tensor, weights: Tensor) -> None:
    if views.dim() != 5 or views.shape[2] != 3 or views.shape[-1] != views.shape[-2] or 0 in views.shape:
        raise InputError(
            f"a field is fitted to square views (blends, views, 3, size, size), not to {tuple(views.shape)}; give those"
        )
    cameras = tuple(camera_to_world.shape[:-2])
    if cameras not in (tuple(views.shape[:2]), (views.shape[1],)):
        raise InputError(
            f"{views.shape[0]} blends in {views.shape[1]} views each do not fit to cameras {cameras}; give one camera "
            "for each view, the same ones for all blends or their own"
        )
    if tuple(weights.shape) != (len(views), field_model.objects):
        raise InputError(
            f"weights {tuple(weights.shape)} do not fit to {len(views)} blends of {field_model.objects} objects; give "
            "a row for each blend with a weight for each object"
        )
