"""Diffusion features (DIFT, Tang et al. 2023): what a layer of a prior's UNet makes of noised views, place by place.

Own code, because the official one copies a Stable Diffusion UNet's forward pass; here a hook reads the layer of any
prior's, which is told cameras, rays and drafts as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.prior.out_of_memory import explain_out_of_memory

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior


class FeatureChoice(NamedTuple):
    """Where features are read."""

    layer: str
    """Name of a module of the UNet."""
    t: float
    """Share of the diffusion up to which views are noised, 0 (clean) to 1 (pure noise)."""


OFFICIAL = FeatureChoice("up_blocks.1", 261 / 1000)
"""What the official code reads of Stable Diffusion 2.1 for matching."""
SMALL = FeatureChoice("up_blocks.1.resnets.0", 0.4)
"""What serves best of the bundled prior; the table is in the README of this room."""


class _LayersSeen(Exception):
    """Ends a UNet's pass once all layers that are asked for have been seen."""


def feature_choice(prior: MultiViewPrior) -> FeatureChoice:
    """Where the features of a prior tell best which places correspond.

    Of UNets with more than two decoder blocks, as Stable Diffusion's and MVDream's, :data:`OFFICIAL`. In the bundled
    prior's two, what the first block gives says where a place is rather than what it shows, and what the second gives
    is its color: :data:`SMALL` is between them.
    """
    blocks: Any = prior.unet.up_blocks
    return OFFICIAL if len(blocks) > 2 else SMALL


def diffusion_features(
    prior: MultiViewPrior,
    views: Float[Tensor, "F 3 S S"],
    cameras: Float[Tensor, "F 16"],
    *,
    t: float | None = None,
    layer: str | None = None,
    ensemble: int = 8,
    seed: int = 0,
) -> Float[Tensor, "F C h w"]:
    """Features of the views of one object, in float32 on the prior's device; not normalized.

    The latents are noised to ``t``, the UNet predicts for them under the empty prompt, a decoder layer's output is
    read, and the mean is taken over noises. The same seed is the same noise, so that the same views have the same
    features. One pass a noise, of all views at once; what comes after the layer is not computed.

    Args:
        prior: multi-view or single-view; a prior of single views does not look at the cameras.
        views: RGB in [0, 1] on white, best at the prior's size.
        cameras: MVDream's camera vectors of the views.
        t: share of the diffusion, 0 (clean) to 1 (pure noise); :func:`feature_choice`'s if None, 261/1000 where the
            official one serves.
        layer: name of a module of the UNet, as "up_blocks.1"; :func:`feature_choice`'s if None.
        ensemble: noises.
        seed: of the noises.

    Raises:
        InputError: views, cameras, ``t``, ``ensemble`` or ``layer`` are none.
    """
    choice = feature_choice(prior)
    t, layer = choice.t if t is None else t, choice.layer if layer is None else layer
    return layer_features(prior, views, cameras, [layer], t, ensemble=ensemble, seed=seed)[layer]


@torch.no_grad()
def layer_features(
    prior: MultiViewPrior,
    views: Float[Tensor, "F 3 S S"],
    cameras: Float[Tensor, "F 16"],
    layers: Sequence[str],
    t: float,
    *,
    ensemble: int = 8,
    seed: int = 0,
) -> dict[str, Float[Tensor, "F C h w"]]:
    """Features of several layers in the same passes; see :func:`diffusion_features`."""
    _check(views, cameras, t, ensemble)
    modules = {name: _layer(prior.unet, name) for name in layers}
    # Latents in float32 whatever the UNet's precision, so that noise is added and means are taken without loss.
    latents = prior.encode_images(views[None].to(prior.device).float())
    cameras = cameras[None].to(latents)
    step = torch.full((1,), min(round(t * prior.num_timesteps), prior.num_timesteps - 1), device=latents.device)
    context = prior.encode_prompt("")
    draft = prior.draft(context, cameras, latents.shape[-1])
    sums = dict.fromkeys(modules, torch.zeros((), device=latents.device))
    for index in range(ensemble):
        noise = torch.randn(latents.shape, generator=random_stream("diffusion features", seed, index)).to(latents)
        noisy = prior.add_noise(latents, noise, step)
        with explain_out_of_memory("sampling", prior.options), recorded_outputs(prior.unet, modules) as outputs:
            prior.predict(noisy, step, context, cameras, draft=draft)
        for name in modules:
            output = outputs.get(name)
            if output is None or output.ndim != 4:
                raise InputError(f"the layer {name} gives no map of the views; name a block, such as up_blocks.1")
            sums[name] = sums[name] + output.float() / ensemble
    return sums


@contextmanager
def recorded_outputs(unet: Any, modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """In this context, a pass of ``unet`` goes as far as the last of the modules, whose outputs are in the dictionary.

    Passes of other threads are left alone. The hooks are gone after it, whatever was raised in it. A compiled UNet runs
    uncompiled, since graphs that were captured before know of no hooks.
    """
    outputs: dict[str, Tensor] = {}
    owner = threading.get_ident()

    def note(name: str, output: Any) -> None:
        if threading.get_ident() != owner:
            return
        outputs[name] = output if isinstance(output, Tensor) else output[0]  # attention layers give tuples
        if len(outputs) == len(modules):
            raise _LayersSeen

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    compiled, unet._compiled_call_impl = unet._compiled_call_impl, None
    try:
        yield outputs
    except _LayersSeen:
        pass
    finally:
        unet._compiled_call_impl = compiled
        for handle in handles:
            handle.remove()


def _layer(unet: nn.Module, name: str) -> nn.Module:
    modules = dict(unet.named_modules())
    if not name or name not in modules:
        blocks: Any = unet.up_blocks
        raise InputError(
            f"the UNet has no layer {name!r}; its decoder blocks are up_blocks.0 to up_blocks.{len(blocks) - 1}"
        )
    return modules[name]


def _check(views: Tensor, cameras: Tensor, t: float, ensemble: int) -> None:
    if views.ndim != 4 or views.shape[1] != 3 or 0 in views.shape or not views.is_floating_point():
        raise InputError(
            f"views of shape {tuple(views.shape)}, {views.dtype}, have no features; give RGB in [0, 1] as floats of "
            "shape (views, 3, height, width)"
        )
    if cameras.shape != (len(views), 16):
        raise InputError(
            f"cameras of shape {tuple(cameras.shape)} do not belong to {len(views)} views; give one vector of 16 "
            "numbers for each"
        )
    if not 0 <= t <= 1:
        raise InputError(f"t is {t}; give a share of the diffusion from 0 to 1")
    if ensemble < 1:
        raise InputError(f"the ensemble has {ensemble} noises; give 1 or more")
