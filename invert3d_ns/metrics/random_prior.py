"""Build priors of full size with random weights, which cost as much time and memory as trained ones.

They exist in memory only: nothing writes them, no name loads them, and they refuse to generate views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.multiview import MultiViewPrior

Size = Literal["tiny", "small", "sd1.5", "sd2.1"]

NAME = "random-weights"
"""What such a prior is called."""


@dataclass(frozen=True)
class Architecture:
    """Sizes that the networks are built from; everything else is as in Stable Diffusion and MVDream."""

    channels: tuple[int, ...]
    """Of the UNet's levels; all but the last attend."""
    heads: int | tuple[int, ...]
    """Attention heads of the UNet, or of each level."""
    linear: bool
    """Whether attention projects with linear layers (SD 2.x) or 1x1 convolutions."""
    text: tuple[int, int, int]
    """Width, layers and heads of the text tower; the UNet attends to this width."""
    vae: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of the autoencoder's levels."""
    latent: int = 32
    """Side of a latent; a view's is this times the autoencoder's factor."""


ARCHITECTURES: dict[Size, Architecture] = {
    "tiny": Architecture((32, 64), 2, False, (32, 2, 2), vae=(32, 32, 32, 32), latent=8),
    "small": Architecture((64, 128, 256, 256), 4, False, (128, 4, 2), vae=(32, 64, 128, 128)),
    "sd1.5": Architecture((320, 640, 1280, 1280), 8, False, (768, 12, 12)),
    "sd2.1": Architecture((320, 640, 1280, 1280), (5, 10, 20, 20), True, (1024, 23, 16)),
}
"""Full sizes have 256x256 views; small is the same depth at a fifth of the width."""


class RandomPrior(MultiViewPrior):
    """A prior with random weights, for benchmarks; it refuses to sample."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to sample.

        Raises:
            InputError: always.
        """
        raise InputError("these weights are random and only for measuring; load a prior to generate views")


def random_prior(size: Size, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> RandomPrior:
    """Build a frozen prior of this size on ``device``; UNet and autoencoder in ``dtype``, the text tower in float32."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from invert3d_ns.prior.vocabulary import CLIP_VOCABULARY_SIZE, clip_tokenizer

    shape, levels = ARCHITECTURES[size], len(ARCHITECTURES[size].channels)
    width, layers, heads = shape.text
    tokenizer = clip_tokenizer()
    unet_config: dict[str, Any] = {
        "sample_size": shape.latent,
        "block_out_channels": shape.channels,
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        "cross_attention_dim": width,
        "attention_head_dim": shape.heads,
        "use_linear_projection": shape.linear,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 16,
    }
    vae_config: dict[str, Any] = {
        "block_out_channels": shape.vae,
        "down_block_types": ("DownEncoderBlock2D",) * len(shape.vae),
        "up_block_types": ("UpDecoderBlock2D",) * len(shape.vae),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": shape.latent * 2 ** (len(shape.vae) - 1),
    }
    text_config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY_SIZE,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=CLIP_VOCABULARY_SIZE - 2,
        eos_token_id=CLIP_VOCABULARY_SIZE - 1,
        pad_token_id=CLIP_VOCABULARY_SIZE - 1,
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    with torch.device(device):
        with _default_dtype(dtype):
            unet, vae = UNet2DConditionModel(**unet_config), AutoencoderKL(**vae_config)
        text_encoder = CLIPTextModel(text_config)
    info = PriorInfo.from_components(NAME, unet, vae, text_encoder, tokenizer, scheduler, fingerprint=NAME)
    return RandomPrior(unet, vae, text_encoder, tokenizer, scheduler, info)  # type: ignore[arg-type]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
