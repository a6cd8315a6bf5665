"""Inversion of photographs without cameras: fit pseudo-words to them, and find where they were taken from.

Priors need a camera and the photograph has none: it is a latent variable with a distribution over a grid of orbit
cameras, found from what the frozen prior itself thinks of each (see :class:`ImageInversion`). Three ways to the words:

- encoder: the prior's view encoder says them in one look at the photographs, from the cameras found;
- imagined (:mod:`invert3d_ns.words.photographs.imagined`): plain words and the photograph are completed to whole
  orbits, and these are inverted;
- direct: textual inversion of the image itself (Invert3D, section 5.1) on the prior's single-view path, F = 1. Words
  then explain the one view by whatever works, and say less of the others than the plain ones that they started from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.base.english import with_article
from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.words.bank import LatentBank
from invert3d_ns.words.cti import DRAFTED_GROUPS, CameraTextInversion, fit_words
from invert3d_ns.words.description import describe_views
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.photographs.imagined import imagine_bank
from invert3d_ns.words.photographs.object_views import frame_view
from invert3d_ns.words.settings import STEPS, VECTORS, ImageSettings, Objective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from invert3d_ns.prior.multiview import MultiViewPrior

AZIMUTHS, ELEVATIONS = 16, (-12.0, 18.0)
"""The grid of cameras: evenly spaced azimuths, and elevations in degrees."""
_SCORED = (0.8, 0.7)
_ACROSS, _DOWN = (-0.06, 0.0, 0.06), (-0.03, 0.01, 0.05)
_SHORTLIST, _CHUNK = 8, 64
_TEXT_CAMERAS, _ROUGH_CAMERAS = 6, 3
"""Likeliest cameras from which texts are scored."""

Framing = tuple[float, float, float]
"""Extent, and shift right and down, in shares of the frame."""


class ImageInversion(CameraTextInversion):
    """The inversion objective on photographs whose cameras are a latent variable.

    Expectation-maximization: now and then (E) every camera of a grid is scored by the denoising loss of the
    photograph with the words as they are, all cameras with the same noise and timesteps, which gives each photograph a
    distribution over cameras; in between (M) steps draw cameras from it. The distribution sharpens from search to
    search, so that words that only name the object settle its camera, and the camera the rest of the words.

    Args:
        prior: the frozen multi-view diffusion model.
        photographs: square views that their objects fill, of
            :func:`invert3d_ns.words.photographs.object_views.object_view`; of the prior's size or larger.
        settings: how words and cameras are searched.
        seed: with the step number, determines every random draw.

    Raises:
        InputError: bad settings.
    """

    def __init__(
        self, prior: MultiViewPrior, photographs: Float[Tensor, "K 3 S S"], settings: ImageSettings, *, seed: int = 0
    ) -> None:
        settings.check(len(photographs))
        super().__init__(prior, Objective(timestep_range=prior.info.inversion_timesteps), seed=seed)
        self.settings = settings
        self.photographs = photographs.cpu()
        self.framings: list[Framing] = [(settings.extents[len(settings.extents) // 2], 0.0, 0.0)] * len(photographs)
        """Share of the frame that each photograph's object spans, and how far right and down of the middle it lies."""
        self.latents = torch.cat([self._encoded(index) for index in range(len(photographs))])  # [K 1 c h w]
        self.grid = camera_grid()
        self.possible = self._possible()
        """Cameras of the grid that do not contradict what is known (bool, [K G])."""
        self.weights = self.possible / self.possible.sum(1, keepdim=True)
        """Probability of each camera of the grid for each photograph."""
        self.text = settings.init_word or prior.info.init_word
        """The plain words that the vectors start from."""

    @property
    def cameras(self) -> Float[Tensor, "K 2"]:
        """The likeliest camera of each photograph: azimuth in [-180, 180) and elevation, in degrees."""
        found = self.grid[self.weights.argmax(1)].clone()
        for column, given in enumerate((self.settings.azimuths, self.settings.elevations)):
            if given:
                found[:, column] = torch.tensor(given)
        found[:, 0] = (found[:, 0] + 180) % 360 - 180
        return found

    @property
    def cameras_known(self) -> bool:
        """Whether azimuths and elevations are given, so that no camera is left to search."""
        return bool(self.settings.azimuths and self.settings.elevations)

    def bank(self) -> LatentBank:
        """Make a bank of the photographs at their likeliest cameras, without held-out views."""
        nothing = self.latents[:0]
        cameras = camera_condition(*self.cameras.T)[:, None].to(self.latents.device)
        return LatentBank(self.latents, cameras, nothing, cameras[:0], nothing)

    @torch.no_grad()
    def encoded_words(self, bank: LatentBank, groups: int = 0) -> Float[Tensor, "N D"]:
        """Words in one look at all photographs at once, from their likeliest cameras.

        Raises:
            InputError: the prior has no view encoder.
        """
        return self.prior.encode_views(bank.latents.transpose(0, 1), bank.cameras.transpose(0, 1))[0]

    def loss(
        self, words: Float[Tensor, "N D"], bank: LatentBank, step: int, groups: int = 1
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the terms of the loss at ``step``, after a search of the cameras where one is due."""
        steps = STEPS if self.settings.steps is None else self.settings.steps
        every = max(1, steps * 2 // 3 // self.settings.searches)
        turn, due = divmod(step, every)
        if self.settings.method == "direct" and due == 0 and turn < self.settings.searches:
            plain = self.prior.encode_prompt(with_article(self.text)) if turn == 0 else None
            self.search_cameras(self.context(words.detach()) if plain is None else plain, sharpness=2.0 * (turn + 1))
        return super().loss(words, bank, step, groups)

    def draw_batch(self, bank: LatentBank, step: int, groups: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw photographs, cameras from their distributions, noise and timesteps of ``step``; shapes as for CTI."""
        _, _, noise, timesteps = super().draw_batch(bank, step, groups)
        generator = random_stream("cameras of photographs", self.seed, step)
        # Every photograph in turn, so that a step of several holds several.
        picks = (torch.arange(groups) + step * groups) % len(self.latents)
        chosen = torch.multinomial(self.weights[picks], 1, generator=generator)[:, 0]
        # Anywhere in the grid's cell: words must hold between its cameras too.
        spacing = torch.tensor([360.0 / AZIMUTHS, ELEVATIONS[1] - ELEVATIONS[0]])
        angles = self.grid[chosen] + spacing * (torch.rand(groups, 2, generator=generator) - 0.5)
        for column, given in enumerate((self.settings.azimuths, self.settings.elevations)):
            if given:
                angles[:, column] = torch.tensor(given)[picks]
        device = bank.latents.device
        cameras = camera_condition(*angles.T)[:, None].to(device)
        return bank.latents[picks.to(device)], cameras, noise, timesteps

    def drafted_views(self, bank: LatentBank, step: int) -> tuple[Float[Tensor, "B F c h w"], Float[Tensor, "B F 16"]]:
        """Draw photographs that step ``step`` drafts, and cameras from their distributions."""
        latents, cameras, _, _ = self.draw_batch(bank, step, DRAFTED_GROUPS)
        return latents, cameras

    @property
    def views(self) -> Float[Tensor, "K 3 S S"]:
        """The photographs as views of the prior's size, RGB in [0, 1] on white, framed as found."""
        return torch.stack([self._view(index) for index in range(len(self.photographs))])

    @torch.no_grad()
    def search_cameras(self, context: Float[Tensor, "1 L C"], sharpness: float, *, draws: int = 2) -> None:
        """Score framings and cameras under ``context``; set :attr:`framings`, :attr:`latents` and :attr:`weights`.

        How large the object is and where the camera's axis meets it, no photograph says: views from cameras that look
        at an object's center show it off the middle, as perspective has it. Taken is the framing at which the best
        camera stands out most from the mean of all. (Losses themselves say nothing: a smaller object has a smaller
        one, white being easy to predict.) Probabilities of cameras are ``exp(-sharpness z)``, z the loss in standard
        deviations over the grid. The best cameras are scored ``3 draws`` times, the others ``draws`` times.
        """
        everywhere = torch.arange(len(self.grid))
        for index in range(len(self.latents)):
            every = torch.nonzero(self.possible[index])[:, 0]

            def contrast(framing: Framing, index: int = index, every: Tensor = every) -> float:
                self._frame(index, framing)
                return float(self.camera_losses(index, context, everywhere, range(1))[0, every].min())

            sizes = [(extent, across, _DOWN[1]) for extent in self.settings.extents for across in _ACROSS]
            extent, across, _ = min(sizes, key=contrast)
            self._frame(index, min([(extent, across, down) for down in _DOWN], key=contrast))
            if self.cameras_known:
                continue
            rough = self.camera_losses(index, context, every, range(1, draws + 1))[0]
            short = rough.argsort()[:_SHORTLIST]
            fine = self.camera_losses(index, context, every[short], range(draws + 1, 3 * draws + 1))[0]
            spread = rough.std(correction=0).clamp_min(1e-12)
            z = (rough - rough.mean()) / spread
            # Fine scores take the place of the shortlist's rough ones, around the same mean.
            z[short] = (z[short] + 2 * ((fine - fine.mean()) / spread + z[short].mean())) / 3
            self.weights[index] = 0
            self.weights[index, every] = torch.softmax(-sharpness * z, 0)

    @torch.no_grad()
    def camera_losses(
        self, index: int, contexts: Float[Tensor, "P L C"], cameras: Int[Tensor, " G"], draws: Iterable[int]
    ) -> Float[Tensor, "P G"]:
        """Compute denoising losses of one photograph for every context from every camera, relative to their mean.

        All of them see the same noise at the same timesteps, so that their order means something after few draws.

        Args:
            index: of the photograph.
            cameras: indices into :attr:`grid`.
            draws: numbers of the draws of noise; even and odd ones are at earlier and later timesteps.
        """
        device, conditions = self.latents.device, camera_condition(*self.grid.T)[:, None].to(self.latents.device)
        rows, columns = (x.flatten() for x in torch.meshgrid(torch.arange(len(contexts)), cameras, indexing="ij"))
        total, count = torch.zeros(len(rows)), 0
        for draw in draws:
            generator = random_stream("camera losses", 0, index, draw)
            noise = torch.randn(1, *self.latents.shape[1:], generator=generator).to(device)
            fraction = _SCORED[draw % len(_SCORED)] + 0.1 * (torch.rand(1, generator=generator).item() - 0.5)
            t = torch.tensor([round(fraction * self.prior.num_timesteps)], device=device)
            loss = torch.cat(
                [
                    self.prior.prediction_loss(
                        self.latents[index : index + 1].expand(len(row), -1, -1, -1, -1),
                        noise.expand(len(row), -1, -1, -1, -1),
                        t.expand(len(row)),
                        contexts[row.to(device)],
                        conditions[column.to(device)],
                        reduction="none",
                    )[:, 0].cpu()
                    for row, column in zip(rows.split(_CHUNK), columns.split(_CHUNK), strict=True)
                ]
            )
            total, count = total + loss / loss.mean(), count + 1
        return (total / count).reshape(len(contexts), len(cameras))

    @torch.no_grad()
    def _frame(self, index: int, framing: Framing) -> None:
        if self.framings[index] != framing:
            self.framings[index] = framing
            self.latents[index] = self._encoded(index)[0]

    def _view(self, index: int) -> Float[Tensor, "3 S S"]:
        extent, *shift = self.framings[index]
        return frame_view(self.photographs[index], self.prior.info.image_size, extent, (shift[0], shift[1]))

    @torch.no_grad()
    def _encoded(self, index: int) -> Float[Tensor, "1 1 c h w"]:
        return self.prior.encode_images(self._view(index)[None].to(self.prior.device)).float()[:, None]

    def _possible(self) -> Bool[Tensor, "K G"]:
        """Where an angle is known, the cameras nearest to it."""
        possible = torch.ones(len(self.latents), len(self.grid), dtype=torch.bool)
        for column, given in enumerate((self.settings.azimuths, self.settings.elevations)):
            for index, value in enumerate(given):
                off = (self.grid[:, column] - value).abs() % 360
                off = torch.minimum(off, 360 - off)
                possible[index] &= off <= off.min() + 1e-3
        return possible


def camera_grid() -> Float[Tensor, "G 2"]:
    """List azimuths and elevations in degrees of the cameras that are searched."""
    return torch.cartesian_prod(torch.arange(AZIMUTHS) * (360.0 / AZIMUTHS), torch.tensor(ELEVATIONS))


def invert_images(
    prior: MultiViewPrior,
    photographs: Float[Tensor, "K 3 S S"],
    settings: ImageSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[ObjectEmbedding, ImageInversion]:
    """Find the words of the object in one or a few photographs.

    Args:
        prior: the frozen multi-view diffusion model.
        photographs: RGB in [0, 1] on white, filled by their objects, of the prior's size or larger; see
            :func:`invert3d_ns.words.photographs.object_views.object_view`. They show one object; each has a camera of
            its own.
        settings: how words and cameras are searched.
        seed: determines every random draw.
        progress: called with what is being done, the steps of it that are done, and how many it has.

    Returns:
        The embedding, and the inversion, which knows the cameras and the plain words that were found.

    Raises:
        InputError: bad settings, or a word that the prior's tokenizer has no tokens for.
    """
    settings = settings or ImageSettings()
    report = progress or (lambda what, done, total: None)
    inversion = ImageInversion(prior, photographs, settings, seed=seed)
    if not settings.init_word and settings.clip != "none":
        report("naming the object", 0, 1)
        inversion.text = describe_views(load_clip(settings.clip, prior.device), inversion.views).text
    plain = with_article(inversion.text)
    method = settings.method or ("imagined" if prior.view_encoder is None else "encoder")
    steps = (0 if method == "encoder" else STEPS) if settings.steps is None else settings.steps
    objective, bank, groups = inversion, inversion.bank(), settings.batch
    context = prior.encode_prompt(plain) if method in ("encoder", "imagined") else None
    if context is not None:
        report("finding cameras", 0, 1)
        inversion.search_cameras(context, sharpness=4.0, draws=4)
    if method == "encoder":
        words = inversion.encoded_words(inversion.bank())
        context = inversion.context(words)
    else:
        words = inversion.initial_words(settings.vectors or VECTORS, plain)
    if context is not None and (steps or method == "imagined"):
        bank = imagine_bank(
            prior,
            context,
            inversion.latents[:, 0],
            inversion.cameras,
            orbits=settings.orbits,
            seed=seed,
            progress=lambda done, total: report("imagining other sides", done, total),
        )
        objective, groups = CameraTextInversion(prior, inversion.objective, seed=seed), 1
    words = fit_words(
        objective,
        bank,
        words,
        steps=steps,
        learning_rate=settings.learning_rate,
        groups=groups,
        callback=lambda step, _: report("finding words", step + 1, steps),
    )
    embedding = ObjectEmbedding.for_prior(prior, words, init_word=inversion.text, steps=steps)
    embedding.description = inversion.text if inversion.text != prior.info.init_word else ""
    return embedding, inversion
