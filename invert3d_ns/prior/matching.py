"""Whether the parts of a prior belong together: description, networks, tokenizer and noise schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.rays import RAY_CHANNELS
from invert3d_ns.prior.unet import takes_cameras, takes_drafts, takes_rays

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from invert3d_ns.prior.ray_reader import RayReader
    from invert3d_ns.prior.view_encoder import ViewEncoder

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
    view_encoder: ViewEncoder | None = None,
    ray_reader: RayReader | None = None,
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
    _check_cameras(unet, view_encoder, ray_reader)
    _require("width of the UNet's cross-attention", config.cross_attention_dim, "the text encoder's", facts.token_dim)
    if takes_drafts(unet) and ray_reader is None:
        raise InputError("its UNet takes drafts of a ray reader, and it has none")
    beside = RAY_CHANNELS if takes_rays(unet) else 0
    if ray_reader is not None:
        _check_module("ray reader", ray_reader, facts, "context_dim")
        if not takes_drafts(unet):
            raise InputError("it has a ray reader, but its UNet takes no drafts")
        beside += facts.latent_channels
    _require("latent channels into the UNet", config.in_channels - beside, "the autoencoder's", facts.latent_channels)
    _require("latent channels out of the UNet", config.out_channels, "the autoencoder's", facts.latent_channels)
    for name, module in unet.named_modules():
        heads = getattr(module, "heads", None)
        if isinstance(heads, int) and heads < 1:
            raise InputError(f"its attention {name} has {heads} heads")
    if view_encoder is not None:
        _check_module("view encoder", view_encoder, facts, "token_dim")
        if not 1 <= view_encoder.vectors <= info.context_length - 2:
            raise InputError(
                f"its view encoder says {view_encoder.vectors} words, of {info.context_length - 2} at most"
            )
        if (of := view_encoder.config["prior"]) != info.fingerprint:
            raise InputError(
                f"its view encoder speaks the words of another prior ({of or 'none'}, not {info.fingerprint})"
            )
    size = text_encoder.config.vocab_size
    if len(tokenizer) > size or not info.pad_token_id < size:
        raise InputError(f"its tokenizer has {len(tokenizer)} tokens and pads with {info.pad_token_id}, of {size}")
    signal = torch.as_tensor(scheduler.alphas_cumprod)
    if len(signal) < 2 or not ((signal >= 0) & (signal <= 1)).all():
        raise InputError("its noise schedule is none: shares of the signal are not 0 to 1")


def _check_cameras(unet: UNet2DConditionModel, view_encoder: Any, ray_reader: Any) -> None:
    """Refuse a UNet that is told neither MVDream's cameras and words, nor words alone."""
    config: Any = unet.config
    for name in ("addition_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim"):
        if (found := config.get(name)) is not None:
            raise InputError(f"its UNet depends on more than words and cameras ({name} is {found!r:.40})")
    numbers = config.projection_class_embeddings_input_dim
    if takes_cameras(unet):
        _require("class embedding of the UNet", config.class_embed_type, "MVDream's", "projection")
        _require("camera numbers of the UNet", numbers, "MVDream's", CAMERA_NUMBERS)
    elif numbers is not None:
        raise InputError(f"its UNet has {numbers} camera numbers, but no embedding of them")
    elif takes_rays(unet) or view_encoder is not None or ray_reader is not None:
        raise InputError("its UNet takes no cameras, but other parts of it do")


def _check_module(name: str, module: ViewEncoder | RayReader, facts: PriorInfo, width: str) -> None:
    """Refuse one of the prior's own small networks; ``width`` is what it calls the width of text."""
    config: Any = module.config
    for key in ("latent_channels", "latent_size"):
        _require(f"{key} of the {name}", getattr(config, key), "the prior's", getattr(facts, key))
    _require(f"{width} of the {name}", config[width], "the text encoder's", facts.token_dim)
    for inside in ("width", "view_width"):
        if config.get(inside, 0) % max(config.heads, 1) or config.heads < 1:
            raise InputError(f"its {name} has {config.heads} heads, which do not divide {config[inside]}")


def _require(name: str, found: Any, authority: str, expected: Any) -> None:
    if found != expected:
        raise InputError(f"the {name} is {found}, {authority} {expected}")
