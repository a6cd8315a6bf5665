"""The layouts that full-size priors come in: MVDream's single checkpoint, and the community's folder of parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from invert3d_ns.errors import InputError
from invert3d_ns.prior.conversion import (
    SD_SCALING_FACTOR,
    check_layout,
    convert_text_encoder,
    convert_unet,
    convert_vae,
    load_text_encoder,
)
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.vocabulary import CLIP_VOCABULARY_SIZE, clip_tokenizer
from invert3d_ns.prior.weights import read_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from invert3d_ns.prior.multiview import MultiViewPrior

MVDREAM_SUFFIX = ", 3d asset"


def convert_file(path: Path, name: str) -> MultiViewPrior:
    """An MVDream checkpoint (``.pt``, ``.ckpt``, ``.safetensors``), in float32 on the CPU.

    Raises:
        InputError: missing, damaged, holding code, or of another layout (names the keys that were expected).
    """
    state = {key: value.float() for key, value in read_weights(path).items() if value.is_floating_point()}
    check_layout(state, str(path))
    try:
        return _assemble(name, convert_unet(state), convert_vae(state), convert_text_encoder(state))
    except KeyError as error:
        raise InputError(f"{path} lacks the weight {error}; it is truncated or of another model") from error


def convert_folder(path: Path, name: str) -> MultiViewPrior:
    """A folder with ``unet/ vae/ text_encoder/`` in which the UNet keeps MVDream's key names, in float32 on the CPU.

    Code that such folders bring along is not run.

    Raises:
        InputError: a part is missing or damaged, or of another layout (names what was expected).
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    from invert3d_ns.prior.storage import quiet_libraries

    parts = {part: _read_part(path, part) for part in ("unet", "vae", "text_encoder")}
    heads = _read_json(path / "unet" / "config.json")
    unet = convert_unet(
        parts["unet"], **{key: heads[key] for key in ("num_heads", "num_head_channels") if heads.get(key, -1) > 0}
    )
    try:
        with quiet_libraries():
            vae_config = _read_json(path / "vae" / "config.json")
            vae: AutoencoderKL = AutoencoderKL.from_config({"scaling_factor": SD_SCALING_FACTOR, **vae_config})  # type: ignore[assignment]
            vae.load_state_dict(_modern_vae_names(parts["vae"]))
        text_config = _read_json(path / "text_encoder" / "config.json")
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config))
    except (RuntimeError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"the weights in {path} do not fit their config.json ({detail}); download it again") from error
    load_text_encoder(text_encoder, parts["text_encoder"])
    return _assemble(name, unet, vae, text_encoder)


def _assemble(name: str, unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> MultiViewPrior:
    from diffusers import DDIMScheduler

    from invert3d_ns.prior.multiview import MultiViewPrior

    config = text_encoder.config
    if config.vocab_size != CLIP_VOCABULARY_SIZE:
        raise InputError(
            f"the text encoder has {config.vocab_size} tokens, CLIP has {CLIP_VOCABULARY_SIZE}; this is another model"
        )
    if config.hidden_size != unet.config["cross_attention_dim"]:
        raise InputError(
            f"the text encoder is {config.hidden_size} wide but the UNet takes {unet.config['cross_attention_dim']}; "
            "the parts belong to different models"
        )
    # The schedule and sampler settings of Stable Diffusion, which MVDream kept.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    tokenizer = clip_tokenizer()
    # open_clip, and with it Stable Diffusion 2.x, fills the context with zeros, CLIP with its end token.
    is_open_clip = config.hidden_act == "gelu"
    info = PriorInfo.from_components(
        name,
        unet,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        pad_token_id=0 if is_open_clip else tokenizer.eos_token_id,
        prompt_suffix=MVDREAM_SUFFIX,
    )
    return MultiViewPrior(unet.float(), vae.float(), text_encoder.float(), tokenizer, scheduler, info)


def _read_part(folder: Path, part: str) -> dict[str, Tensor]:
    files = sorted((folder / part).glob("*.safetensors")) or sorted((folder / part).glob("*.bin"))
    # Repositories often hold the same weights twice, the second time in half precision.
    files = [file for file in files if ".fp16." not in file.name] or files
    if not files:
        raise InputError(
            f"{folder} is not a prior: expected prior.json, or {part}/*.safetensors as in the community's layout; "
            "give a folder that `invert3d prior convert` wrote, or an MVDream checkpoint file"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(read_weights(file))
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged; download the folder again") from error


def _modern_vae_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Autoencoders saved by diffusers before 0.18 name their attention differently.
    old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    renamed = {}
    for key, value in state.items():
        for before, after in old.items():
            key = key.replace(before, after)
        renamed[key] = value
    return renamed
