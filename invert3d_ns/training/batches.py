"""Batches of the denoiser: which views, under what condition, how noisy; each from the seed and its step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.training.latents import LatentCache
from invert3d_ns.training.loop import step_generator
from invert3d_ns.world.data import WorldViews

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

DROP_CAPTION = 0.1
"""Share of captions that are replaced by the empty one, for classifier-free guidance."""
SINGLE_VIEW_SHARE, ALL_VIEWS_SHARE = 0.4, 0.12
"""Shares of batches that hold single views, and that hold every view of an object; the rest holds four."""
SCATTERED_SHARE = 0.25
"""Share of the batches of four views that are any four of an object's, not an evenly spaced orbit."""
NOISY_SHARE = 0.5
NOISY_FROM = 500
"""This share of timesteps is uniform over the noisiest part of the schedule, from this step on; the rest over all of
it."""
PATTERNED_SHARE = 0.6
"""Share of the objects drawn that have a pattern."""


class Condition(Protocol):
    """What the objects of a batch are to be, besides the cameras that they are seen from."""

    def context(self, prior: MultiViewPrior) -> Float[Tensor, "B L C"]:
        """Encode it for the UNet; gradients reach the text tower."""
        ...


@dataclass(frozen=True)
class Captions:
    """A condition in words."""

    texts: tuple[str, ...]
    """One for each object; empty where it was dropped."""

    def context(self, prior: MultiViewPrior) -> Float[Tensor, "B L C"]:
        """Encode the captions."""
        return prior.encode_prompt(self.texts)


@dataclass(frozen=True)
class Batch:
    """F views of each of B objects, what they are told to be, and how noisy they are made. All on the CPU."""

    objects: Int[Tensor, " B"]
    """Index into the training set."""
    views: Int[Tensor, "B F"]
    """Which of an object's stored views."""
    condition: Condition
    cameras: Float[Tensor, "B F 16"]
    latents: Float[Tensor, "B F c h w"]
    noise: Float[Tensor, "B F c h w"]
    t: Int[Tensor, " B"]
    """Timesteps."""


class Batches:
    """Draws batches.

    Args:
        data: the training set.
        latents: of its views.
        images: views in a batch.
        seed: of every draw.
        timesteps: length of the noise schedule.
    """

    def __init__(self, data: WorldViews, latents: LatentCache, images: int, seed: int, timesteps: int) -> None:
        self.data, self.latents, self.images, self.seed, self.timesteps = data, latents, images, seed, timesteps
        self.weights, self.cameras = object_weights(data), data.cameras()

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step."""
        # The order of the draws is part of what the shipped weights were trained on.
        generator = step_generator(self.seed, step)
        count, views = draw_views(self.images, self.data.rgb.shape[1], generator)
        objects = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        condition = draw_captions(self.data, objects, generator)
        t = draw_timesteps(count, self.timesteps, generator)
        latents = self.latents.encoded(objects, views)
        return Batch(
            objects,
            views,
            condition,
            self.cameras[objects[:, None], views],
            latents,
            torch.randn(latents.shape, generator=generator),
            t,
        )


def draw_captions(data: WorldViews, objects: Int[Tensor, " B"], generator: torch.Generator) -> Captions:
    """Draw one of the wordings of each object, and drop :data:`DROP_CAPTION` of them."""
    wording = torch.randint(len(data.captions[0]), (len(objects),), generator=generator).tolist()
    dropped = (torch.rand(len(objects), generator=generator) < DROP_CAPTION).tolist()
    drawn = zip(objects.tolist(), wording, dropped, strict=True)
    return Captions(tuple("" if without else data.captions[item][which] for item, which, without in drawn))


def draw_timesteps(count: int, last: int, generator: torch.Generator) -> Int[Tensor, " B"]:
    """Draw timesteps in [0, last): :data:`NOISY_SHARE` of them from :data:`NOISY_FROM` on."""
    noisy = torch.rand(count, generator=generator) < NOISY_SHARE
    low = torch.where(noisy, NOISY_FROM, 0)
    return low + (torch.rand(count, generator=generator) * (last - low)).long()


def draw_views(images: int, views: int, generator: torch.Generator) -> tuple[int, Int[Tensor, "B F"]]:
    """Draw how many objects a batch of ``images`` views holds, and which of their ``views`` stored views of each."""
    kind, scattered = torch.rand(2, generator=generator).tolist()
    if kind < SINGLE_VIEW_SHARE:
        return images, torch.randint(views, (images, 1), generator=generator)
    if views <= 4 or kind > 1 - ALL_VIEWS_SHARE:
        count = max(images // views, 1)
        return count, torch.arange(views).expand(count, -1)
    count = max(images // 4, 1)
    if scattered < SCATTERED_SHARE:
        return count, torch.rand(count, views, generator=generator).argsort(1)[:, :4]
    step = views // 4
    first = torch.randint(step, (count, 1), generator=generator)
    return count, first + step * torch.arange(4)


def object_weights(data: WorldViews) -> Float[Tensor, " O"]:
    """Chances, in any unit, of drawing each object: together :data:`PATTERNED_SHARE` for those with a pattern."""
    patterned = data.patterns > 0
    count = int(patterned.sum())
    share = torch.tensor([1 - PATTERNED_SHARE, PATTERNED_SHARE])
    return (share / torch.tensor([len(data) - count, count]).clamp_min(1))[patterned.long()]
