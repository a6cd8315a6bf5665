"""Score distillation (Poole et al. 2022): rendered views are pulled towards what a frozen prior thinks words look like.

The gradient of the loss on the latents x of a group of views is w(t) (eps_hat(x_t, t) - eps), Invert3D's equation 8,
without the UNet's Jacobian; from there it flows through the encoder to whatever made the views. This file knows
rendered images, a prior and conditions. It never knows what a scene is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents, Timesteps


class NoisePredictor(Protocol):
    """Words as a prior obeys them, such as :class:`invert3d_ns.prior.conditions.Conditions`."""

    def predict_noise(
        self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]
    ) -> Latents:
        """The guided prediction of the noise in ``noisy``, from noise- and v-predicting priors alike."""
        ...

    def with_guidance(self, scale: float) -> NoisePredictor:
        """The same words under another guidance scale."""
        ...


@dataclass
class ScoreDistillationConfig:
    """How the expectation over timesteps is taken."""

    t_min: float = 0.02
    """Least timestep, as a fraction of the diffusion (0: clean, 1: pure noise). DreamFusion: 0.02."""
    t_max: float = 0.98
    """Greatest timestep at the start. MVDream: 0.98."""
    t_max_end: float = 0.5
    """Greatest timestep at the end: large ones settle what the views show, small ones how it looks in detail."""
    weighting: Literal["sigma2", "uniform", "balanced"] = "sigma2"
    """w(t) of equation 8. sigma2: 1 - alpha_bar (DreamFusion). uniform: 1. balanced: sqrt(alpha_bar) (1 - alpha_bar),
    which forgets the noisiest timesteps as well (Fantasia3D)."""
    guidance_scale: float | None = None
    """Guidance while distilling; None: that of the conditions. Large ones (DreamFusion's 100) saturate colors."""

    def check(self) -> None:
        """Raise InputError by name unless 0 <= t_min < t_max_end <= t_max <= 1 and guidance is 1 or more."""
        if not 0.0 <= self.t_min < self.t_max_end <= self.t_max <= 1.0:
            raise InputError(
                f"timesteps {self.t_min:g} to {self.t_max:g}, at the end {self.t_max_end:g}, are no ranges within 0..1;"
                " give t-min below t-max-end, and that no greater than t-max"
            )
        if self.guidance_scale is not None and not 1.0 <= self.guidance_scale < float("inf"):
            raise InputError(f"guidance scale {self.guidance_scale:g} is out of range; give 1 (none) or more")


def timestep_range(config: ScoreDistillationConfig, progress: float, length: int) -> tuple[int, int]:
    """First and last timestep that may be drawn when ``progress`` (0 to 1) of the distillation is done.

    The upper end falls linearly (annealing; ProlificDreamer and Dreamtime found it to settle shapes before details).

    Args:
        length: timesteps of the prior's noise schedule.
    """
    progress = min(max(progress, 0.0), 1.0)
    high = config.t_max + (config.t_max_end - config.t_max) * progress
    low = min(round(config.t_min * length), length - 1)
    return low, min(max(round(high * length) - 1, low), length - 1)


class ScoreDistillation:
    """The distillation loss of groups of views.

    Args:
        prior: the frozen multi-view diffusion model.
        conditions: predict the noise; their own guidance holds unless ``config`` has another.
        config: timesteps and weights.

    Raises:
        InputError: ``config`` is out of range.

    Example:
        >>> from invert3d_ns.guidance.sds import ScoreDistillationConfig, timestep_range
        >>> timestep_range(ScoreDistillationConfig(), 0.0, 1000), timestep_range(ScoreDistillationConfig(), 1.0, 1000)
        ((20, 979), (20, 499))
    """

    def __init__(
        self, prior: MultiViewPrior, conditions: NoisePredictor, config: ScoreDistillationConfig | None = None
    ) -> None:
        self.prior, self.config = prior, config or ScoreDistillationConfig()
        self.config.check()
        if self.config.guidance_scale is not None:
            conditions = conditions.with_guidance(self.config.guidance_scale)
        self.conditions = conditions

    def loss(
        self,
        images: Float[Tensor, "B F 3 H W"],
        cameras: Float[Tensor, "B F 16"],
        generator: torch.Generator,
        *,
        progress: float = 0.0,
    ) -> Float[Tensor, ""]:
        """A scalar whose gradient on the latents of ``images`` is w(t) (eps_hat - eps) / B.

        Its value is half the squared length of that gradient, summed over a group: worth watching, but not what is
        minimized, which has no closed form.

        Args:
            images: views in [0, 1] on white, of a size that the prior encodes; the gradient passes its encoder.
            cameras: camera vectors of the views.
            generator: on the CPU; the draws are the same on every device.
            progress: 0 to 1, how much of the distillation is done; see :func:`timestep_range`.
        """
        latents = self.prior.encode_images(images)
        t, noise = self.draw(latents, generator, progress)
        gradient = self.gradient(latents.detach(), noise, t, cameras.to(latents.device)) / len(latents)
        return 0.5 * (latents - (latents.detach() - gradient)).square().sum()

    def draw(self, latents: Latents, generator: torch.Generator, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """One timestep for each group, shared by its views as MVDream was trained, and noise for each view."""
        low, high = timestep_range(self.config, progress, self.prior.num_timesteps)
        t = torch.randint(low, high + 1, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        return t.to(latents.device), noise.to(latents)

    @torch.no_grad()
    def gradient(self, latents: Latents, noise: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]) -> Latents:
        """w(t) (eps_hat - eps) of equation 8; where it is not finite (half precision), 0."""
        noisy = self.prior.add_noise(latents, noise, t)
        predicted = self.conditions.predict_noise(self.prior, noisy, t, cameras)
        return (self.weight(t) * (predicted - noise)).nan_to_num(0.0, 0.0, 0.0)

    def weight(self, t: Timesteps) -> Float[Tensor, "B 1 1 1 1"]:
        """w(t) for each group."""
        alpha_bar = self.prior.alphas_cumprod[t.to(self.prior.device)].reshape(-1, 1, 1, 1, 1)
        if self.config.weighting == "uniform":
            return torch.ones_like(alpha_bar)
        weight = 1 - alpha_bar
        return weight * alpha_bar.sqrt() if self.config.weighting == "balanced" else weight
