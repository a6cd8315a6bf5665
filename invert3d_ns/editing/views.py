"""Views of an edited object (Invert3D, eq. 7), from noise or from the scene's own views.

From the scene's own views there are three ways to keep its structure:

- ``sdedit`` (Meng et al. 2022): noise is added up to ``strength`` and removed under the edit.
- ``ddim`` (as in Prompt-to-Prompt): the noise is found by running the sampler backwards under z*.
- ``flow`` (FlowEdit, Kulikov et al. 2024): at every noise level the edited and the original views are denoised from
  the same noise, the latter under z*, and only the *difference* moves the latents, from the original ones on. What z*
  fails to say of the object cancels, and what the edit does not touch stays. z* needs no guidance there, the edit's
  direction takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.conditions import edit_conditions, without_edit
from invert3d_ns.editing.edit import Edit, Structure
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.prior.sampling import count_steps, ddim_invert, default_steps, denoise, sampling_timesteps, start_noise
from invert3d_ns.scenes.silhouettes import alpha_from_background

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

DEFAULT_STRUCTURE: Structure = "flow"
DEFAULT_STRENGTH: dict[Structure, float] = {"flow": 1.0, "sdedit": 0.8, "ddim": 1.0}
"""Share of the diffusion that is redone when an edit does not say."""


@torch.no_grad()
def edited_views(
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    edits: Sequence[Edit],
    cameras: Float[Tensor, "B F 16"],
    *,
    originals: Float[Tensor, "B F 3 H W"] | None = None,
    masks: Float[Tensor, "B F 1 H W"] | None = None,
    applied: int = 0,
    details: bool = True,
    seed: int | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> Float[Tensor, "B F 3 H W"]:
    """Generate the edited object from F cameras, B times, RGB in [0, 1] at the prior's size.

    Args:
        prior: the prior that the embedding belongs to.
        edits: what shall change; the last one's seed, steps, sampler, structure and strength count. None: the object
            as its words have it.
        cameras: :func:`invert3d_ns.scenes.cameras.camera_condition` of each view; the F views of a row are denoised
            together.
        originals: the scene's own views from these cameras, on white, to keep the structure of; from pure noise if
            None.
        masks: 1 where a view may change, 0 where it stays as in ``originals``; the object's silhouette if None and the
            last edit keeps it.
        applied: how many of ``edits``, from the first, the originals show already: only the others move them.
        details: keep what the autoencoder cannot show: the change of the decoded views is applied to the originals.
        seed: of the noise; the last edit's own if None.
        progress: called with the steps done and the steps in all.
        should_stop: asked after each step.

    Raises:
        InputError: an edit cannot be carried out, the embedding is of another prior, or sizes do not fit.
        Cancelled: ``should_stop`` said so.
    """
    last = edits[-1] if edits else Edit()
    last = last if seed is None else replace(last, seed=seed)
    structure = last.structure or DEFAULT_STRUCTURE
    if structure not in get_args(Structure):
        raise InputError(f"unknown structure {structure!r}; use one of {', '.join(get_args(Structure))}")
    flow = structure == "flow" and originals is not None
    conditions = edit_conditions(prior, embedding, edits, flow=flow)
    strength = DEFAULT_STRENGTH[structure] if last.strength is None else last.strength
    cameras = cameras.to(prior.device)
    objects, views = cameras.shape[:2]
    info = prior.info
    noise = start_noise(prior, views, [last.seed + b for b in range(objects)])
    clean = None
    if originals is not None:
        if originals.shape[:2] != (objects, views) or originals.shape[-1] != info.image_size:
            raise InputError(
                f"originals have shape {tuple(originals.shape)}, but {objects} x {views} views of {info.image_size} "
                "pixels are edited; render them at the prior's size"
            )
        clean = prior.encode_images(originals.to(prior.device))
        if masks is None and last.keep_silhouette:
            masks = coverage(originals)
    elif masks is not None:
        raise InputError("masks say where the scene's own views may change; give these views as well")
    kept = None if masks is None else 1 - _at_latents(masks.to(prior.device), info.latent_size)
    share = strength if clean is not None else 1.0
    steps = default_steps(prior, share, last.sampler) if last.steps is None else last.steps
    last = replace(last, steps=steps)
    total = count_steps(steps, share)

    def observe(index: int, latents: Tensor) -> None:
        if progress is not None:
            progress(index + 1, total)
        if should_stop is not None and should_stop():
            raise Cancelled

    with explain_out_of_memory("sampling", prior.options):
        if clean is None:
            latents = denoise(
                prior,
                noise,
                lambda x, t: conditions.predict(prior, x, t, cameras),
                steps=last.steps,
                sampler=last.sampler,
                callback=observe,
            )
        elif structure == "flow":
            plain = without_edit(conditions, edit_conditions(prior, embedding, edits[:applied], flow=True))
            draws = torch.Generator().manual_seed(last.seed)
            latents = _flowed(prior, conditions, plain, clean, draws, cameras, last, strength, kept, observe)
        else:
            noises = [noise] * total
            if structure == "ddim":
                noises = _inverted(prior, embedding, edits[:applied], clean, cameras, last, strength)
            latents = _from_noised(prior, conditions, clean, noises, cameras, last, strength, kept, observe)
    images = prior.decode_latents(latents)
    if clean is not None and originals is not None and details:
        images = (originals.to(images) + images - prior.decode_latents(clean)).clamp(0, 1)
    if originals is not None and masks is not None:
        opaque = masks.to(images)
        images = opaque * images + (1 - opaque) * originals.to(images)
    return images


def coverage(images: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F 1 H W"]:
    """Where views on white show the object, in [0, 1]: soft at the rim, without holes where the object is white."""
    flat = images.flatten(0, 1).permute(0, 2, 3, 1).cpu().float()
    alphas = torch.stack([alpha_from_background(image, torch.ones(3)) for image in flat])
    return alphas[:, None].unflatten(0, images.shape[:2]).to(images)


def _at_latents(masks: Float[Tensor, "B F 1 H W"], size: int) -> Float[Tensor, "B F 1 h w"]:
    """A latent may change where any of its pixels may."""
    pooled = F.adaptive_max_pool2d(masks.flatten(0, 1).float(), size)
    return pooled.unflatten(0, masks.shape[:2])


def _from_noised(
    prior: MultiViewPrior,
    conditions: Conditions,
    clean: Tensor,
    noises: Sequence[Tensor],
    cameras: Tensor,
    edit: Edit,
    strength: float,
    kept: Tensor | None,
    observe: Callable[[int, Tensor], None],
) -> Float[Tensor, "B F c h w"]:
    """SDEdit: denoise from the scene's latents with noise added; what is kept is put back after each step.

    Args:
        noises: what the scene's latents are noised with at each timestep.
    """
    times = sampling_timesteps(prior, edit.steps, strength=strength, sampler=edit.sampler)

    def after(index: int, latents: Tensor) -> Tensor | None:
        observe(index, latents)
        if kept is None:
            return None
        at = clean
        if index + 1 < len(times):
            at = prior.add_noise(clean, noises[index + 1], times[index + 1].expand(len(clean)))
        return kept * at + (1 - kept) * latents

    return denoise(
        prior,
        noises[0],
        lambda x, t: conditions.predict(prior, x, t, cameras),
        steps=edit.steps,
        sampler=edit.sampler,
        strength=strength,
        start=lambda t: prior.add_noise(clean, noises[0], t),
        callback=after,
    )


def _inverted(
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    applied: Sequence[Edit],
    clean: Tensor,
    cameras: Tensor,
    edit: Edit,
    strength: float,
) -> list[Float[Tensor, "B F c h w"]]:
    """The noise at each timestep from which DDIM under the words of ``clean``, without guidance, comes back to it."""
    context = edit_conditions(prior, embedding, applied).positive.expand(len(clean), -1, -1)
    found = ddim_invert(
        prior,
        clean,
        lambda x, t: prior.predict(x, t, context, cameras),
        steps=edit.steps,
        strength=strength,
    )
    # As noise, which is that of any sampler's own timesteps, not as the latents at those of DDIM.
    times = sampling_timesteps(prior, edit.steps, strength=strength)
    noises = []
    for latents, t in zip(found, times, strict=True):
        alpha_bar = prior.alpha_bar(t.expand(len(clean)))
        noises.append((latents - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt())
    return noises


def _flowed(
    prior: MultiViewPrior,
    conditions: Conditions,
    plain: Conditions,
    clean: Tensor,
    generator: torch.Generator,
    cameras: Tensor,
    edit: Edit,
    strength: float,
    kept: Tensor | None,
    observe: Callable[[int, Tensor], None],
) -> Float[Tensor, "B F c h w"]:
    """FlowEdit in terms of clean predictions.

    With sigma = sqrt(1 - alpha_bar) / sqrt(alpha_bar) and r = sigma' / sigma from one timestep to the next, its Euler
    step of the noise difference is: change <- r change + (1 - r) (clean under the edit - clean under the plain words).
    """
    times = sampling_timesteps(prior, edit.steps, strength=strength)
    alpha_bar = prior.alphas_cumprod[times]
    sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), alpha_bar.new_zeros(1)])
    change = torch.zeros_like(clean)
    for index, t in enumerate(times):
        at = t.expand(len(clean))
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy, own = prior.add_noise(clean + change, noise, at), prior.add_noise(clean, noise, at)
        towards = prior.clean_from(conditions.predict(prior, noisy, at, cameras), noisy, at)
        stays = prior.clean_from(plain.predict(prior, own, at, cameras), own, at)
        # At zero terminal signal-to-noise ratio sigma is infinite and nothing of the old change is left.
        ratio = (sigmas[index + 1] / sigmas[index]).nan_to_num(0.0)
        change = ratio * change + (1 - ratio) * (towards - stays)
        if kept is not None:
            change = (1 - kept) * change
        observe(index, clean + change)
    return clean + change
