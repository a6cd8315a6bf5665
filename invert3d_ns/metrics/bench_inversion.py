"""Benchmark of inversion: the cost of a step, in bare forwards of the same UNet on the same four views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.metrics.timing import compare_times
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior


def bench_inversion_step(prior: MultiViewPrior, quick: bool = False, vectors: int = 32) -> list[dict[str, Any]]:
    """Time bare UNet forwards and whole inversion steps, taking turns, and compare medians.

    A step is: noise the latents, encode the words, predict, go backward to the words, and move them. It is timed with
    every weight of the prior frozen, as inversion runs, and with the UNet's weights collecting gradients, as is easily
    left on by mistake.

    Args:
        prior: trained or not; the cost is the same.
        quick: five turns instead of thirty.
        vectors: number N of pseudo-word vectors.

    Returns:
        Rows ``bare forward``, ``inversion step`` and ``inversion step, weights not frozen`` with the median in
        milliseconds and ``ratio``, the median over turns of its time over the bare forward's.
    """
    from invert3d_ns.prior.unet import run_unet

    info, device = prior.info, prior.device
    views = info.num_views
    latents = torch.randn(1, views, info.latent_channels, info.latent_size, info.latent_size, device=device)
    cameras = camera_condition(torch.arange(views) * (360.0 / views), torch.tensor(0.0))[None].to(device)
    t = torch.tensor([prior.num_timesteps // 2], device=device)
    words = prior.word_vectors(info.init_word)[:1].repeat(vectors, 1).requires_grad_()
    optimizer = torch.optim.AdamW([words], lr=1e-3)
    with torch.no_grad():
        context = prior.encode_prompt("<object>", {"<object>": words})
        draft = prior.draft(context, cameras)

    @torch.no_grad()
    def forward() -> None:
        run_unet(prior.unet, latents, t, context, cameras, draft=draft)

    def step() -> None:
        noise = torch.randn_like(latents)
        prediction_context = prior.encode_prompt("<object>", {"<object>": words})
        prior.prediction_loss(latents, noise, t, prediction_context, cameras).backward()
        optimizer.step()
        optimizer.zero_grad()

    def unfrozen_step() -> None:
        prior.unet.requires_grad_(True)
        try:
            step()
        finally:
            prior.unet.requires_grad_(False)

    work = {
        "bare forward": forward,
        "inversion step": step,
        "inversion step, weights not frozen": unfrozen_step,
    }
    rows = compare_times(work, 5 if quick else 30, device, warmup=2)
    prior.unet.zero_grad(set_to_none=True)
    return [{"what": row["what"], "prior": info.name, "vectors": vectors} | row for row in rows]
