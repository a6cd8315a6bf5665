"""How the prior computes, as options: free of torch, so that command lines read them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from invert3d_ns.base.errors import InputError

Work = Literal["inversion", "sampling", "encoding", "decoding"]
"""What a prior is asked to do."""
Sampler = Literal["ddim", "dpm++"]
"""Deterministic DDIM, or second-order DPM-Solver++, which needs fewer steps."""
AttentionKind = Literal["fused", "plain", "sliced"]
OffloadMode = Literal["model", "sequential"]


@dataclass
class PriorOptions:
    """How the prior computes. Percentages are of the GPU memory, weights included, that Stable Diffusion 1.5 needs for
    four 256x256 views in bf16: 3.2 GB for a step of inversion, 2.5 GB for sampling, 2.8 GB for pixels and back.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of denoiser and autoencoder. auto: fp32 on a CPU and for the bundled prior, else bf16 (fp16 on GPUs without it).
    Half precision takes 45 % less than fp32; small gradients of words may vanish in fp16."""
    attention: AttentionKind = "fused"
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

    def check(self) -> None:
        """Refuse options that exclude each other, before anything is loaded.

        Raises:
            InputError: with what to leave out.
        """
        if self.compile and self.offload != "none":
            raise InputError(
                f"compile does not go with offload {self.offload}, which exchanges the weights that were compiled for; "
                "leave one of them out"
            )
