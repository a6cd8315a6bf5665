"""Score distillation (Poole et al. 2022): rendered views are pulled towards what a frozen prior thinks words look like.

The gradient of the loss on the latents x of a group of views is w(t) (eps_hat(x_t, t) - eps), Invert3D's equation 8,
without the UNet's Jacobian; from there it flows through the encoder to whatever made the views.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.guidance.base import AnnealedGuidanceConfig, Guidance, GuidanceReport
from invert3d_ns.guidance.schedules import Weighting, timestep_weights
from invert3d_ns.guidance.trajectories import start_noise
from invert3d_ns.prior.out_of_memory import explain_out_of_memory

if TYPE_CHECKING:
    from invert3d_ns.prior.unet import Latents, Timesteps


@dataclass
class ScoreDistillationConfig(AnnealedGuidanceConfig):
    """Score distillation, SDS: the gradient is the weighted error of one noise prediction."""

    _target: type = field(default_factory=lambda: ScoreDistillation)
    weighting: Weighting = "sigma2"
    """w(t) of equation 8. sigma2: 1 - alpha_bar (DreamFusion). uniform: 1. balanced: sqrt(alpha_bar) (1 - alpha_bar),
    which forgets the noisiest timesteps as well (Fantasia3D)."""


class ScoreDistillation(Guidance):
    """The distillation loss of groups of views; for the arguments see :class:`~invert3d_ns.guidance.base.Guidance`.

    Example:
        >>> from invert3d_ns.guidance.sds import ScoreDistillationConfig
        >>> config = ScoreDistillationConfig()
        >>> config.timestep_range(0.0, 1000), config.timestep_range(1.0, 1000)
        ((20, 979), (20, 499))
    """

    config: ScoreDistillationConfig

    def gradient(
        self, latents: Latents, cameras: Float[Tensor, "B F 16"], generator: torch.Generator, progress: float
    ) -> tuple[Latents, GuidanceReport]:
        """w(t) (eps_hat - eps) under a timestep for each group and noise for each view; see :meth:`noise_error`."""
        t, noise = self.draw_noise(latents, generator, progress)
        return self.noise_error(latents, noise, t, cameras)

    def draw_noise(
        self, latents: Latents, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Timesteps, Latents]:
        """One timestep for each group and noise for each view, on the latents' device."""
        t = self.config.draw(len(latents), self.prior.num_timesteps, generator, progress)
        return t.to(latents.device), start_noise(latents, generator)

    def noise_error(
        self, latents: Latents, noise: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]
    ) -> tuple[Latents, GuidanceReport]:
        """w(t) (eps_hat - eps) of equation 8, 0 where it is not finite (half precision); and what it came from.

        The pseudo ground truth of the report is the one-step prediction of clean latents,
        (x_t - sqrt(1 - alpha_bar) eps_hat) / sqrt(alpha_bar).
        """
        from invert3d_ns.prior.sampling import ALPHA_BAR_FLOOR

        noisy = self.prior.add_noise(latents, noise, t)
        with explain_out_of_memory("sampling", self.prior.options):
            error = self.conditions.predict_noise(self.prior, noisy, t, cameras) - noise
        alpha_bar = self.prior.alphas_cumprod[t.to(self.prior.device)].reshape(-1, 1, 1, 1, 1)
        weights = timestep_weights(self.config.weighting, alpha_bar)
        gradient = (weights * error).nan_to_num(0.0, 0.0, 0.0)
        # x_t = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps, so the clean latents differ from x by the error alone.
        signal = alpha_bar.clamp_min(ALPHA_BAR_FLOOR)
        target = latents - ((1 - alpha_bar) / signal).sqrt() * error
        return gradient, GuidanceReport(t, weights.flatten(), target)
