"""Benchmark of guidance: the cost of a step over that of its parts, timed alone in the same process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.metrics.timing import compare_times
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud

TIMESTEP = 0.4
"""Fraction of the diffusion up to which every kind goes here: all calls of the UNet cost the same wherever they are."""


def bench_guidance(prior: MultiViewPrior, cloud: SplatCloud, quick: bool = False) -> list[dict[str, Any]]:
    """Time a step of each kind of guidance on four views of splats, and its parts, taking turns.

    The parts: the views rendered, encoded, and what comes back through both, and as many bare calls of the UNet, with
    as many views each, as the step makes.

    Args:
        prior: trained or not; the cost is the same.
        cloud: the splats.
        quick: three turns instead of fifteen.

    Returns:
        For each kind, rows ``its parts`` and ``a step`` with the median in milliseconds, ``ratio``, the median over
        turns of the step over its parts, and ``UNet samples``.
    """
    from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS
    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.unet import run_unet
    from invert3d_ns.scenes.rendering import render_splats

    info, device, rows = prior.info, prior.device, []
    azimuths, elevations = torch.arange(4) * 90.0, torch.full((4,), 15.0)
    poses, cameras = (
        orbit_camera_to_world(azimuths, elevations),
        camera_condition(azimuths, elevations)[None].to(device),
    )
    leaves: dict[str, Any] = {name: value.to(device).requires_grad_() for name, value in cloud.tensors().items()}
    splats = replace(cloud, **leaves)
    with torch.no_grad():
        conditions = Conditions.of_prompt(prior, "a red chair", guidance_scale=7.5)
        latents = torch.randn(1, 4, info.latent_channels, info.latent_size, info.latent_size, device=device)

    def render() -> torch.Tensor:
        return render_splats(splats, poses, info.image_size, supersampling=2)[0][None]

    for kind, config in GUIDANCE_CONFIGS.items():
        guidance = config.setup(prior=prior, conditions=conditions)

        def step(guidance: Any = guidance) -> None:
            terms = guidance.loss(render(), cameras, torch.Generator().manual_seed(0), progress=0.5)
            torch.stack(list(terms.values())).sum().backward()

        sizes: list[int] = []

        def note(unet: Any, given: Any, sizes: list[int] = sizes) -> None:
            sizes.append(len(given[0]))

        hook = prior.unet.register_forward_pre_hook(note)
        step()
        hook.remove()

        def parts(sizes: list[int] = sizes) -> None:
            encoded = prior.encode_images(render())
            encoded.backward(torch.ones_like(encoded))
            t = torch.tensor([round(TIMESTEP * prior.num_timesteps)], device=device)
            with torch.no_grad():
                for size in sizes:
                    count = size // 4
                    many, looks = latents.expand(count, -1, -1, -1, -1), cameras.expand(count, -1, -1)
                    context = conditions.positive.expand(count, -1, -1)
                    run_unet(prior.unet, many, t.expand(count), context, looks, draft=prior.draft(context, looks))

        found = compare_times({"its parts": parts, "a step": step}, 3 if quick else 15, device)
        rows += [{"guidance": kind, "UNet samples": sum(sizes)} | row for row in found]
    return rows
