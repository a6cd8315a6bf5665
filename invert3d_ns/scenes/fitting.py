"""Splats from a handful of small posed images of an object, within seconds on one core."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import object_pixels
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.scenes.rendering import render_channels
from invert3d_ns.scenes.silhouettes import Views, alpha_from_background, hull_colors, visual_hull

WIDEST = 0.12
"""Largest standard deviation of a fitted splat, in world units: larger ones explain one view and spoil the others."""
SILHOUETTE, OUTSIDE = 1.0, 1.0
"""Weights of the silhouettes' error, and of what lies more than a pixel outside of them. Splats the color of the
background explain a hole in a view as well as no splats do, and smear over it in all others."""
RATES = {"means": 1e-3, "scales": 2e-2, "quats": 1e-2, "opacities": 5e-2, "features_dc": 5e-2}
"""Learning rates of Adam; they fall to a tenth."""


def fit_splats(
    images: Float[Tensor, "F 3 H W"],
    camera_to_world: Float[Tensor, "F r 4"],
    *,
    count: int = 1000,
    steps: int = 250,
    seed: int = 0,
    fov_y: float = FOV_Y,
) -> SplatCloud:
    """Fit splats to views of an object on white, on the device of the views.

    They start on the surface of the views' visual hull, or in a ball where the silhouettes share no point. Adam then
    lowers the absolute error of the views and of their silhouettes; there is no densification.

    What the weights are worth, by the judge on unseen sides of six sampled objects with holes, handles and legs: colors
    right on 90 % of views and patterns on 72 %, where a weight of 0.2 on a soft silhouette alone had 87 and 67 %.

    Args:
        images: RGB in [0, 1], square; whatever differs from white is the object.
        camera_to_world: OpenGL axes, object frame (3x4 or 4x4), on any device.
        count: number of splats.
        steps: optimizer steps, each over all views.
        seed: of the choice of starting points.
        fov_y: vertical field of view in degrees.

    Raises:
        InputError: there is one view or none, or the views are not square.

    Example:
        >>> from invert3d_ns.scenes.cameras import orbit_camera_to_world
        >>> poses = orbit_camera_to_world(torch.tensor([0.0, 90.0, 180.0, 270.0]), torch.tensor(15.0))
        >>> cloud = fit_splats(torch.ones(4, 3, 64, 64), poses, count=10, steps=1)
        >>> len(cloud)
        10
    """
    if len(images) < 2 or images.shape[-1] != images.shape[-2] or len(images) != len(camera_to_world):
        raise InputError("splats are fitted to two or more square views with a camera each; give more views")
    images = images.detach().float()
    poses = camera_to_world[..., :3, :].float().cpu()
    size = images.shape[-1]
    cloud = start_splats(images, poses, count, fov_y, seed)
    error = ViewError(images)
    leaves = {name: getattr(cloud, name).clone().requires_grad_() for name in RATES}
    pixel = pixel_width(poses, size, fov_y)
    optimizer = torch.optim.Adam([{"params": [leaves[name]], "lr": rate} for name, rate in RATES.items()], eps=1e-15)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / max(steps, 1)))
    with torch.enable_grad():
        for _ in range(steps):
            current = SplatCloud(**leaves, features_rest=cloud.features_rest)
            drawn, covered = render_channels(current, current.base_colors, poses, size, background=1.0, fov_y=fov_y)
            error(drawn, covered).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            falling.step()
            with torch.no_grad():
                leaves["scales"].clamp_(math.log(min(pixel / 2, WIDEST)), math.log(WIDEST))
    final = {name: leaf.detach() for name, leaf in leaves.items()}
    final["quats"] = functional.normalize(final["quats"], dim=-1)
    return SplatCloud(**final, features_rest=cloud.features_rest)


class ViewError:
    """The error of views of an object on white: of colors, of silhouettes, and of what lies outside of these.

    Args:
        images: the truth, RGB in [0, 1].
    """

    def __init__(self, images: Float[Tensor, "F 3 H W"]) -> None:
        self.images = images
        self.mask = object_pixels(images).float()
        self.outside = 1 - functional.max_pool2d(self.mask[:, None], 3, 1, 1)[:, 0]

    def __call__(self, drawn: Float[Tensor, "F 3 H W"], covered: Float[Tensor, "F 1 H W"]) -> Float[Tensor, ""]:
        """The weighted sum, of pictures on white and their alphas."""
        error = (drawn - self.images).abs().mean() + SILHOUETTE * (covered[:, 0] - self.mask).abs().mean()
        return error + OUTSIDE * (covered[:, 0] * self.outside).mean()


def pixel_width(poses: Float[Tensor, "F r 4"], size: int, fov_y: float = FOV_Y) -> float:
    """World units of a pixel at the origin, on average over cameras.

    Splats of less explain a pixel of one view and nothing in the others.
    """
    return float(poses[:, :3, 3].norm(dim=-1).mean()) * 2 * math.tan(math.radians(fov_y) / 2) / size


def lift_to_splats(
    cloud: SplatCloud,
    maps: Float[Tensor, "F K H W"],
    camera_to_world: Float[Tensor, "F r 4"],
    *,
    supersampling: int = 1,
    fov_y: float = FOV_Y,
) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"]]:
    """Lift square maps over views to the splats: each gets their mean, weighted by what it adds to each pixel.

    A rendered view is linear in the splats' colors, so the gradient of sum(map * view) with respect to them is the
    exact sum of the map over the splat's contributions: occlusion, opacity and footprint included.

    Args:
        cloud: on the device that renders.
        maps: K numbers of any range for each pixel, on any device.
        camera_to_world: OpenGL axes, object frame (3x4 or 4x4), on any device.
        supersampling: each pixel is the mean of this many samples squared.
        fov_y: vertical field of view in degrees.

    Returns:
        The means, 0 for splats that no view shows; and each splat's contribution, in pixels summed over the views.
    """
    with torch.enable_grad():
        values = torch.zeros(len(cloud), maps.shape[1] + 1, device=cloud.means.device, requires_grad=True)
        drawn, _ = render_channels(
            cloud, values, camera_to_world, maps.shape[-1], supersampling=supersampling, fov_y=fov_y
        )
        summed = drawn * torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1).to(drawn)
        (sums,) = torch.autograd.grad(summed.sum(), values)
    weight = sums[:, -1:]
    return torch.where(weight > 0, sums[:, :-1] / weight.clamp_min(1e-12), 0.0), weight[:, 0]


def start_splats(
    images: Float[Tensor, "F 3 H W"], poses: Float[Tensor, "F 3 4"], count: int, fov_y: float = FOV_Y, seed: int = 0
) -> SplatCloud:
    """Splats to start a fit from: on the surface of the views' visual hull, or in a ball where there is none.

    Args:
        images: on white, RGB in [0, 1], on any device, which is that of the splats.
        poses: OpenGL axes, object frame, on the CPU.
        seed: of the choice of points.
    """
    here = images.cpu()
    alphas = torch.stack([alpha_from_background(image.permute(1, 2, 0), torch.ones(3)) for image in here])
    return _start(here, alphas, poses, count, fov_y, torch.Generator().manual_seed(seed)).to(images.device)


def _start(
    images: Float[Tensor, "F 3 H W"],
    alphas: Float[Tensor, "F H W"],
    poses: Float[Tensor, "F 3 4"],
    count: int,
    fov_y: float,
    generator: torch.Generator,
) -> SplatCloud:
    focal = 0.5 / math.tan(math.radians(fov_y) / 2)
    shape = (len(images), 2)
    views = Views(
        poses, torch.full(shape, focal), torch.full(shape, 0.5), list(images.permute(0, 2, 3, 1)), list(alphas)
    )
    try:
        points, surface, spacing = visual_hull(views, resolution=40, rounds=2)
        points = points[surface] if surface.sum() >= count // 4 else points
        chosen = torch.randint(len(points), (count,), generator=generator)
        # Several splats may start from one voxel.
        means = points[chosen] + spacing * (torch.rand(count, 3, generator=generator) - 0.5)
    except InputError:
        direction = functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
        means = direction * OBJECT_RADIUS * 0.6 * torch.rand(count, 1, generator=generator) ** (1 / 3)
    nearest = torch.cdist(means, means).topk(min(4, count), largest=False).values[:, 1:].mean(1, keepdim=True)
    scales = nearest.nan_to_num(WIDEST).clamp(5e-3, WIDEST / 2).log().expand(-1, 3)
    return SplatCloud(
        means=means,
        scales=scales.contiguous(),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4).contiguous(),
        opacities=torch.full((count, 1), 1.0),
        features_dc=(hull_colors(views, means) - 0.5) / SH_C0,
        features_rest=torch.zeros(count, 0, 3),
    )
