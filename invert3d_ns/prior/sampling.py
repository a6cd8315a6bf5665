"""From noise to latents and back, through diffusers' schedulers, under anything that predicts.

Everything that depends on the prior (noise or v, zero terminal signal-to-noise ratio, where timesteps lie) is read by
diffusers from the config of the prior's own scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.settings import Sampler
from invert3d_ns.prior.unet import Latents

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

Predict = Callable[[Latents, Int[Tensor, " B"]], Latents]
"""Latents and their timesteps to a prediction of the prior's kind (noise or v), such as ``Conditions.predict``."""
ALPHA_BAR_FLOOR = 1e-6
"""An epsilon prior's clean latents are divided by sqrt(alpha_bar), clamped here; v-prediction never divides. Less than
this is pure noise."""


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


LEAST_STEPS = 4
"""Steps that are run at least where nobody says how many, however small the share of the diffusion is."""


def most_steps(prior: MultiViewPrior, sampler: Sampler = "ddim") -> int:
    """Denoising steps of a whole diffusion that can be taken at most.

    With leading spacing, timesteps are multiples of a whole number; were it 1, they would begin in the middle.
    """
    if make_scheduler(prior, sampler).config["timestep_spacing"] != "leading":
        return prior.num_timesteps
    # DPM-Solver divides by one more than the steps.
    return max(1, prior.num_timesteps // 2 - (sampler == "dpm++"))


def default_steps(prior: MultiViewPrior, strength: float = 1.0, sampler: Sampler = "ddim") -> int:
    """Denoising steps of a whole diffusion where nobody says how many: the prior's own number.

    Where only the last ``strength`` of the diffusion is run, enough for :data:`LEAST_STEPS` of them to be run.

    Example:
        >>> from invert3d_ns.prior.checkpoints import load_prior
        >>> [default_steps(load_prior("bundled", "cpu"), strength) for strength in (1.0, 0.5, 0.2)]
        [8, 8, 20]
    """
    own = prior.info.sampling_steps
    return min(max(own, math.ceil(min(LEAST_STEPS, own) / strength)), most_steps(prior, sampler))


def count_steps(steps: int, strength: float = 1.0) -> int:
    """How many of ``steps`` are run when the last ``strength`` (in (0, 1]) of the diffusion is; at least one."""
    return max(1, min(steps, round(steps * strength)))


def sampling_timesteps(
    prior: MultiViewPrior, steps: int | None = None, *, strength: float = 1.0, sampler: Sampler = "ddim"
) -> Int[Tensor, " S"]:
    """The timesteps that :func:`denoise` runs with the same settings, the noisiest first, on the prior's device."""
    steps = default_steps(prior, strength, sampler) if steps is None else steps
    return _scheduler_at(prior, steps, strength, sampler)[1]


def start_noise(prior: MultiViewPrior, views: int, seeds: Sequence[int]) -> Latents:
    """Unit Gaussian noise for as many objects as there are seeds, drawn on the CPU, on the prior's device."""
    shape = (views, prior.info.latent_channels, prior.info.latent_size, prior.info.latent_size)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(prior.device)


def denoise(
    prior: MultiViewPrior,
    noise: Latents,
    predict: Predict,
    *,
    steps: int | None = None,
    sampler: Sampler = "ddim",
    strength: float = 1.0,
    start: Callable[[Int[Tensor, " B"]], Latents] | None = None,
    callback: Callable[[int, Latents], Latents | None] | None = None,
) -> Latents:
    """Denoise step by step, under anything that predicts.

    Args:
        noise: unit Gaussian; where it starts when ``start`` is None.
        predict: the UNet's own prediction (noise or v) for latents at timesteps (B,).
        steps: of a whole diffusion, each one call of ``predict``; see :func:`default_steps` if None.
        strength: share of the diffusion that is run; below 1, ``start`` says from which latents.
        start: the latents at the first timestep that is run (SDEdit: clean latents with noise added).
        callback: called after each step with its index and the latents; latents that it returns take their place.
    """
    steps = default_steps(prior, strength, sampler) if steps is None else steps
    scheduler, timesteps = _scheduler_at(prior, steps, strength, sampler)
    latents = noise * scheduler.init_noise_sigma if start is None else start(timesteps[0].expand(len(noise)))
    for index, t in enumerate(timesteps):
        prediction = predict(scheduler.scale_model_input(latents, t), t.expand(len(latents)))
        latents = scheduler.step(prediction, t, latents, return_dict=False)[0]
        if callback is not None:
            replaced = callback(index, latents)
            latents = latents if replaced is None else replaced
    return latents


def ddim_step(
    prior: MultiViewPrior,
    latents: Latents,
    prediction: Latents,
    t_from: Int[Tensor, " B"],
    t_to: Int[Tensor, " B"],
    *,
    predicted_at: Int[Tensor, " B"] | None = None,
) -> Latents:
    """Move latents along the deterministic diffusion (DDIM, Song et al. 2021, eq. 12), either way.

    sqrt(alpha_bar_to) clean + sqrt(1 - alpha_bar_to) noise, where clean and noise are what the prediction and the
    latents stand for together. For noise and v alike, at zero terminal signal-to-noise ratio too. Differentiable.

    Args:
        latents: at ``t_from``.
        prediction: of the prior's kind (noise or v), at ``predicted_at``.
        t_from: timesteps; below 0 for the end of sampling, see :meth:`MultiViewPrior.alpha_bar`.
        t_to: timesteps to go to; below 0 for the end of sampling.
        predicted_at: timesteps that v is in terms of; ``t_from`` if None. With ``t_to`` the step is implicit: it
            inverts, to the last bit of mathematics, the step from ``t_to`` to ``t_from`` under the same prediction.
    """
    alpha_bar, target = prior.alpha_bar(t_from), prior.alpha_bar(t_to)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prior.info.prediction_type == "epsilon":
        clean, noise = prior.clean_from(prediction, latents, t_from), prediction
    else:
        # latents = signal clean + sigma noise, and v = s noise - n clean: two equations for clean and noise.
        share = alpha_bar if predicted_at is None else prior.alpha_bar(predicted_at)
        s, n = share.sqrt(), (1 - share).sqrt()
        determinant = signal * s + sigma * n
        clean = (s * latents - sigma * prediction) / determinant
        noise = (n * latents + signal * prediction) / determinant
    return target.sqrt() * clean + (1 - target).sqrt() * noise


@torch.no_grad()
def ddim_invert(
    prior: MultiViewPrior,
    latents: Latents,
    predict: Predict,
    *,
    steps: int | None = None,
    strength: float = 1.0,
    iterations: int = 5,
    callback: Callable[[int, Latents], None] | None = None,
) -> list[Latents]:
    """Find the noisy latents from which :func:`denoise` with DDIM and the same ``predict`` comes back to ``latents``.

    A step down takes the prediction at its noisy end, which an inversion does not have yet. The textbook takes that at
    the clean end for it; here it is the start of a fixed-point iteration (as in AIDI, Pan et al. 2023).

    Args:
        latents: clean, as :meth:`MultiViewPrior.encode_images` gives them.
        predict: as for :func:`denoise`; guidance above 1 makes it expansive, and the way back less exact.
        steps: of a whole diffusion; see :func:`default_steps` if None.
        strength: share of the diffusion to go up.
        iterations: calls of ``predict`` in each step; 1 is the textbook's inversion. The way there and back on views of
            the demo scene (20 steps, latents, PSNR) with 1, 3, 5: 42, 51, 55 dB at strength 0.6, 24, 41, 55 dB at 1.
        callback: called after each step with its index and the latents.

    Returns:
        The latents at each of :func:`sampling_timesteps`, the noisiest first: pass ``start=lambda t: result[0]``.
    """
    steps = default_steps(prior, strength) if steps is None else steps
    timesteps = sampling_timesteps(prior, steps, strength=strength)
    if len(timesteps) == 1 and float(prior.alpha_bar(timesteps[:1]).min()) < ALPHA_BAR_FLOOR:
        raise InputError("one step from pure noise cannot be inverted; take 2 or more steps, or a strength below 1")
    stride = prior.num_timesteps // steps  # as DDIMScheduler goes, whatever the spacing of its timesteps
    found: list[Latents] = []
    for index, t in enumerate(timesteps.flip(0)):
        at = t.expand(len(latents))
        noisier = latents
        for _ in range(iterations):
            noisier = ddim_step(prior, latents, predict(noisier, at), at - stride, at, predicted_at=at)
        latents = noisier
        found.insert(0, latents)
        if callback is not None:
            callback(index, latents)
    return found


def _scheduler_at(
    prior: MultiViewPrior, steps: int, strength: float, sampler: Sampler
) -> tuple[Any, Int[Tensor, " S"]]:
    """A scheduler set to begin where the last ``strength`` of the diffusion does, and its timesteps from there."""
    most = most_steps(prior, sampler)
    if not 1 <= steps <= most:
        raise InputError(f"{steps} denoising steps cannot be taken; give 1 to {most}")
    scheduler = make_scheduler(prior, sampler)
    scheduler.set_timesteps(steps, device=prior.device)
    first = (steps - count_steps(steps, strength)) * scheduler.order
    if first and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler, scheduler.timesteps[first:]
