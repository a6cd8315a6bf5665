"""The interface of guidance: rendered views and their cameras -> loss terms whose gradient reaches the views.

A kind of guidance is a file with two classes: a config with its settings, and what it sets up, whose one method says
which way latents are pulled. It knows latents of rendered views, a prior and conditions, and never what a scene is::

    config = ScoreDistillationConfig(t_max=0.7)
    guidance = config.setup(prior=prior, conditions=conditions)
    terms = guidance.loss(images, cameras, generator, progress=step / steps)
    sum(terms.values()).backward()
    guidance.report.timesteps  # what it looked at
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import at_least
from invert3d_ns.guidance.schedules import annealed, timestep_range

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents, Timesteps

Predictor = TypeVar("Predictor", bound="NoisePredictor")


class NoisePredictor(Protocol):
    """Words as a prior obeys them, such as :class:`invert3d_ns.prior.conditions.Conditions`."""

    def predict_noise(
        self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]
    ) -> Latents:
        """The guided prediction of the noise in ``noisy``, from noise- and v-predicting priors alike."""
        ...

    def predict(self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]) -> Latents:
        """The same in the prior's own terms, noise or v: what a deterministic step is made with."""
        ...

    def with_guidance(self: Predictor, scale: float) -> Predictor:
        """The same words under a classifier-free guidance scale of ``scale``; this object stays as it is."""
        ...

    def unguided(self) -> NoisePredictor:
        """What guidance starts from: the negative words alone, without guidance."""
        ...


@dataclass
class GuidanceConfig(InstantiateConfig):
    """Settings that every kind of guidance has; ``config.setup(prior=..., conditions=...)`` makes the guidance."""

    _target: type = field(default_factory=lambda: Guidance)
    guidance_scale: Annotated[float, at_least(1)] | None = None
    """Guidance while distilling, of an edit's directions too; None: that of the conditions. Large ones (DreamFusion's
    100) saturate colors."""

    def check(self) -> None:
        """Refuse settings that are out of range, by name.

        Raises:
            InputError: the guidance scale is below 1.
        """
        if self.guidance_scale is not None and not 1.0 <= self.guidance_scale < float("inf"):
            raise InputError(f"guidance scale {self.guidance_scale:g} is out of range; give 1 (none) or more")


@dataclass
class AnnealedGuidanceConfig(GuidanceConfig):
    """Settings of guidance that draws one timestep for each group of views, from a range that narrows."""

    t_min: Annotated[float, at_least(0, 1)] = 0.02
    """Least timestep, as a fraction of the diffusion (0: clean, 1: pure noise). DreamFusion: 0.02."""
    t_max: Annotated[float, at_least(0, 1)] = 0.98
    """Greatest timestep at the start. MVDream: 0.98."""
    t_max_end: Annotated[float, at_least(0, 1)] = 0.5
    """Greatest timestep at the end: large ones settle what the views show, small ones how it looks in detail."""

    def check(self) -> None:
        """Refuse settings that are out of range, by name.

        Raises:
            InputError: unless 0 <= t_min < t_max_end <= t_max <= 1 and the guidance scale is 1 or more.
        """
        super().check()
        if not 0.0 <= self.t_min < self.t_max_end <= self.t_max <= 1.0:
            raise InputError(
                f"timesteps {self.t_min:g} to {self.t_max:g}, at the end {self.t_max_end:g}, are no ranges within 0..1;"
                " give t-min below t-max-end, and that no greater than t-max"
            )

    def timestep_range(self, progress: float, length: int) -> tuple[int, int]:
        """First and last timestep that may be drawn when ``progress`` (0 to 1) of the guidance is done.

        The upper end falls linearly (annealing; Dreamtime and ProlificDreamer found it to settle shapes before
        details).

        Args:
            length: timesteps of the prior's noise schedule.
        """
        return timestep_range(self.t_min, annealed(self.t_max, self.t_max_end, progress), length)

    def draw(self, groups: int, length: int, generator: torch.Generator, progress: float = 0.0) -> Int[Tensor, " B"]:
        """One timestep for each group of views, on the CPU; its views share it, as multi-view priors were trained."""
        low, high = self.timestep_range(progress, length)
        return torch.randint(low, high + 1, (groups,), generator=generator)


@dataclass(frozen=True)
class GuidanceReport:
    """What a loss was computed from, detached, for logs and viewers."""

    timesteps: Int[Tensor, " B"]
    """The timestep of each group of views."""
    weights: Float[Tensor, " B"]
    """The weight of each group's gradient: w(t)."""
    target_latents: Float[Tensor, "B F c h w"]
    """The pseudo ground truth: clean latents that the views are pulled towards. The prior's ``decode_latents`` makes
    pictures of them."""


class Guidance(ABC):
    """A loss on groups of rendered views that a frozen prior gives.

    Args:
        config: the settings.
        prior: the multi-view diffusion model.
        conditions: predict the noise; their own guidance scale holds unless ``config`` has another.

    Raises:
        InputError: a setting is out of range.
    """

    report: GuidanceReport | None
    """What the latest loss looked at; None before the first."""

    conditions: NoisePredictor
    """The words, under the guidance scale that counts."""

    def __init__(self, config: GuidanceConfig, *, prior: MultiViewPrior, conditions: NoisePredictor) -> None:
        config.check()
        self.config, self.prior, self.report = config, prior, None
        self.follow(conditions)

    def follow(self, conditions: NoisePredictor) -> None:
        """Let other words guide from now on, such as a prompt that was changed meanwhile."""
        scale = self.config.guidance_scale
        self.conditions = conditions if scale is None else conditions.with_guidance(scale)

    def loss(
        self,
        images: Float[Tensor, "B F 3 H W"],
        cameras: Float[Tensor, "B F 16"],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Float[Tensor, ""]]:
        """One term, "distillation", to be minimized; what it was computed from is in :attr:`report` then.

        Its gradient on the latents of ``images`` is that of :meth:`gradient`, over B, and flows on through the encoder;
        its value is half the squared length of that, summed over the latents.

        Args:
            images: B groups of F views, RGB in [0, 1] on white, of a size that the prior encodes. Values outside of
                [0, 1] count as the nearest inside, and gradients only ever lead them inwards.
            cameras: camera vectors of the views (:func:`invert3d_ns.scenes.cameras.camera_condition`).
            generator: every random number comes from it. On the CPU; the draws are the same on every device.
            progress: 0 to 1, how much of the guidance is done: schedules depend on it.
        """
        latents = self.prior.encode_images(images)
        with torch.no_grad():
            gradient, self.report = self.gradient(latents.detach(), cameras.to(latents.device), generator, progress)
        return {"distillation": gradient_loss(latents, gradient / len(latents))}

    @abstractmethod
    def gradient(
        self, latents: Latents, cameras: Float[Tensor, "B F 16"], generator: torch.Generator, progress: float
    ) -> tuple[Latents, GuidanceReport]:
        """The gradient on clean latents of views, without the UNet's Jacobian, and what it was computed from.

        Args:
            latents: of rendered views, detached. Autograd is off.
            cameras: on the latents' device.
            generator: see :meth:`loss`.
            progress: see :meth:`loss`.
        """


def gradient_loss(latents: Latents, gradient: Latents) -> Float[Tensor, ""]:
    """A scalar whose gradient on ``latents`` is ``gradient``, which has no closed form to be minimized.

    Its value is half the squared length of the gradient: worth watching, though it is not what is lowered.

    Args:
        latents: the gradient flows on from them to whatever made them.
        gradient: of the same shape; nothing flows into it.
    """
    return 0.5 * (latents - (latents.detach() - gradient.detach())).square().sum()
