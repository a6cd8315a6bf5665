"""Words that say where each view is seen from, for priors that are not told by cameras: front, side, back, overhead.

Perp-Neg (Armandpour et al. 2023, https://arxiv.org/abs/2304.04968) keeps a view from looking like its neighbors, which
is what gives objects several faces: of what the neighbors' words would change, it takes away the part that is
perpendicular to what the view's own words change, so that nothing of these is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.conditions import classifier_free_guidance

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents, Timesteps

VIEWS = ("front", "side", "back", "overhead")
"""What a view is called in a prompt, by its azimuth; overhead by its elevation."""
OVERHEAD_ELEVATION = 60.0
"""Degrees above which a view is one from overhead (DreamFusion)."""
NEGLIGIBLE = 1e-4
"""Weights of at most this are none: a camera at 90 degrees is there up to rounding only."""
_NEAR, _FAR, _DECAY = 4.0, 1.0, 0.5
"""a and b of f(x) = a (exp(-b x) - exp(-b)), as threestudio chose them, between front and side and behind the side."""


@dataclass(frozen=True)
class ViewPrompts:
    """A prompt for each view by where its camera stands, under guidance and Perp-Neg; predicts where Conditions do.

    For each view, ``negative + guidance_scale (d - sum of weight_i perpendicular(d_i))``, where d and d_i are what the
    words of the view and of its neighbors change in the prediction of the negative words; see
    :func:`neighbor_weights` and :func:`perpendicular`. All of it goes through the UNet in one batch.

    Make them with :meth:`of_prompt`; sample with ``prior.sample(prompts, cameras)``.
    """

    contexts: Float[Tensor, "4 L C"]
    """Encoded prompts of :data:`VIEWS`."""
    negative: Float[Tensor, "1 L C"]
    """Encoded words to keep away from, for all views."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 is none, and without Perp-Neg costs half."""
    guidance_rescale: float = 0.0
    """How far the standard deviation of each view is pulled back to what it is under a guidance of 1, 0 to 1."""
    perp_neg: bool = True
    """Whether views are kept from looking like their neighbors."""

    @classmethod
    def of_prompt(
        cls,
        prior: MultiViewPrior,
        prompt: str,
        *,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        perp_neg: bool = True,
    ) -> ViewPrompts:
        """The words "<prompt>, front view", and so on for each of :data:`VIEWS`.

        Args:
            prior: one that takes no cameras.
            prompt: what the object is, in plain words.
            negative_prompt: what to keep away from.
            guidance_scale: the prior's default if None.
            guidance_rescale: the prior's default if None.
            perp_neg: whether views are kept from looking like their neighbors.

        Raises:
            InputError: the prior takes cameras, the prompt is empty, or see :meth:`MultiViewPrior.encode_prompt`.
        """
        info = prior.info
        if prior.takes_cameras:
            raise InputError(
                f"the prior {info.name!r} knows views by their cameras; prompt it with Conditions, or take one that "
                "does not, such as sd2.1-base"
            )
        if not prompt.strip():
            raise InputError("the prompt is empty; say what the object is")
        return cls(
            prior.encode_prompt([f"{prompt.strip()}, {view} view" for view in VIEWS]),
            prior.encode_prompt(negative_prompt),
            guidance_scale=info.guidance_scale if guidance_scale is None else guidance_scale,
            guidance_rescale=info.guidance_rescale if guidance_rescale is None else guidance_rescale,
            perp_neg=perp_neg,
        )

    def with_guidance(self, scale: float, *, rescale: float | None = None) -> ViewPrompts:
        """The same words under another guidance; a rescale that is None stays as it is."""
        return replace(
            self, guidance_scale=scale, guidance_rescale=self.guidance_rescale if rescale is None else rescale
        )

    def unguided(self) -> ViewPrompts:
        """What guidance starts from: the negative words alone, without guidance and the same from everywhere."""
        return ViewPrompts(self.negative.expand(len(VIEWS), -1, -1), self.negative, perp_neg=False)

    def view_contexts(self, cameras: Float[Tensor, "B F 16"]) -> Float[Tensor, "B F L C"]:
        """The words of each view: of front, side and back the two that it lies between, mixed by its azimuth."""
        azimuths, elevations = view_angles(cameras.to(self.contexts))
        turn = azimuths.abs()[..., None, None] / 90.0
        front, side, back, overhead = self.contexts
        ahead, behind = torch.lerp(front, side, turn), torch.lerp(side, back, turn - 1.0)
        mixed = torch.where(turn < 1.0, ahead, behind)
        return torch.where(elevations[..., None, None] > OVERHEAD_ELEVATION, overhead, mixed)

    def predict(self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]) -> Latents:
        """The UNet's own prediction (noise or v) under guidance and Perp-Neg, all conditions in one batch.

        Args:
            prior: the one whose words these are.
            noisy: latents at ``t``.
            t: timesteps of each object, or of each view.
            cameras: camera vectors; those of ``azimuth`` 0 see the front.
        """
        weights = neighbor_weights(cameras.to(noisy.device).float()) if self.perp_neg else {}
        weights = {view: weight for view, weight in weights.items() if (weight > 0).any()}
        own = self.view_contexts(cameras)
        contexts = [own]
        if self.guidance_scale != 1.0 or weights:
            contexts += [self.negative, *(self.contexts[VIEWS.index(view)] for view in weights)]
        predictions = prior.predict_each(noisy, t, torch.stack([one.expand_as(own) for one in contexts]), cameras)
        if len(contexts) == 1:
            return predictions[0]
        positive, negative = predictions[0], predictions[1]
        towards = positive - negative
        away = torch.zeros_like(towards)
        for weight, neighbor in zip(weights.values(), predictions[2:], strict=True):
            away = away + weight.to(away)[..., None, None, None] * perpendicular(neighbor - negative, towards)
        each, kept = negative.flatten(0, 1), (positive - away).flatten(0, 1)  # no view's deviation depends on another
        guided = classifier_free_guidance(each, kept, self.guidance_scale, self.guidance_rescale)
        return guided.unflatten(0, noisy.shape[:2])

    def draft(self, prior: MultiViewPrior, cameras: Float[Tensor, "B F 16"]) -> Latents | None:
        """None: a prior that takes no cameras drafts nothing."""

    def predict_noise(
        self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]
    ) -> Latents:
        """The noise that :meth:`predict` stands for, from noise- and v-predicting priors alike."""
        return prior.noise_from(self.predict(prior, noisy, t, cameras), noisy, t)


def view_angles(cameras: Float[Tensor, "*F 16"]) -> tuple[Float[Tensor, "*F"], Float[Tensor, "*F"]]:
    """Azimuths in [-180, 180] and elevations in [-90, 90] of camera vectors, in degrees; azimuth 0 sees the front."""
    x, y, z = (cameras[..., index] for index in (3, 7, 11))
    return torch.rad2deg(torch.atan2(x, -y)), torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))


def neighbor_weights(cameras: Float[Tensor, "*F 16"]) -> dict[str, Float[Tensor, "*F"]]:
    """How strongly each view is kept from looking like the front and like the side: by view, at least 0.

    The weights of Perp-Neg in threestudio's parameterization, f(x) = a (exp(-b x) - exp(-b)), which falls to 0 at
    x = 1. With r = 1 at the front and 0 at the side, f(r) for the front and f(1 - r) for the side. With r = 1 at the
    side and 0 at the back, f(r) for the side, and for the front f(r) above what it has at the side. Views from overhead
    have none.

    Example:
        >>> import torch
        >>> from invert3d_ns.scenes.cameras import camera_condition
        >>> weights = neighbor_weights(camera_condition(torch.tensor([0.0, 45.0, 90.0, 180.0]), torch.tensor(0.0)))
        >>> [[round(value, 2) for value in weights[view].tolist()] for view in ("front", "side")]
        [[0.0, 0.69, 1.57, 1.97], [1.57, 0.69, 0.0, 0.39]]
    """
    azimuths, elevations = view_angles(cameras)
    turn = azimuths.abs() / 90.0
    ahead, beside = turn < 1.0, (2.0 - turn).clamp(0.0, 1.0)
    at_side = float(_decay(torch.zeros(()), _NEAR))
    front = torch.where(ahead, _decay(1.0 - turn, _NEAR), at_side + _decay(beside, _FAR))
    side = torch.where(ahead, _decay(turn, _NEAR), _decay(beside, _FAR))
    found = {"front": front, "side": side}
    some = elevations <= OVERHEAD_ELEVATION
    return {view: torch.where(some & (weight > NEGLIGIBLE), weight, 0.0) for view, weight in found.items()}


def perpendicular(direction: Float[Tensor, "*F c h w"], to: Float[Tensor, "*F c h w"]) -> Float[Tensor, "*F c h w"]:
    """The part of each view's direction that is perpendicular to another: ``direction - <direction, to> to / |to|²``.

    The whole direction where the other is zero. In float32, whatever the tensors are in; the result has their type.
    """
    given, onto = direction.float(), to.float()
    axes = (-3, -2, -1)
    squared = onto.square().sum(axes, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (given - (given * onto).sum(axes, keepdim=True) / squared * onto).to(direction)


def _decay(x: Float[Tensor, "*F"], height: float) -> Float[Tensor, "*F"]:
    return height * ((-_DECAY * x).exp() - math.exp(-_DECAY))
