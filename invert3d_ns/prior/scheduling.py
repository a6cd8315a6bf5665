"""Sampling: from noise to latents, through diffusers' schedulers.

Everything that depends on the prior (noise or v, zero terminal signal-to-noise ratio, where timesteps lie) is read by
diffusers from the config of the prior's own scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

Sampler = Literal["ddim", "dpm++"]


def make_scheduler(prior: MultiViewPrior, sampler: Sampler = "ddim") -> Any:
    """A fresh diffusers scheduler on the prior's noise schedule: deterministic DDIM, or second-order DPM-Solver++."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    # Without this entry every value counts as chosen; with it, another scheduler class would fall back to its own
    # defaults for what the prior's left at its defaults, timestep spacing for one.
    config = {key: value for key, value in prior.scheduler.config.items() if key != "_use_default_values"}
    # Latents are not confined to [-1, 1], the range to which DDIMScheduler clips unless told otherwise.
    config |= {"clip_sample": False, "thresholding": False}
    if sampler == "ddim":
        return DDIMScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2)


def sample_latents(
    prior: MultiViewPrior,
    noise: Float[Tensor, "B F c h w"],
    context: Float[Tensor, "B L C"],
    cameras: Float[Tensor, "B F 16"],
    *,
    negative_context: Float[Tensor, "1 L C"] | None = None,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    steps: int = 30,
    sampler: Sampler = "ddim",
    callback: Callable[[int, Float[Tensor, "B F c h w"]], None] | None = None,
) -> Float[Tensor, "B F c h w"]:
    """Denoise unit Gaussian ``noise`` to latents in ``steps`` network evaluations (two in one batch under guidance)."""

    def predict(latents: Tensor, t: Tensor) -> Tensor:
        return prior.predict(
            latents,
            t,
            context,
            cameras,
            negative_context=negative_context,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
        )

    return denoise(prior, noise, predict, steps=steps, sampler=sampler, callback=callback)


def start_index(steps: int, strength: float) -> int:
    """How many of ``steps`` are skipped when the last ``strength`` (in (0, 1]) of the diffusion is redone; at least one
    step is left.
    """
    return steps - max(1, min(steps, round(steps * strength)))


def denoise(
    prior: MultiViewPrior,
    noise: Float[Tensor, "B F c h w"],
    predict: Callable[[Float[Tensor, "B F c h w"], Int[Tensor, " B"]], Float[Tensor, "B F c h w"]],
    *,
    steps: int = 30,
    sampler: Sampler = "ddim",
    strength: float = 1.0,
    start: Callable[[Int[Tensor, " B"]], Float[Tensor, "B F c h w"]] | None = None,
    callback: Callable[[int, Float[Tensor, "B F c h w"]], Float[Tensor, "B F c h w"] | None] | None = None,
) -> Float[Tensor, "B F c h w"]:
    """The sampling loop itself, for any way to predict.

    Args:
        noise: unit Gaussian; the result when nothing else is given to start from.
        predict: the UNet's own prediction (noise or v) for latents at timesteps (B,).
        strength: share of the diffusion that is run; below 1, ``start`` says from which latents.
        start: the latents at the first timestep that is run (SDEdit: clean latents with noise added).
        callback: called after each step with its index and the latents; latents that it returns take their place.
    """
    scheduler = make_scheduler(prior, sampler)
    scheduler.set_timesteps(steps, device=noise.device)
    first = start_index(steps, strength)
    timesteps = scheduler.timesteps[first * scheduler.order :]
    if first and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    latents = noise * scheduler.init_noise_sigma if start is None else start(timesteps[0].expand(len(noise)))
    for index, t in enumerate(timesteps):
        prediction = predict(scheduler.scale_model_input(latents, t), t.expand(len(latents)))
        latents = scheduler.step(prediction, t, latents, return_dict=False)[0]
        if callback is not None:
            replaced = callback(index, latents)
            latents = latents if replaced is None else replaced
    return latents
