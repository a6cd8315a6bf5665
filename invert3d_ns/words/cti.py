"""Camera-conditioned text inversion (CTI): fit pseudo-words to an object's views, through a frozen multi-view prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.words.settings import Objective

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.bank import LatentBank

TOKEN = "<object>"
"""The placeholder in prompts that stands for the learned vectors."""
VECTORS = 32
"""Words that are learned from a word, if nothing else is asked for (Invert3D, official code)."""
DRAFTED_GROUPS, DRAFT_WEIGHT = 4, 4.0
"""Orbits that are drafted in a step, where the prior drafts views, and the weight of their loss."""
ENCODED_GROUPS = 4
"""Orbits that the view encoder looks at. Each word stands for a place, so that means of words mean something."""


class CameraTextInversion:
    """The CTI objective, Invert3D's equation 2, on latents of an object's views.

    z* = argmin over z of E[ || prediction(x_t, t, prompt(z), cameras) - target ||^2 ], x_t = add_noise(x, noise, t),
    where prediction and target are in the prior's own parameterisation (noise or velocity). Only z receives a gradient.
    Where the prior drafts views, :meth:`draft_loss` is added.

    Args:
        prior: the frozen multi-view diffusion model.
        objective: how the expectation over timesteps is taken.
        seed: with the step number, determines every random draw.

    Raises:
        InputError: the prior knows no cameras, or an empty or reversed timestep range.
    """

    def __init__(self, prior: MultiViewPrior, objective: Objective | None = None, *, seed: int = 0) -> None:
        if not prior.takes_cameras:
            raise InputError(
                f"the prior {prior.info.name!r} knows no cameras, without which views do not become words of one "
                "object; use a multi-view prior such as mvdream-sd2.1"
            )
        self.prior = prior
        self.objective = objective or Objective()
        self.seed = seed
        low, high = self.objective.timestep_range
        if not 0.0 <= low < high <= 1.0:
            raise InputError(f"timestep range {low}..{high} is not within 0..1; give two increasing fractions")
        table: Tensor = prior.text_encoder.get_input_embeddings().weight  # type: ignore[assignment]
        self._unit = table.detach().float().norm(dim=-1).mean().item()

    def initial_words(self, count: int, init_word: str, jitter: float = 0.0) -> Float[Tensor, "N D"]:
        """Make ``count`` copies of the embedding of ``init_word``, each moved by noise of ``jitter`` times its length.

        A word of several tokens gives its tokens in turn. Float32, on the prior's device.

        Raises:
            InputError: ``count`` does not fit the prior's context, or ``init_word`` holds no word.
        """
        check_vector_count(count, self.prior.info.context_length)
        words = self.prior.word_vectors(init_word)
        words = words.repeat(-(-count // len(words)), 1)[:count].clone()
        if jitter > 0:
            noise = torch.randn(words.shape, generator=random_stream("initial words", self.seed)).to(words.device)
            words += jitter * words.norm(dim=-1, keepdim=True) * noise / words.shape[-1] ** 0.5
        return words

    @torch.no_grad()
    def encoded_words(self, bank: LatentBank, groups: int = ENCODED_GROUPS) -> Float[Tensor, "N D"]:
        """Words in one look: the mean of what the prior's view encoder says about each of the first ``groups`` orbits.

        Raises:
            InputError: the prior has no view encoder, or its views are of another size.
        """
        return self.prior.encode_views(bank.latents[:groups], bank.cameras[:groups]).mean(0)

    def context(self, words: Float[Tensor, "N D"], prompt: str = TOKEN) -> Float[Tensor, "1 L C"]:
        """Encode ``prompt`` with ``words`` for the placeholder: the prior's text condition, differentiable in them."""
        return self.prior.encode_prompt(prompt, words={TOKEN: words})

    def draw_batch(self, bank: LatentBank, step: int, groups: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw latents, cameras, noise and timesteps of training step ``step``; seed and step decide all of them.

        Returns:
            latents [B F c h w], cameras [B F 16], noise [B F c h w], timesteps [B] or [B F], on the bank's device.
        """
        generator = random_stream("inversion step", self.seed, step)
        picks = torch.randint(len(bank), (groups,), generator=generator)
        low, high = (round(fraction * self.prior.num_timesteps) for fraction in self.objective.timestep_range)
        shape = (groups, bank.latents.shape[1]) if self.objective.per_view_timesteps else (groups,)
        timesteps = torch.randint(low, max(high, low + 1), shape, generator=generator)
        noise = torch.randn(groups, *bank.latents.shape[1:], generator=generator)
        device = bank.latents.device
        picks = picks.to(device)
        return bank.latents[picks], bank.cameras[picks], noise.to(device), timesteps.to(device)

    def loss(
        self, words: Float[Tensor, "N D"], bank: LatentBank, step: int, groups: int = 1
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the terms of the loss at training step ``step``, scalars whose sum is minimized.

        Returns:
            ``denoising``; ``draft`` if the prior drafts views, over more orbits, see :data:`DRAFTED_GROUPS`; and
            ``norm`` if the objective penalizes the vectors' length. Differentiable in ``words``.
        """
        latents, cameras, noise, timesteps = self.draw_batch(bank, step, groups)
        context = self.context(words)
        context = context.expand(groups, -1, -1) if groups > 1 else context
        terms = {"denoising": self.prior.prediction_loss(latents, noise, timesteps, context, cameras)}
        if self.prior.ray_reader is not None:
            terms["draft"] = self.draft_loss(context[:1], bank, step)
        if self.objective.norm_penalty > 0:
            terms["norm"] = self.objective.norm_penalty * (words / self._unit).square().sum(dim=-1).mean()
        return terms

    def draft_loss(self, context: Float[Tensor, "1 L C"], bank: LatentBank, step: int) -> Float[Tensor, ""]:
        """Mean squared error of the prior's drafts of some orbits: without noise; an orbit costs a twentieth of a step.

        It is what the denoising loss becomes where there is nothing but noise and the UNet takes the draft as it is.
        """
        latents, cameras = (part.flatten(0, 1)[None] for part in self.drafted_views(bank, step))
        drafts = self.prior.draft(context, cameras, latents.shape[-1])
        assert drafts is not None
        return DRAFT_WEIGHT * (drafts - latents).square().mean()

    def drafted_views(self, bank: LatentBank, step: int) -> tuple[Float[Tensor, "B F c h w"], Float[Tensor, "B F 16"]]:
        """Draw the orbits that step ``step`` drafts, and their cameras."""
        generator = random_stream("drafted orbits", self.seed, step)
        picks = torch.randperm(len(bank), generator=generator)[:DRAFTED_GROUPS].to(bank.latents.device)
        return bank.latents[picks], bank.cameras[picks]

    @torch.no_grad()
    def heldout_loss(
        self, condition: Float[Tensor, "N D"] | str, bank: LatentBank, *, groups: int | None = None, draws: int = 4
    ) -> float:
        """Measure the mean denoising loss on held-out orbits, with the same noise and timesteps for every condition.

        Args:
            condition: vectors z, or a prompt in plain words to compare with.
            bank: its ``heldout`` groups are used, the first ``groups`` of them.
            draws: timesteps per group; each is the middle of one of ``draws`` equal parts of the diffusion process.
        """
        context = self.prior.encode_prompt(condition) if isinstance(condition, str) else self.context(condition)
        latents, cameras = bank.heldout_latents[:groups], bank.heldout_cameras[:groups]
        middles = (torch.arange(draws) + 0.5) / draws * self.prior.num_timesteps
        timesteps = middles.long().to(latents.device)
        total = 0.0
        for index in range(len(latents)):
            generator = random_stream("held-out loss", 0, index)
            noise = torch.randn(draws, *latents.shape[1:], generator=generator).to(latents.device)
            for draw in range(draws):
                here, now = slice(index, index + 1), slice(draw, draw + 1)
                total += self.prior.prediction_loss(
                    latents[here], noise[now], timesteps[now], context, cameras[here]
                ).item()
        return total / (len(latents) * draws)


def check_vector_count(count: int, context_length: int) -> None:
    """Refuse a number of vectors that leaves no room for the start and end tokens in the prior's context.

    Raises:
        InputError: ``count`` is below 1 or above ``context_length - 2``.
    """
    if not 1 <= count <= context_length - 2:
        raise InputError(
            f"{count} vectors do not fit the prior's context of {context_length} tokens; "
            f"choose between 1 and {context_length - 2} vectors"
        )


def fit_words(
    inversion: CameraTextInversion,
    bank: LatentBank,
    words: Float[Tensor, "N D"],
    *,
    steps: int,
    learning_rate: float | None = None,
    decay: bool = True,
    groups: int = 1,
    callback: Callable[[int, Mapping[str, Tensor]], None] | None = None,
) -> Float[Tensor, "N D"]:
    """Minimize the CTI loss with AdamW from ``words``: the inversion without a trainer around it.

    The pipeline of ``ns-train invert3d`` takes the same steps and reaches the same vectors.

    Args:
        inversion: the objective.
        bank: latents and cameras of the object's views.
        words: where to start from; unchanged.
        steps: optimization steps.
        learning_rate: of the first step; the prior's own choice if None.
        decay: let the learning rate fall to zero along half a cosine. The official code keeps it constant.
        groups: orbits in each step.
        callback: called after each step with its number and the loss terms.

    Returns:
        The fitted vectors, float32, on the device of ``words``.
    """
    vectors = Parameter(words.detach().clone())
    optimizer = torch.optim.AdamW([vectors], lr=learning_rate or inversion.prior.info.inversion_learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (np.cos(np.pi * step / max(steps, 1)) + 1.0) * 0.5 if decay else 1.0
    )
    for step in range(steps):
        optimizer.zero_grad()
        terms = inversion.loss(vectors, bank, step, groups)
        with explain_out_of_memory("inversion", inversion.prior.options):
            torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        schedule.step()
        if callback is not None:
            callback(step, terms)
    return vectors.detach()
