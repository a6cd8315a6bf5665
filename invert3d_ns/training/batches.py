"""Batches of the denoiser: which views, under what condition, how noisy; each from the seed and its step alone.

The diet: captions, and words of the view encoder for *another* orbit of the same object, alone or in a prompt that asks
for a style or a change, whose render is then the target. So words and text compose, which is what edits need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.training.latents import LatentCache
from invert3d_ns.training.loop import step_generator
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.words.cti import TOKEN
from invert3d_ns.world.data import WorldViews
from invert3d_ns.world.vocabulary import STYLES

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
WORDS_SHARE = 0.5
"""Share of the batches under words of the view encoder, where the prior has one."""
ASSEMBLIES_SHARE, CAPTIONED_ASSEMBLIES_SHARE = 0.45, 0.15
"""Shares of the batches under words, and of those under captions, that hold random assemblies."""
CHANGES_SHARE, CAPTIONED_CHANGES_SHARE = 0.25, 0.15
"""The same shares of changed objects: what words make of an object whose words the prompt holds, and captions of it."""
ALL_SHOWN_SHARE = 0.7
"""Share of the batches under words whose encoder sees a whole orbit; the others show it fewer views."""
RESTYLED_SHARE, CHANGED_SHARE = 0.4, 0.9
"""Share, of the objects in a batch under words that have a style, whose target is in it, and whose prompt says so; and
the same of objects that were changed."""
NOISIEST_SHARE, NOISIEST_FROM = 0.4, 900
"""This share of the timesteps under words is from this step on: there is nothing there but words to go by."""
DROP_VECTORS, WORD_NOISE = 0.15, 0.1
"""Most of an object's vectors that are dropped (the share is uniform up to it), and the standard deviation of noise on
the rest, in units of their root mean square: what inversion finds then lies where the prior was trained."""


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
class Shown:
    """A condition in the view encoder's words of some views, within prompts."""

    prompts: tuple[str, ...]
    """One for each object, with :data:`TOKEN` in it; empty where it was dropped."""
    latents: Float[Tensor, "B V c h w"]
    """What the encoder sees: photos, also where the prompt asks for something else."""
    cameras: Float[Tensor, "B V 16"]
    seed: int
    """Of the vectors that are dropped and of the noise on the rest."""

    def context(self, prior: MultiViewPrior) -> Float[Tensor, "B L C"]:
        """Encode views, then prompts; gradients reach the view encoder, too."""
        words = prior.encode_views(self.latents.to(prior.device), self.cameras.to(prior.device))
        generator = torch.Generator().manual_seed(self.seed)
        dropped = torch.rand(words.shape[:2], generator=generator) < DROP_VECTORS * torch.rand(
            len(words), 1, generator=generator
        )
        noise = torch.randn(words.shape, generator=generator).to(words)
        words = words + WORD_NOISE * words.detach().square().mean().sqrt() * noise
        words = words * ~dropped[..., None].to(words.device)
        return prior.encode_prompt(self.prompts, {TOKEN: words})


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


Kept = tuple[WorldViews, LatentCache]
"""A training set, and latents of its views."""


class Batches:
    """Draws batches.

    Args:
        named: the training set of objects that have names, and latents of its views.
        images: views in a batch.
        seed: of every draw.
        timesteps: length of the noise schedule.
        assemblies: a training set of random assemblies, and latents of its views.
        changes: the same of changed objects.
        words: whether part of the batches is under words of the prior's view encoder.
    """

    def __init__(
        self,
        named: Kept,
        images: int,
        seed: int,
        timesteps: int,
        *,
        assemblies: Kept | None = None,
        changes: Kept | None = None,
        words: bool = False,
    ) -> None:
        self.images, self.seed, self.timesteps, self.words = images, seed, timesteps, words
        self.named = _Source(*named)
        self.assemblies = None if assemblies is None else _Source(*assemblies, turns=True)
        self.changes = None if changes is None else _Source(*changes)

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step."""
        # The order of the draws is part of what the shipped weights were trained on.
        generator = step_generator(self.seed, step)
        under_words, chance = torch.rand(2, generator=generator).tolist()
        shown = self.words and under_words < WORDS_SHARE
        unnamed = ASSEMBLIES_SHARE if shown else CAPTIONED_ASSEMBLIES_SHARE
        changed = CHANGES_SHARE if shown else CAPTIONED_CHANGES_SHARE
        source = self.named
        if self.assemblies is not None and chance < unnamed:
            source = self.assemblies
        elif self.changes is not None and chance > 1 - changed:
            source = self.changes
        return self._draw_shown(source, generator) if shown else self._draw_captioned(source, generator)

    def draw_captioned(self, step: int) -> Batch:
        """Draw a batch of objects that have names, under captions."""
        return self._draw_captioned(self.named, step_generator(self.seed, step))

    def draw_shown(self, step: int, turn: int) -> Batch:
        """Draw a batch under words of the set whose turn it is, counted by batches under words."""
        sources = [source for source in (self.named, self.assemblies, self.changes) if source is not None]
        return self._draw_shown(sources[turn % len(sources)], step_generator(self.seed, step))

    def _draw_captioned(self, source: _Source, generator: torch.Generator) -> Batch:
        count, views = draw_views(self.images, source.views, generator)
        objects = torch.multinomial(source.weights, count, replacement=True, generator=generator)
        condition = draw_captions(source.data, objects, generator)
        t = draw_timesteps(count, self.timesteps, generator)
        latents, cameras = source.latents.encoded(objects, views), source.cameras[objects[:, None], views]
        return _noised(objects, views, cameras, condition, latents, t, generator)

    def _draw_shown(self, source: _Source, generator: torch.Generator) -> Batch:
        count = max(self.images // 4, 1)
        objects = torch.multinomial(source.weights, count, replacement=True, generator=generator)
        views, others = draw_orbits(count, source.views, generator)
        prompts, restyled = draw_prompts(source.data, objects, generator)
        t = draw_word_timesteps(count, self.timesteps, generator)
        seen = source.latents.encoded(objects, others, as_photos=True)
        latents = source.latents.encoded(objects, views, as_photos=True)
        latents[restyled] = source.latents.encoded(objects[restyled], views[restyled])
        seed = int(torch.randint(2**62, (), generator=generator))
        sides, others = source.cameras[objects[:, None], views], source.cameras[objects[:, None], others]
        if source.turns:
            angles = torch.rand(count, generator=generator) * 2 * math.pi
            sides, others = turn(sides, angles), turn(others, angles)
        condition = Shown(prompts, seen, others, seed)
        return _noised(objects, views, sides, condition, latents, t, generator)


def open_batches(folder: Path, prior: MultiViewPrior, sets: TrainingSets, images: int, seed: int) -> Batches:
    """The batches of a prior's training, under words too where it has a view encoder; ``folder`` keeps latents."""
    info = prior.info

    def kept(views: WorldViews) -> Kept:
        return views, LatentCache(folder, views, prior.vae, info.latent_size, info.latent_channels)

    return Batches(
        kept(sets.named),
        images,
        seed,
        prior.num_timesteps,
        assemblies=None if sets.assemblies is None else kept(sets.assemblies),
        changes=None if sets.changes is None else kept(sets.changes),
        words=prior.view_encoder is not None,
    )


class _Source:
    """A training set, with what is drawn from it. ``turns``: its objects have no front."""

    def __init__(self, data: WorldViews, latents: LatentCache, *, turns: bool = False) -> None:
        self.data, self.latents, self.turns = data, latents, turns
        self.weights, self.cameras, self.views = object_weights(data), data.cameras(), data.rgb.shape[1]


def _noised(
    objects: Tensor,
    views: Tensor,
    cameras: Tensor,
    condition: Condition,
    latents: Tensor,
    t: Tensor,
    generator: torch.Generator,
) -> Batch:
    noise = torch.randn(latents.shape, generator=generator)
    return Batch(objects, views, condition, cameras, latents, noise, t)


def turn(cameras: Float[Tensor, "B F 16"], angles: Float[Tensor, " B"]) -> Float[Tensor, "B F 16"]:
    """Camera vectors of the same views of each object turned about its vertical axis (z), by radians.

    Of an object without a front, stored views become views of as many objects as there are angles. The light turns with
    it: it is then lit from a side that the renderer never lights, as things from elsewhere are.
    """
    sines, cosines, zeros = angles.sin(), angles.cos(), torch.zeros_like(angles)
    rows = [[cosines, -sines, zeros, zeros], [sines, cosines, zeros, zeros]]
    rows += [[zeros, zeros, zeros + 1, zeros], [zeros, zeros, zeros, zeros + 1]]
    rotation = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return (rotation[:, None] @ cameras.unflatten(-1, (4, 4))).flatten(-2)


def draw_orbits(count: int, views: int, generator: torch.Generator) -> tuple[Int[Tensor, "B F"], Int[Tensor, "B V"]]:
    """Draw which views are targets, evenly spaced, and which others the encoder sees: mostly an orbit half way between.

    With fewer than two views of an object there are no others: it sees the targets.
    """
    step = max(views // 4, 1)
    first = int(torch.randint(step, (), generator=generator))
    targets = torch.arange(first, views, step)[:4]
    others = torch.tensor([view for view in range(views) if view not in targets.tolist()] or targets.tolist())
    whole, many = torch.rand(2, generator=generator).tolist()
    most = min(len(others), 4)
    shown = most if whole < ALL_SHOWN_SHARE else 1 + int(many * most)
    chosen = torch.rand(count, len(others), generator=generator).argsort(1)[:, :shown]
    return targets.expand(count, -1), others[chosen]


def draw_prompts(
    data: WorldViews, objects: Int[Tensor, " B"], generator: torch.Generator
) -> tuple[tuple[str, ...], Bool[Tensor, " B"]]:
    """Draw the prompt around each object's words, and whether it asks for what became of it: its style or change."""
    styles, share = list(STYLES), RESTYLED_SHARE if data.changes is None else CHANGED_SHARE
    restyled = data.have_photos()[objects] & (torch.rand(len(objects), generator=generator) < share)
    dropped = torch.rand(len(objects), generator=generator) < DROP_CAPTION
    wording = torch.rand(len(objects), generator=generator)
    prompts = []
    for item, asked, without, which in zip(
        objects.tolist(), restyled.tolist(), dropped.tolist(), wording.tolist(), strict=True
    ):
        options = STYLES[styles[int(data.styles[item])] if asked else "photo"]
        if asked and data.changes is not None:
            options = (data.changes[item],)
        prompts.append("" if without else options[int(which * len(options))].format(TOKEN))
    return tuple(prompts), restyled


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


def draw_word_timesteps(count: int, last: int, generator: torch.Generator) -> Int[Tensor, " B"]:
    """As :func:`draw_timesteps`, :data:`NOISIEST_SHARE` of them from :data:`NOISIEST_FROM` on."""
    noisiest = torch.rand(count, generator=generator) < NOISIEST_SHARE
    low = torch.where(noisiest, NOISIEST_FROM, 0)
    high = (torch.rand(count, generator=generator) * (last - low)).long() + low
    return torch.where(noisiest, high, draw_timesteps(count, last, generator))


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
