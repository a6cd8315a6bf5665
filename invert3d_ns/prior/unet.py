"""One call of a UNet: of all views at once with cross-view attention, or of each view by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.prior.rays import RAY_CHANNELS, ray_maps

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from invert3d_ns.prior.ray_reader import RayReader

Latents = Float[Tensor, "B F c h w"]
"""Scaled latents of F views of B objects."""
Timesteps = Int[Tensor, " B"] | Int[Tensor, "B F"]
"""Of each object, or of each view: integers in [0, T), T the length of the noise schedule."""


def run_unet(
    unet: UNet2DConditionModel,
    sample: Latents,
    t: Timesteps,
    context: Float[Tensor, "B L C"] | Float[Tensor, "B F L C"],
    cameras: Float[Tensor, "B F 16"],
    token_weights: Float[Tensor, "B L"] | None = None,
    draft: Latents | None = None,
) -> Latents:
    """One call of a UNet, in the UNet's own precision; the result has the sample's dtype.

    The views of an object attend to each other in a UNet that takes cameras. In one that takes none, a plain image
    model, each view is by itself, and the cameras are not looked at.

    A UNet that takes :data:`~invert3d_ns.prior.rays.RAY_CHANNELS` more channels than it gives is also told where each
    place of the views looks; one that takes yet a latent more is given a ray reader's ``draft``.

    Timesteps, context, cameras and weights may lie on any device; they are moved to the sample's. ``token_weights``
    scale cross-attention; see :mod:`invert3d_ns.prior.attention`.
    """
    assert (draft is not None) == takes_drafts(unet), "a draft is given to those, and only those, that take one"
    objects, views = sample.shape[:2]
    dtype = unet.dtype
    timesteps = t.to(sample.device).reshape(objects, -1).expand(objects, views)
    knows_cameras = takes_cameras(unet)
    attention: dict[str, Any] = {"num_views": views if knows_cameras else 1}
    if token_weights is not None:
        rows = token_weights.to(sample.device)
        attention["token_weights"] = rows.repeat_interleave(views, 0) if context.ndim == 4 else rows
    given = sample.flatten(0, 1)
    if takes_rays(unet):
        maps = ray_maps(cameras.to(sample.device, sample.dtype), sample.shape[-1])
        given = torch.cat([given, maps.flatten(0, 1)], 1)
    if draft is not None:
        given = torch.cat([given, draft.flatten(0, 1).to(sample)], 1)
    output = unet(
        given.to(dtype),
        timesteps.flatten(),
        encoder_hidden_states=(context.flatten(0, 1) if context.ndim == 4 else context).to(sample.device, dtype),
        class_labels=cameras.flatten(0, 1).to(sample.device, dtype) if knows_cameras else None,
        cross_attention_kwargs=attention,
        return_dict=False,
    )[0]
    return output.to(sample.dtype).unflatten(0, (objects, views))


def takes_cameras(unet: UNet2DConditionModel) -> bool:
    """Whether a UNet is told the camera of each view, which makes it a multi-view one."""
    config: Any = unet.config
    return config.class_embed_type is not None


def takes_rays(unet: UNet2DConditionModel) -> bool:
    """Whether a UNet's first layer takes rays beside the latent."""
    return _beside(unet) >= RAY_CHANNELS


def takes_drafts(unet: UNet2DConditionModel) -> bool:
    """Whether a UNet's first layer takes a ray reader's draft beside the latent and the rays."""
    config: Any = unet.config
    return _beside(unet) == RAY_CHANNELS + config.out_channels


def _beside(unet: UNet2DConditionModel) -> int:
    """Channels that a UNet's first layer takes beside the latent."""
    config: Any = unet.config
    return config.in_channels - config.out_channels


def draft_latents(
    reader: RayReader,
    context: Float[Tensor, "B L C"] | Float[Tensor, "B F L C"],
    cameras: Float[Tensor, "B F 16"],
    size: int,
    token_weights: Float[Tensor, "B L"] | None,
    device: torch.device,
) -> Latents:
    """A ray reader's draft of clean latents, in its own precision; each view may have a context of its own.

    ``device`` is where it computes, which an offloaded reader's weights do not say. All else may lie anywhere.
    """
    views, given = cameras.shape[1], {"device": device, "dtype": reader.dtype}
    context, cameras = context.to(**given), cameras.to(**given)
    weights = None if token_weights is None else token_weights.to(**given)
    if context.ndim == 3:
        return reader(context, cameras, size, weights)
    each = None if weights is None else weights.repeat_interleave(views, 0)
    drafts = reader(context.flatten(0, 1), cameras.flatten(0, 1)[:, None], size, each)
    return drafts.unflatten(0, (-1, views))[:, :, 0]
