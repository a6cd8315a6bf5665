"""How a prior computes: precision, and what trades speed for memory. None of it changes what is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    import torch

    from invert3d_ns.prior.multiview import MultiViewPrior

Work = Literal["inversion", "sampling", "encoding", "decoding"]


@dataclass
class PriorOptions:
    """How the prior computes. Percentages are of the GPU memory, weights included, that Stable Diffusion 1.5 needs for
    four 256x256 views in bf16: 3.2 GB for a step of inversion, 2.5 GB for sampling, 2.8 GB for pixels and back.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of denoiser and autoencoder. auto: fp32 on a CPU and for the bundled prior, else bf16 (fp16 on GPUs without it).
    Half precision takes 45 % less than fp32; small gradients of words may vanish in fp16."""
    attention: Literal["fused", "plain", "sliced"] = "fused"
    """fused: one kernel that never holds all scores. sliced, for devices without one: head after head (inversion 36 %
    more, sampling the same). plain: all scores at once (inversion 51 % more, sampling 39 %)."""
    vae_slicing: bool = False
    """Encode and decode one view at a time (9 and 11 % less)."""
    vae_tiling: bool = False
    """Encode and decode quarters of a view with soft seams (9 and 11 % less): nearly the same pictures, not exactly."""
    offload: Literal["none", "model", "sequential"] = "none"
    """Keep weights in main memory. model: the network in use is on the GPU (sampling 26 % less, decoding 82 %,
    inversion 10 %). sequential: the layer in use is, slowly (sampling 95 % less; inversion 12 %, and 74 % together with
    gradient checkpointing). Without effect on a CPU."""
    gradient_checkpointing: bool = False
    """Compute the denoiser's activations again in the backward pass instead of keeping them: inversion 17 % less, for
    one more forward pass in each step."""
    compile: bool = False
    """Compile the denoiser (a minute or more at the start). Not together with offload."""


SAVINGS: dict[str, dict[str, dict[Work, int]]] = {
    "precision": {"bf16": {"inversion": 45, "sampling": 45, "encoding": 45, "decoding": 45}},
    "vae_slicing": {"True": {"encoding": 9, "decoding": 11}},
    "vae_tiling": {"True": {"encoding": 9, "decoding": 11}},
    "offload": {
        "model": {"inversion": 10, "sampling": 26, "encoding": 85, "decoding": 82},
        "sequential": {"inversion": 12, "sampling": 95, "encoding": 87, "decoding": 86},
    },
    "gradient_checkpointing": {"True": {"inversion": 17}},
}
"""Memory that an option's value saves, per cent of all that a work needs without it, by the bytes of tensors:
`invert3d bench prior --size sd1.5 --device meta`."""

TOGETHER = 74
"""The same for a step of inversion with sequential offload and gradient checkpointing, which save little alone."""


def preferred_dtype(options: PriorOptions, name: str, device: str | torch.device) -> torch.dtype:
    """What to pass to :func:`invert3d_ns.prior.checkpoints.load_prior` for a prior that is to compute on ``device``.

    Needed where a prior is loaded into main memory first: there "auto" would be decided for the CPU.
    """
    import torch

    chosen = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if options.precision != "auto":
        return chosen[options.precision]
    if torch.device(device).type != "cuda" or name == "bundled":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def check_options(options: PriorOptions) -> None:
    """Refuse options that exclude each other, before anything is loaded.

    Raises:
        InputError: with what to leave out.
    """
    if options.compile and options.offload != "none":
        raise InputError(
            f"compile does not go with offload {options.offload}, which exchanges the weights that were compiled for; "
            "leave one of them out"
        )


def apply(prior: MultiViewPrior, options: PriorOptions, device: str | torch.device | None = None) -> MultiViewPrior:
    """Move a frozen prior to ``device`` and make it compute as ``options`` say, in place; may be called again.

    Precision is not among what is applied: it is chosen when weights are loaded (:func:`preferred_dtype`).

    Args:
        device: where it shall compute; where it computes already if None.

    Returns:
        The prior itself.

    Raises:
        InputError: options that exclude each other.
    """
    import torch

    from invert3d_ns.prior.attention import install_cross_view_attention
    from invert3d_ns.prior.offload import Offload

    check_options(options)
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


def _move(prior: MultiViewPrior, device: torch.device) -> None:
    # Not if it is there: torch's fake tensors, with which memory is counted, cannot be moved.
    if any(tensor.device != device for tensor in (*prior.parameters(), *prior.buffers())):
        prior.to(device)


def load_with_options(
    name_or_path: str, options: PriorOptions, device: str | torch.device | None = None
) -> MultiViewPrior:
    """:func:`invert3d_ns.prior.checkpoints.load_prior`, then :func:`apply`.

    Args:
        device: CUDA if there is one, else the CPU.

    Raises:
        InputError: as both of them.
    """
    import torch

    from invert3d_ns.prior.checkpoints import load_prior

    check_options(options)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # Into main memory first: what is offloaded need not fit on the GPU.
    prior = load_prior(name_or_path, "cpu", preferred_dtype(options, name_or_path, device))
    return apply(prior, options, device)


def prior_networks(prior: MultiViewPrior) -> list[list[torch.nn.Module]]:
    """The networks that are never needed at the same time; encoder and decoder are two."""
    vae = prior.vae
    doors = [[vae.encoder, vae.quant_conv], [vae.decoder, vae.post_quant_conv]]
    halves = [[part for part in door if part is not None] for door in doors]
    return [[prior.text_encoder], [prior.unet], *halves]


def set_tiling(prior: MultiViewPrior, on: bool) -> None:
    """Let the autoencoder work on tiles of half a view's side, or on whole views.

    diffusers' own tiles are as large as the images that the autoencoder was trained on, hence as a whole view.
    """
    prior.vae.use_tiling = on
    if on:
        prior.vae.tile_sample_min_size = prior.info.image_size // 2
        prior.vae.tile_latent_min_size = prior.info.latent_size // 2


@contextmanager
def explain_out_of_memory(work: Work, options: PriorOptions | None = None) -> Iterator[None]:
    """Turn CUDA's out-of-memory error in this context into one line that names the options that help.

    Args:
        work: what is done here; options are named in the order of what they save in it.
        options: what is in use already and need not be named; none if None.

    Raises:
        InputError: the GPU's memory is full.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(out_of_memory_message(work, options or PriorOptions())) from error


_DOING = {"inversion": "a step of inversion", "sampling": "denoising", "encoding": "encoding", "decoding": "decoding"}


def out_of_memory_message(work: Work, options: PriorOptions) -> str:
    """What :func:`explain_out_of_memory` says."""
    helps = []
    for name, values in SAVINGS.items():
        current = str(getattr(options, name))
        # "auto" is the half precision that the GPU has.
        already = 100 if current == "auto" else values.get(current, {}).get(work, 0)
        for value, savings in values.items():
            if savings.get(work, 0) > already:
                helps.append((savings[work], f"{name.replace('_', '-')} {value} ({savings[work]} % less)"))
    both = options.offload == "sequential" and options.gradient_checkpointing
    if work == "inversion" and not both:
        helps.append((TOGETHER, f"offload sequential and gradient-checkpointing True together ({TOGETHER} % less)"))
    start = f"the GPU has too little memory for {_DOING[work]}"
    if not helps:
        return f"{start}, and every option that lowers it is on; close other programs or take another GPU or prior"
    listed = ", ".join(text for _, text in sorted(helps, reverse=True))
    return (
        f"{start}; what lowers it, counted at full size: {listed}; give it as --pipeline.prior-options.NAME VALUE to "
        "ns-train, --prior-options.NAME VALUE to invert3d"
    )
