"""Deterministic trajectories of diffusion (DDIM) through chosen timesteps, up or down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.prior.out_of_memory import explain_out_of_memory

if TYPE_CHECKING:
    from invert3d_ns.guidance.base import NoisePredictor
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents


@torch.no_grad()
def walk(
    prior: MultiViewPrior,
    predictor: NoisePredictor,
    latents: Latents,
    nodes: Sequence[int],
    cameras: Float[Tensor, "B F 16"],
) -> tuple[list[Latents], Latents | None]:
    """Go from node to node, up or down, each step under the prediction at the node that it leaves.

    Args:
        predictor: with its own guidance.
        latents: at the first node.
        nodes: timesteps; one call of the UNet for each but the last.

    Returns:
        The latents at every node, and the last prediction (noise or v, as the prior predicts), None of one node alone.
    """
    from invert3d_ns.prior.sampling import ddim_step

    found, prediction = [latents], None
    for here, there in pairwise(nodes):
        t_from, t_to = (torch.full((len(latents),), t, device=latents.device) for t in (here, there))
        with explain_out_of_memory("sampling", prior.options):
            prediction = predictor.predict(prior, found[-1], t_from, cameras)
        found.append(ddim_step(prior, found[-1], prediction, t_from, t_to))
    return found, prediction


def edit_along(
    prior: MultiViewPrior,
    unguided: NoisePredictor,
    conditions: NoisePredictor,
    latents: Latents,
    noise: Latents,
    nodes: Sequence[int],
    cameras: Float[Tensor, "B F 16"],
) -> tuple[list[Latents], list[Latents]]:
    """Edit views: noise them along a trajectory under some words, and denoise them along it under others (GE3D).

    Args:
        unguided: what the way up is made under.
        conditions: what the way down is made under, with its own guidance.
        latents: clean.
        noise: that ``latents`` have at the first node.
        nodes: timesteps, from 0 up.

    Returns:
        The latents at every node on the way up, and those on the way down in the same order: the first are the edit.
    """
    first = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
    up, _ = walk(prior, unguided, prior.add_noise(latents, noise, first), nodes, cameras)
    down, _ = walk(prior, conditions, up[-1], nodes[::-1], cameras)
    return up, down[::-1]


def start_noise(latents: Latents, generator: torch.Generator, offset: float = 0.0) -> Latents:
    """Unit Gaussian noise on the latents' device, and ``offset`` times one number for each channel of each view."""
    noise = torch.randn(latents.shape, generator=generator)
    if offset:
        noise += offset * torch.randn(*latents.shape[:3], 1, 1, generator=generator)
    return noise.to(latents)
