"""Renderers of solids that are known exactly, by casting rays: the reference of surfaces and textures from views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.scenes.cameras import pinhole_cameras
from invert3d_ns.scenes.meshes.depth_views import DepthRenderer

Solid = Callable[[Float[Tensor, "M 3"], Float[Tensor, "M 3"]], Float[Tensor, " M"]]
"""From origins and directions of rays to the distance at which each enters, in its lengths, or infinity."""


def sphere(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Solid:
    """A ball."""

    def enter(origins: Tensor, directions: Tensor) -> Tensor:
        offset = origins - torch.tensor(center)
        a, b = directions.square().sum(-1), (offset * directions).sum(-1)
        inside = b.square() - a * (offset.square().sum(-1) - radius**2)
        return torch.where(inside > 0, (-b - inside.clamp_min(0).sqrt()) / a, torch.inf)

    return enter


def box(x: float, y: float, z: float) -> Solid:
    """A box around the origin, by half its sides."""

    def enter(origins: Tensor, directions: Tensor) -> Tensor:
        half = torch.tensor([x, y, z])
        ends = torch.stack([(-half - origins) / directions, (half - origins) / directions])
        first, last = ends.amin(0).amax(-1), ends.amax(0).amin(-1)
        return torch.where(first < last, first, torch.inf)

    return enter


def position_color(points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 3"]:
    """A color for each place, smooth and different everywhere."""
    return 0.5 + 0.45 * points


def cast(*solids: Solid, deeper: float = 0.0) -> DepthRenderer:
    """A renderer of solids, colored by position; depths are too large by ``deeper``."""

    def render(poses: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        k = pinhole_cameras(poses, size).intrinsics[0]
        line = (torch.arange(size) + 0.5 - size / 2) / k[0, 0]
        y, x = torch.meshgrid(line, line, indexing="ij")
        axes = torch.stack([x, -y, -torch.ones_like(x)], dim=-1).view(-1, 3)  # of depth 1
        pictures = []
        for pose in poses:
            directions = axes @ pose[:3, :3].T
            origins = pose[:3, 3].expand_as(directions)
            depth = torch.stack([enter(origins, directions) for enter in solids]).amin(0)
            hit = depth.isfinite()
            points = torch.where(hit[:, None], origins + directions * depth[:, None], 0.0)
            rgb = position_color(points) * hit[:, None]
            pictures.append(torch.cat([rgb, hit[:, None].float(), (depth + deeper)[:, None]], dim=1))
        image = torch.stack(pictures).view(-1, size, size, 5).permute(0, 3, 1, 2)
        return image[:, :3], image[:, 3:4], image[:, 4:]

    return render
