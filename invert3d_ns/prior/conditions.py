"""What a denoising step depends on besides latents and cameras: words under guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents, Timesteps


@dataclass(frozen=True)
class Conditions:
    """Encoded words, what to keep away from, and how strongly: everything that a prediction is made under.

    The prediction is ``negative + guidance_scale (positive - negative)``, its standard deviation rescaled, plus the
    directions. For plain words there is :meth:`of_prompt`.

    Example:
        >>> from invert3d_ns.prior.checkpoints import load_prior
        >>> conditions = Conditions.of_prompt(load_prior("bundled", "cpu"), "a red car", guidance_scale=3.0)
        >>> conditions.positive.shape, conditions.with_guidance(5.0).guidance_scale
        (torch.Size([1, 77, 128]), 5.0)
    """

    positive: Float[Tensor, "P L C"]
    """Contexts of :meth:`MultiViewPrior.encode_prompt`: one for each object, or one for all."""
    negative: Float[Tensor, "1 L C"]
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 is none, and costs half."""
    guidance_rescale: float = 0.0
    """See :func:`classifier_free_guidance`."""
    token_weights: Float[Tensor, "1 L"] | None = None
    """Factors on the cross-attention to the tokens of ``positive``, after the softmax."""
    directions: tuple[tuple[Float[Tensor, "1 L C"], Float[Tensor, "1 L C"], float], ...] = ()
    """(towards, from, amount): differences of predictions that are added, ``direction_scale`` times the amount."""
    direction_scale: float = 1.0
    drafted: Float[Tensor, "P L C"] | None = None
    """What the draft of ``positive`` is made of, where not of itself: the structure of one thing, the words of another.
    Priors that make no drafts do not look at it."""

    @classmethod
    def of_prompt(
        cls,
        prior: MultiViewPrior,
        prompt: str | Sequence[str],
        *,
        words: Mapping[str, Float[Tensor, "N D"]] | None = None,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
    ) -> Conditions:
        """Words under guidance.

        Args:
            prompt: for all objects, or one for each; :attr:`PriorInfo.prompt_suffix` is not added.
            words: vectors of each placeholder in the prompt, if any.
            negative_prompt: what to keep away from.
            guidance_scale: the prior's default if None.
            guidance_rescale: the prior's default if None.

        Raises:
            InputError: see :meth:`MultiViewPrior.encode_prompt`.
        """
        return cls.of_context(
            prior,
            prior.encode_prompt(prompt, words),
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
        )

    @classmethod
    def of_context(
        cls,
        prior: MultiViewPrior,
        context: Float[Tensor, "P L C"],
        *,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
    ) -> Conditions:
        """As :meth:`of_prompt`, for words that are encoded already."""
        info = prior.info
        return cls(
            context.to(prior.device),
            prior.encode_prompt(negative_prompt),
            guidance_scale=info.guidance_scale if guidance_scale is None else guidance_scale,
            guidance_rescale=info.guidance_rescale if guidance_rescale is None else guidance_rescale,
        )

    def with_guidance(
        self, scale: float, *, rescale: float | None = None, direction_scale: float | None = None
    ) -> Conditions:
        """The same conditions under another guidance; a rescale that is None stays as it is.

        Directions are a guidance of their own: without a scale given for them, theirs changes in proportion.
        """
        if direction_scale is None:
            direction_scale = self.direction_scale * (scale / self.guidance_scale if self.directions else 1.0)
        return replace(
            self,
            guidance_scale=scale,
            guidance_rescale=self.guidance_rescale if rescale is None else rescale,
            direction_scale=direction_scale,
        )

    def unguided(self) -> Conditions:
        """What guidance starts from: the negative words alone, without guidance."""
        return Conditions(self.negative, self.negative)

    def predict(self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]) -> Latents:
        """The UNet's own prediction (noise or v) under guidance and directions, all conditions in one batch."""
        guided = self.guidance_scale != 1.0
        contexts = [self.positive, *([self.negative] if guided else [])]
        for towards, away, _ in self.directions:
            contexts += [towards, away]
        weights = None
        if self.token_weights is not None:
            weights = torch.ones(len(contexts), *self.token_weights.shape, device=noisy.device)
            weights[0] = self.token_weights
            weights = weights.expand(-1, len(noisy), -1)
        stacked = torch.stack([context.expand(len(noisy), -1, -1) for context in contexts])
        drafts_of = stacked
        if self.drafted is not None:
            drafts_of = torch.cat([self.drafted.expand(len(noisy), -1, -1)[None], stacked[1:]])
        predictions = prior.predict_each(noisy, t, stacked, cameras, token_weights=weights, drafts_of=drafts_of)
        result = predictions[0]
        if guided:
            result = classifier_free_guidance(
                predictions[1], predictions[0], self.guidance_scale, self.guidance_rescale
            )
        first = 2 if guided else 1
        for index, (_, _, amount) in enumerate(self.directions):
            towards, away = predictions[first + 2 * index], predictions[first + 2 * index + 1]
            result = result + amount * self.direction_scale * (towards - away)
        return result

    def draft(self, prior: MultiViewPrior, cameras: Float[Tensor, "B F 16"]) -> Latents | None:
        """The prior's draft of the positive contexts, without guidance and directions; None if it drafts nothing."""
        context = (self.positive if self.drafted is None else self.drafted).expand(len(cameras), -1, -1)
        weights = None if self.token_weights is None else self.token_weights.expand(len(cameras), -1)
        return prior.draft(context, cameras, token_weights=weights)

    def predict_noise(
        self, prior: MultiViewPrior, noisy: Latents, t: Timesteps, cameras: Float[Tensor, "B F 16"]
    ) -> Latents:
        """The noise that :meth:`predict` stands for, from noise- and v-predicting priors alike."""
        return prior.noise_from(self.predict(prior, noisy, t, cameras), noisy, t)


def classifier_free_guidance(negative: Latents, positive: Latents, scale: float, rescale: float = 0.0) -> Latents:
    """``negative + scale (positive - negative)`` of two predictions (Ho and Salimans 2022).

    Args:
        rescale: how far the result's standard deviation over an object's views is pulled back to that of ``positive``,
            0 to 1 (Lin et al. 2023, section 3.4).
    """
    guided = negative + scale * (positive - negative)
    if not rescale:
        return guided
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    return rescale_noise_cfg(guided, positive, rescale)
