"""What trades a prior's speed for memory: precision, attention, tiles, offloading; results stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.weights.precision import automatic_dtype

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior


def preferred_dtype(options: PriorOptions, name: str, device: str | torch.device) -> torch.dtype:
    """The precision of UNet and autoencoder of a prior that is to compute on ``device``.

    Needed where a prior is loaded into main memory first: there "auto" would be decided for the CPU.

    Args:
        name: of the prior; "auto" keeps the bundled one in float32.
        device: where it shall compute, wherever it is loaded first.
    """
    chosen = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if options.precision != "auto":
        return chosen[options.precision]
    return automatic_dtype(name, device)


def apply_prior_options(
    prior: MultiViewPrior, options: PriorOptions, device: str | torch.device | None = None
) -> MultiViewPrior:
    """Move a frozen prior to ``device`` and make it compute as ``options`` say, in place; may be called again.

    Precision is not among what is changed: it is chosen when weights are loaded (:func:`preferred_dtype`).

    Args:
        device: where it shall compute; where it computes already if None.

    Returns:
        The prior itself.

    Raises:
        InputError: options that exclude each other.
    """
    from invert3d_ns.prior.attention import install_cross_view_attention
    from invert3d_ns.prior.offload import Offload

    options.check()
    device = torch.device(device or prior.device)
    if prior.offload is not None:
        prior.offload.remove()
        prior.offload = None
    install_cross_view_attention(prior.unet, options.attention)
    prior.vae.use_slicing = options.vae_slicing
    set_tiling(prior, options.vae_tiling)
    if options.gradient_checkpointing:
        prior.unet.enable_gradient_checkpointing()
    else:
        prior.unet.disable_gradient_checkpointing()
    if options.compile:
        prior.unet.compile()
    else:
        prior.unet._compiled_call_impl = None  # what `compile` sets and nothing public takes back
    if options.offload == "none" or device.type == "cpu":
        _move(prior, device)
    else:
        _move(prior, torch.device("cpu"))
        prior.offload = Offload(prior_networks(prior), device, options.offload)
        prior.alphas_cumprod = prior.alphas_cumprod.to(device)
    prior.options = options
    return prior


def prior_networks(prior: MultiViewPrior) -> list[list[torch.nn.Module]]:
    """The networks that are never needed at the same time; encoder and decoder are two."""
    vae = prior.vae
    doors = [[vae.encoder, vae.quant_conv], [vae.decoder, vae.post_quant_conv]]
    halves = [[part for part in door if part is not None] for door in doors]
    views: list[list[torch.nn.Module]] = [] if prior.view_encoder is None else [[prior.view_encoder]]
    denoiser: list[torch.nn.Module] = [prior.unet] if prior.ray_reader is None else [prior.unet, prior.ray_reader]
    return [[prior.text_encoder], denoiser, *halves, *views]


def set_tiling(prior: MultiViewPrior, on: bool) -> None:
    """Let the autoencoder work on tiles of half a view's side, or on whole views.

    diffusers' own tiles are as large as the images that the autoencoder was trained on, hence as a whole view.
    """
    prior.vae.use_tiling = on
    if on:
        prior.vae.tile_sample_min_size = prior.info.image_size // 2
        prior.vae.tile_latent_min_size = prior.info.latent_size // 2


def _move(prior: MultiViewPrior, device: torch.device) -> None:
    # Not if it is there: torch's fake tensors, with which memory is counted, cannot be moved.
    if any(tensor.device != device for tensor in (*prior.parameters(), *prior.buffers())):
        with explain_out_of_memory("sampling", prior.options):
            prior.to(device)
