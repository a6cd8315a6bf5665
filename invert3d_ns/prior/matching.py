"""Whether the parts of a prior belong together: description, networks, tokenizer and noise schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

CAMERA_NUMBERS = 16
"""Length of a camera vector, which a multi-view UNet takes for each view."""
_SHARED = ("prediction_type", "image_size", "latent_channels", "latent_size", "token_dim", "context_length")


def check_parts_match(
    info: PriorInfo,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: Any,
) -> None:
    """Refuse parts that load, each by itself, and do not fit each other: what they computed would be nonsense.

    Raises:
        InputError: the first thing that does not fit, by name.
    """
    facts = PriorInfo.from_components(info.name, unet, vae, text_encoder, tokenizer, scheduler)
    facts.check()
    for name in _SHARED:
        _require(f"{name} of the description", getattr(info, name), "its networks'", getattr(facts, name))
    config: Any = unet.config
    _require("camera numbers of the UNet", config.projection_class_embeddings_input_dim, "MVDream's", CAMERA_NUMBERS)
    _require("width of the UNet's cross-attention", config.cross_attention_dim, "the text encoder's", facts.token_dim)
    _require("latent channels into the UNet", config.in_channels, "the autoencoder's", facts.latent_channels)
    _require("latent channels out of the UNet", config.out_channels, "the autoencoder's", facts.latent_channels)
    for name, module in unet.named_modules():
        heads = getattr(module, "heads", None)
        if isinstance(heads, int) and heads < 1:
            raise InputError(f"its attention {name} has {heads} heads")
    size = text_encoder.config.vocab_size
    if len(tokenizer) > size or not info.pad_token_id < size:
        raise InputError(f"its tokenizer has {len(tokenizer)} tokens and pads with {info.pad_token_id}, of {size}")
    signal = torch.as_tensor(scheduler.alphas_cumprod)
    if len(signal) < 2 or not ((signal >= 0) & (signal <= 1)).all():
        raise InputError("its noise schedule is none: shares of the signal are not 0 to 1")


def _require(name: str, found: Any, authority: str, expected: Any) -> None:
    if found != expected:
        raise InputError(f"the {name} is {found}, {authority} {expected}")
