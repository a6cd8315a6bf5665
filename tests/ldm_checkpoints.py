"""Tiny MVDream checkpoints with random weights, in the names of the original files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from plain_mvdream import PlainMVDream
from torch import Tensor

from invert3d_ns.base.errors import InputError

WIDTH = 64


@torch.no_grad()
def rounded(module):
    """In eval mode, with weights that survive being stored in half precision."""
    for parameter in module.parameters():
        parameter.copy_(parameter.half().float())
    return module.eval()


def tiny_vae():
    """A small autoencoder of Stable Diffusion's shape: factor 8, 4 latent channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),  # type: ignore[arg-type]
        down_block_types=("DownEncoderBlock2D",) * 4,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 4,  # type: ignore[arg-type]
        latent_channels=4,
        norm_num_groups=8,
        sample_size=256,
    )
    return rounded(vae)


def tiny_clip(activation: str = "quick_gelu"):
    """A two-layer text model with CLIP's vocabulary, as Stable Diffusion 1.x has one (2.x: with activation "gelu")."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act=activation,
    )
    return rounded(CLIPTextModel(config))


def tiny_open_clip():
    """open_clip's own text tower, three layers, as Stable Diffusion 2.x has one."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(3)
    return rounded(TextTransformer(77, 49408, width=WIDTH, heads=1, layers=3, output_dim=WIDTH))


def tiny_unet(linear: bool) -> PlainMVDream:
    """A one-level multi-view UNet. SD 2.x has 64 channels a head, SD 1.x eight heads."""
    torch.manual_seed(4)
    return rounded(PlainMVDream(64 if linear else 32, (1,), WIDTH, 1 if linear else 8, linear))


def ldm_vae_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Autoencoder weights under the names that latent-diffusion checkpoints use."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", key)
        key = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
        key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        if "mid_block.attentions.0" in key:
            key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for theirs, ours in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                key = key.replace(theirs, ours)
            if value.ndim == 2:
                value = value[:, :, None, None]
        key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        renamed["first_stage_model." + key] = value
    return renamed


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text-model weights under the names that Stable Diffusion 1.x uses, in whatever version transformers is."""
    return {
        "cond_stage_model.transformer.text_model." + key.removeprefix("text_model."): value
        for key, value in state.items()
    }


def mvdream_state(style: str) -> dict[str, Tensor]:
    """The flat state dict of a tiny checkpoint of style "sd1.5" or "sd2.1"."""
    state = {"model.diffusion_model." + k: v for k, v in tiny_unet(style == "sd2.1").state_dict().items()}
    state |= ldm_vae_names(tiny_vae().state_dict())
    if style == "sd1.5":
        state |= clip_names(tiny_clip().state_dict())
    else:
        state |= {"cond_stage_model.model." + k: v for k, v in tiny_open_clip().state_dict().items()}
    return {key: value.clone() for key, value in state.items()}


def write_community_folder(folder: Path, *, dtype: torch.dtype = torch.float16) -> Path:
    """A folder as the community's copy of MVDream on Stable Diffusion 2.1: its parts, configs, and code that must not
    run."""
    from safetensors.torch import save_file

    (folder / "unet").mkdir(parents=True)
    unet = {key: value.to(dtype) for key, value in tiny_unet(True).state_dict().items()}
    save_file(unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    config = {
        "_class_name": "MultiViewUNetModel",
        "_diffusers_version": "0.25.0",
        "attention_resolutions": [1],
        "camera_dim": 16,
        "channel_mult": [1],
        "context_dim": WIDTH,
        "image_size": 32,
        "in_channels": 4,
        "model_channels": 64,
        "num_head_channels": 64,
        "num_res_blocks": 1,
        "out_channels": 4,
        "transformer_depth": 1,
    }
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    tiny_vae().to(dtype).save_pretrained(folder / "vae")
    tiny_clip("gelu").to(dtype).save_pretrained(folder / "text_encoder")
    index = {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("pipeline_mvdream.py", "unet/mv_unet.py"):
        (folder / name).write_text("raise SystemExit('remote code was run')")
    return folder


def write_checkpoint(path: Path, style: str) -> Path:
    """Write a tiny checkpoint; the suffix chooses the format."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in mvdream_state(style).items()}, path)
    else:
        torch.save(mvdream_state(style), path)
    return path


def assert_one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    """The message is one line and has these parts."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@torch.no_grad()
def assert_same_networks(prior, style: str) -> None:
    """The prior computes what the tiny networks of a style compute."""
    generator = torch.Generator().manual_seed(0)
    linear = style == "sd2.1"
    sample = torch.randn(1, 2, 4, 8, 8, generator=generator)
    context = torch.randn(1, 5, WIDTH, generator=generator)
    cameras = torch.randn(1, 2, 16, generator=generator)
    t = torch.tensor([700])
    expected = tiny_unet(linear)(sample[0], t.expand(2), context.expand(2, -1, -1), cameras[0], 2)
    torch.testing.assert_close(prior.predict(sample, t, context, cameras)[0], expected, rtol=1e-3, atol=1e-4)

    images = torch.rand(1, 3, 32, 32, generator=generator)
    latents = tiny_vae().encode(images * 2 - 1, return_dict=False)[0].mode() * 0.18215
    torch.testing.assert_close(prior.encode_images(images), latents, rtol=1e-3, atol=1e-4)
    decoded = tiny_vae().decode(latents / 0.18215, return_dict=False)[0].div(2).add(0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode_latents(latents), decoded, rtol=1e-3, atol=1e-4)
