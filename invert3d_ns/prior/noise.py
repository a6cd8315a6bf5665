"""What a diffusion prior's predictions mean on its noise schedule: noise or v, clean latents, and back."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.sampling import ALPHA_BAR_FLOOR
from invert3d_ns.prior.unet import Latents, Timesteps


class NoiseSchedule(nn.Module):
    """The arithmetic of a prior's noise schedule. Priors that predict noise and priors that predict v behave alike."""

    alphas_cumprod: Float[Tensor, " T"]
    info: PriorInfo
    scheduler: Any
    """Any diffusers scheduler; its config says where sampling ends."""

    @property
    def num_timesteps(self) -> int:
        """Length T of the noise schedule."""
        return len(self.alphas_cumprod)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.alphas_cumprod.device

    def add_noise(self, latents: Latents, noise: Latents, t: Timesteps) -> Latents:
        """Diffuse to step t: sqrt(alpha_bar) latents + sqrt(1 - alpha_bar) noise."""
        signal, sigma = self._signal_and_noise(t)
        return signal * latents + sigma * noise

    def noise_from(self, prediction: Latents, noisy: Latents, t: Timesteps) -> Latents:
        """The noise that the UNet's own ``prediction`` for ``noisy`` stands for; see :meth:`predict_noise`."""
        if self.info.prediction_type == "epsilon":
            return prediction
        signal, sigma = self._signal_and_noise(t)
        return signal * prediction + sigma * noisy

    def clean_from(self, prediction: Latents, noisy: Latents, t: Timesteps) -> Latents:
        """The clean latents that the UNet's own ``prediction`` for ``noisy`` stands for; see :meth:`predict_clean`."""
        signal, sigma = self._signal_and_noise(t)
        if self.info.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / signal.clamp_min(ALPHA_BAR_FLOOR**0.5)
        return signal * noisy - sigma * prediction

    def alpha_bar(self, t: Timesteps) -> Float[Tensor, "B f 1 1 1"]:
        """Share of the signal's variance at step t, float32, f = 1 or F as ``t`` has it.

        Steps below 0 stand for where sampling ends: 1, or what step 0 has for priors whose scheduler says so
        (``set_alpha_to_one=False``, as Stable Diffusion's).
        """
        t = t.to(self.device)
        last = 1.0 if self.scheduler.config.get("set_alpha_to_one", True) else self.alphas_cumprod[0]
        alpha_bar = torch.where(t < 0, last, self.alphas_cumprod[t.clamp_min(0)])
        return alpha_bar.reshape(len(t), -1, 1, 1, 1)

    def _signal_and_noise(self, t: Timesteps) -> tuple[Float[Tensor, "B f 1 1 1"], Float[Tensor, "B f 1 1 1"]]:
        alpha_bar = self.alpha_bar(t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
