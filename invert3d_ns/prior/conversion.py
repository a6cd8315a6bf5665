"""From the key names of latent-diffusion checkpoints (as MVDream's are) to diffusers and transformers models.

Architectures are read off the tensors' shapes, names are mapped by diffusers' own single-file conversion; the camera
embedding is the only part that it does not know, and is presented to it as a class embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

State = dict[str, Tensor]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
OPEN_CLIP_PREFIX = "cond_stage_model.model."
SD_SCALING_FACTOR = 0.18215
SD2_TEXT_LAYERS = 23
"""Layers of Stable Diffusion 2.x's text tower that are used, of 24."""


def convert_unet(
    state: Mapping[str, Tensor],
    *,
    num_heads: int | None = None,
    num_head_channels: int | None = None,
    sample_size: int = 32,
    cameras: bool = True,
) -> UNet2DConditionModel:
    """Build diffusers' UNet from LDM-named weights, with or without the ``model.diffusion_model.`` prefix.

    Args:
        state: the weights; other parts of a checkpoint may be among them.
        num_heads: attention heads at every level, or
        num_head_channels: channels of a head. If neither is given, the convention that goes with the projections:
            64 channels a head with linear ones (SD 2.x), else 8 heads (SD 1.x).
        sample_size: height and width of the latents that the prior was trained on.
        cameras: whether it is MVDream's, with a camera embedding, or Stable Diffusion's, without.

    Raises:
        InputError: the weights are not those of such a UNet.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = {key.removeprefix(UNET_PREFIX): value for key, value in state.items() if _is_unet_key(key, state)}
    if image_key := next((key for key in unet if "_ip." in key or key.startswith("image_embed.")), None):
        raise InputError(
            f"the UNet is conditioned on an image as well ({image_key}), as ImageDream's is; give a model of text alone"
        )
    config = _unet_config(unet, num_heads, num_head_channels, sample_size, cameras)
    # The camera embedding is a class embedding to diffusers: the same two linear layers, under another name.
    renamed = {UNET_PREFIX + re.sub(r"^camera_embed\.", "label_emb.0.", key): value for key, value in unet.items()}
    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    converted = convert_ldm_unet_checkpoint(renamed, config)
    # Of keys that it does not know, such as half of a camera embedding, that function says nothing.
    used = {id(value) for value in converted.values()}
    unknown = {key: value for key, value in unet.items() if id(value) not in used}
    load_strictly(model, converted | unknown, "UNet", assign=True)
    return model


def convert_vae(state: Mapping[str, Tensor], sample_size: int = 256) -> AutoencoderKL:
    """Build diffusers' autoencoder from the ``first_stage_model.`` weights of a checkpoint, in float32.

    Raises:
        InputError: weights are missing or do not fit.
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    weights = {key: value for key, value in state.items() if key.startswith(VAE_PREFIX)}
    levels = _count(weights, re.escape(VAE_PREFIX) + r"encoder\.down\.(\d+)\.")
    channels = [weights[f"{VAE_PREFIX}encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
    config: dict[str, Any] = {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(weights, re.escape(VAE_PREFIX) + r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": weights[VAE_PREFIX + "post_quant_conv.weight"].shape[0],
        "norm_num_groups": min(32, channels[0]),
        "sample_size": sample_size,
        "scaling_factor": SD_SCALING_FACTOR,
    }
    model = AutoencoderKL(**config)
    load_strictly(model, convert_ldm_vae_checkpoint(weights, config), "autoencoder")
    return model


def convert_text_encoder(state: Mapping[str, Tensor]) -> CLIPTextModel:
    """Build transformers' CLIP text model from the ``cond_stage_model.`` weights of a checkpoint, in float32.

    Stable Diffusion 1.x holds CLIP ViT-L/14 in transformers' names and uses its last layer; 2.x holds open_clip's
    ViT-H/14 and uses the layer before the last, which is the same model without that layer. Copies that were written
    from diffusers' form have lost that layer already: the 23 that they have are all used.

    Raises:
        InputError: weights are missing or do not fit.
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    is_open_clip = OPEN_CLIP_PREFIX + "token_embedding.weight" in state
    if is_open_clip:
        count = _count(state, re.escape(OPEN_CLIP_PREFIX) + r"transformer\.resblocks\.(\d+)\.")
        layers = count if count == SD2_TEXT_LAYERS else count - 1
        last = f"{OPEN_CLIP_PREFIX}transformer.resblocks.{layers}."
        weights = {k: v for k, v in state.items() if k.startswith(OPEN_CLIP_PREFIX) and not k.startswith(last)}
        embedding = weights[OPEN_CLIP_PREFIX + "token_embedding.weight"]
        positions = weights[OPEN_CLIP_PREFIX + "positional_embedding"]
        feed_forward = weights[OPEN_CLIP_PREFIX + "transformer.resblocks.0.mlp.c_fc.weight"]
    else:
        found = {key.removeprefix(CLIP_PREFIX): value for key, value in state.items() if key.startswith(CLIP_PREFIX)}
        weights = {key.removeprefix("text_model."): value for key, value in found.items()}
        layers = _count(weights, r"encoder\.layers\.(\d+)\.")
        embedding = weights["embeddings.token_embedding.weight"]
        positions = weights["embeddings.position_embedding.weight"]
        feed_forward = weights["encoder.layers.0.mlp.fc1.weight"]
    vocabulary, width = embedding.shape
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=feed_forward.shape[0],
            num_hidden_layers=layers,
            num_attention_heads=max(width // 64, 1),
            max_position_embeddings=positions.shape[0],
            hidden_act="gelu" if is_open_clip else "quick_gelu",
            projection_dim=width,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=0 if is_open_clip else vocabulary - 1,
        )
    )
    if is_open_clip:
        weights = convert_open_clip_checkpoint(model, weights, prefix=OPEN_CLIP_PREFIX)
    load_text_encoder(model, weights)
    return model


_TEXT_ENTRIES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""What a CLIP text encoder depends on. Nothing else is heard: one entry names code on the hub to compute attention."""


def build_text_encoder(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> CLIPTextModel:
    """Build transformers' CLIP text model from the ``config.json`` of one and its weights, in float32.

    Raises:
        InputError: weights are missing or do not fit.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    known = CLIPTextConfig(**{name: config[name] for name in _TEXT_ENTRIES if name in config})
    # Without memory first: a config that lies about sizes would fill it before weights are compared.
    with torch.device("meta"):
        load_text_encoder(CLIPTextModel(known), weights, assign=True)
    model = CLIPTextModel(known)
    load_text_encoder(model, weights)
    return model


def load_text_encoder(model: CLIPTextModel, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load text-model weights with or without the ``text_model.`` prefix, which transformers dropped in version 5.

    Raises:
        InputError: weights are missing or do not fit.
    """
    own = model.state_dict()
    prefix = "text_model." if any(key.startswith("text_model.") for key in own) else ""
    named = {prefix + key.removeprefix("text_model."): value for key, value in weights.items()}
    load_strictly(model, {key: value for key, value in named.items() if key in own}, "text encoder", assign=assign)


def _is_unet_key(key: str, state: Mapping[str, Tensor]) -> bool:
    return key.startswith(UNET_PREFIX) or "input_blocks.0.0.weight" in state


def _unet_config(
    unet: State, num_heads: int | None, num_head_channels: int | None, sample_size: int, cameras: bool
) -> dict[str, Any]:
    kind, model = ("multi-view", "an MVDream") if cameras else ("text-to-image", "a Stable Diffusion")
    embedding = ("camera_embed.0.weight", "camera_embed.2.weight") if cameras else ()
    for key in ("input_blocks.0.0.weight", *embedding, "out.2.weight"):
        if key not in unet:
            raise InputError(
                f"the weights are not those of a {kind} UNet: {UNET_PREFIX}{key} is missing; "
                f"give {model} checkpoint, or --prior bundled"
            )
    channels: list[int] = []
    attends: list[bool] = []
    layers = [0]
    for index in range(1, _count(unet, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in unet:
            layers.append(0)
            continue
        if len(channels) < len(layers):
            channels.append(unet[f"input_blocks.{index}.0.in_layers.2.weight"].shape[0])
            attends.append(f"input_blocks.{index}.1.norm.weight" in unet)
        layers[-1] += 1
    to_k = next((value for key, value in unet.items() if key.endswith("attn2.to_k.weight")), None)
    if to_k is None or len(set(layers)) != 1:
        raise InputError(f"the weights are not those of a {kind} UNet with cross-attention; give {model} checkpoint")
    is_linear = unet["middle_block.1.proj_in.weight"].ndim == 2
    if num_heads is None:
        head = num_head_channels or (64 if is_linear else None)
        heads = [c // head for c in channels] if head else [8] * len(channels)
    else:
        heads = [num_heads] * len(channels)
    for count, width in zip(heads, channels, strict=True):
        if count < 1 or width % count:
            raise InputError(f"{count} attention heads do not divide {width} channels; the file is of another model")
    cameras_of: dict[str, Any] = {}
    if cameras:
        numbers = unet["camera_embed.0.weight"].shape[1]
        cameras_of = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": numbers}
    # diffusers' attention_head_dim is, for this model, the number of heads (huggingface/diffusers#2011).
    return {
        "sample_size": sample_size,
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "cross_attention_dim": to_k.shape[1],
        "attention_head_dim": heads,
        "use_linear_projection": is_linear,
        **cameras_of,
    }


def _count(state: Mapping[str, Any], pattern: str) -> int:
    return 1 + max((int(m.group(1)) for key in state if (m := re.match(pattern, key))), default=-1)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], part: str, *, assign: bool = False) -> None:
    """Load every weight of ``model`` and nothing else; ``assign`` takes the tensors themselves, for models on "meta".

    Raises:
        InputError: weights are missing, too many or of other shapes; ``part`` is what the message calls the model.
    """
    own = model.state_dict()
    for key, value in weights.items():
        if key in own and own[key].shape != value.shape:
            raise InputError(
                f"the {part}'s weights do not fit its architecture: {key} is {_shape(value)} in the file, "
                f"{_shape(own[key])} in the model; the file is of another model, or its config.json is"
            )
    missing, unexpected = model.load_state_dict(dict(weights), strict=False, assign=assign)
    # position_ids is a buffer of old transformers versions.
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing or unexpected:
        kind, keys = ("missing", missing) if missing else ("unexpected", unexpected)
        raise InputError(
            f"the {part}'s weights do not fit its architecture: {len(keys)} {kind}, for example {keys[0]}; "
            "the file may be truncated or another model, download it again"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
