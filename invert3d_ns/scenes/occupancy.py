"""Which cells of the object's cube hold something of any of the objects that share a field.

nerfacc keeps the cells (their running maximum, their threshold) on every device, and marches through them on a GPU
where its kernels are compiled. Elsewhere :mod:`.ray_marching` asks cell by cell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import cast

import torch
from jaxtyping import Bool, Float
from nerfacc import OccGridEstimator
from torch import Tensor, nn

from invert3d_ns.base.notices import warn
from invert3d_ns.base.random import global_stream
from invert3d_ns.scenes.ray_marching import SPHERE, Rays, Samples

RESOLUTION = 32
"""Cells along each edge (A3D, official code)."""
EVERY = 16
"""Steps between two updates (A3D, official code)."""
LEAST = 0.01
"""Opacity across a cell's edge from which on it is occupied."""
DECAY = 0.85
"""What is left in one update of what a cell held before; A3D's 0.95 keeps the fog of the first steps for thousands."""
_ALWAYS = 1 << 62
"""Steps for which all cells are looked at. nerfacc later takes half of them, which saves little beside the views."""

_VERTICES = 4
"""Objects, at most, that a cell is looked at under in one update."""

PointDensity = Callable[[Float[Tensor, "M 3"], Float[Tensor, "M K"]], Float[Tensor, " M"]]
"""Density at points under weights of their own."""


class Occupancy(nn.Module):
    """A grid over the cube from -1 to 1, occupied everywhere until its first update.

    Args:
        objects: that share the field.
    """

    def __init__(self, objects: int) -> None:
        super().__init__()
        self.objects = objects
        self.grid = OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=RESOLUTION)  # type: ignore[arg-type]
        self.grid.binaries.fill_(True)

    @property
    def binaries(self) -> Bool[Tensor, "X Y Z"]:
        """Which cells are occupied."""
        return self.grid.binaries[0]

    def holds(self, points: Float[Tensor, "*M 3"]) -> Bool[Tensor, "*M"]:
        """Whether points lie in occupied cells; those out of the cube lie in none."""
        places = ((points + 1) * (RESOLUTION / 2)).floor()
        inside = ((places >= 0) & (places < RESOLUTION)).all(-1)
        cells = places.clamp(0, RESOLUTION - 1) @ places.new_tensor([RESOLUTION**2, RESOLUTION, 1.0])
        return self.binaries.flatten()[cells.long()] & inside

    @property
    def held(self) -> Float[Tensor, " C"]:
        """What each cell held lately: density by the edge of a cell, at most."""
        return cast(Tensor, self.grid.occs)

    @property
    def share(self) -> float:
        """Share of the cells that are occupied."""
        return float(self.grid.binaries.float().mean())

    def update(self, step: int, density: PointDensity, generator: torch.Generator) -> None:
        """Look at the field again, in every 16th step: each cell at a random point of its own, under several weights.

        A3D looks under one, which it draws from a cube; here the densest of :func:`spread_weights` counts, so that no
        object has holes until its turn comes.

        Args:
            step: of training.
            density: of the field.
            generator: of the random points, on the CPU.
        """
        if step % EVERY:
            return
        edge = 2 / RESOLUTION

        def opacity(points: Float[Tensor, "M 3"]) -> Float[Tensor, "M 1"]:
            near = (points.norm(dim=-1) < SPHERE + 3**0.5 * edge).nonzero()[:, 0]  # of cells that rays may pass
            places = points.index_select(0, near)
            weights = spread_weights(len(places), self.objects, generator).to(points)
            densest = torch.stack([density(places, each) for each in weights]).amax(0)
            return points.new_zeros(len(points)).index_copy_(0, near, densest * edge)[:, None]

        self.grid.train()  # or it refuses
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.no_grad(), global_stream("points of cells", self.held.device, seed):
            self.grid.update_every_n_steps(
                step, opacity, occ_thre=LEAST, ema_decay=DECAY, warmup_steps=_ALWAYS, n=EVERY
            )

    def marches_on_gpu(self, device: torch.device) -> bool:
        """Whether :meth:`march_on_gpu` works."""
        return device.type == "cuda" and _has_kernels()

    def march_on_gpu(
        self,
        rays: Rays,
        chosen: Tensor,
        near: Float[Tensor, " N"],
        far: Float[Tensor, " N"],
        step: float,
    ) -> Samples:
        """Samples of the chosen N rays in occupied cells between two distances, by nerfacc's kernels."""
        part = rays[chosen]
        index, starts, ends = self.grid.sampling(
            part.origins, part.directions, t_min=near, t_max=far, render_step_size=step
        )
        return Samples(chosen[index], (starts + ends) / 2, ends - starts)


def spread_weights(count: int, objects: int, generator: torch.Generator) -> Float[Tensor, "L M K"]:
    """Points of the simplex for each of M cells: all vertices, of more than four objects four at random, then one that
    is evenly distributed (Dirichlet of ones).
    """
    first = torch.randint(objects, (count,), generator=generator)
    inside = -torch.rand(count, objects, generator=generator).clamp_min(1e-12).log()
    vertices = [torch.eye(objects)[(first + turn) % objects] for turn in range(min(objects, _VERTICES))]
    return torch.stack([*vertices, inside / inside.sum(-1, keepdim=True)] if objects > 1 else vertices)


@cache
def _has_kernels() -> bool:
    """Whether nerfacc's CUDA kernels are there, or can be compiled."""
    try:
        return import_module("nerfacc.cuda._backend")._C is not None
    except Exception as error:  # whatever a compiler says
        warn(f"nerfacc's kernels cannot be compiled ({error}); rays are marched in torch, which is slower")
        return False
