"""Cameras that a scene is looked at from while it takes on a style, and what it looked like from each before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cameras import orbit_cameras
from invert3d_ns.scenes.posed_images import spread_orbit
from invert3d_ns.scenes.rendering import render_splats

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from invert3d_ns.methods.stylization_settings import StyleCameraSettings
    from invert3d_ns.scenes.cloud import SplatCloud


def around_an_object(settings: StyleCameraSettings, size: int, seed: int) -> Cameras:
    """Cameras spread evenly over the directions of an orbit, turned at random as a whole."""
    turn = 360 * float(torch.rand((), generator=random_stream("cameras of a style", seed)))
    azimuths, elevations = spread_orbit(settings.count, settings.elevations)
    return orbit_cameras((azimuths + turn) % 360, elevations, size)


def of_one_size(cameras: Cameras, size: int) -> list[Cameras]:
    """Cameras in groups of one size in pixels, scaled so that the shorter side has ``size``."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, (width, height) in enumerate(torch.cat([cameras.width, cameras.height], -1).tolist()):
        sizes.setdefault((int(width), int(height)), []).append(index)
    groups = []
    for (width, height), rows in sizes.items():
        group = cameras[torch.tensor(rows)]
        group.rescale_output_resolution(size / min(width, height))
        groups.append(group)
    return groups


class StyleViews:
    """A fixed set of cameras, and a scene as it was from each of them, drawn when first asked for and kept.

    Args:
        source: the scene as it was, on the device that renders.
        groups: cameras, each group of one size.
        background: RGB in [0, 1] behind everything.
    """

    def __init__(self, source: SplatCloud, groups: list[Cameras], background: Float[Tensor, "3"]) -> None:
        self.source, self.groups = source, groups
        self.background = background.to(source.means)
        self._before: dict[tuple[int, int], Tensor] = {}
        self._chances = torch.tensor([float(len(group)) for group in groups])

    def draw(self, count: int, generator: torch.Generator) -> tuple[int, Int[Tensor, " B"]]:
        """Draw a group, and cameras of it that lie side by side in it, spread evenly; each as likely as any other."""
        group = int(torch.multinomial(self._chances, 1, generator=generator))
        total = len(self.groups[group])
        count = min(count, total)
        first = int(torch.randint(total, (), generator=generator))
        return group, (first + torch.arange(count) * max(total // count, 1)) % total

    def cameras(self, group: int, rows: Int[Tensor, " B"]) -> Cameras:
        """Some of a group's cameras."""
        return self.groups[group][rows]

    @torch.no_grad()
    def before(self, group: int, rows: Int[Tensor, " B"]) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
        """The scene as it was from these cameras, RGB in [0, 1], and its coverage."""
        missing = [row for row in rows.tolist() if (group, row) not in self._before]
        if missing:
            drawn = self.render(self.source, group, torch.tensor(missing))
            for row, image in zip(missing, torch.cat(drawn, 1).clamp(0, 1), strict=True):
                self._before[group, row] = (image * 255).round().byte()
        found = torch.stack([self._before[group, row] for row in rows.tolist()]).to(self.source.means) / 255
        return found[:, :3], found[:, 3:]

    def render(
        self, cloud: SplatCloud, group: int, rows: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
        """Views of splats from these cameras, differentiable, and their coverage."""
        return render_splats(cloud, self.cameras(group, rows), background=self.background)
