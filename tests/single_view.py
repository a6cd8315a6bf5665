"""Tiny Stable Diffusion with random weights, written by diffusers' and transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ldm_checkpoints import WIDTH, rounded, tiny_clip, tiny_vae

SD21_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.10.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "use_linear_projection": True,
}
"""``unet/config.json`` of Stable Diffusion 2.1 base."""
SD15_UNET: dict[str, Any] = {
    **{name: value for name, value in SD21_UNET.items() if name != "use_linear_projection"},
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
"""``unet/config.json`` of Stable Diffusion 1.5."""
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.10.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""``scheduler/scheduler_config.json`` of Stable Diffusion 2.1 base; that of 1.5 has no prediction type."""


def tiny_sd_unet(**changes: Any):
    """A two-level text-to-image UNet for 8x8 latents."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(4)
    config: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return rounded(UNet2DConditionModel(**(config | changes)))


def write_sd_folder(folder: Path, *, scheduler: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder as diffusers' pipelines have it, with code and parts that are not looked at; ``changes`` of the UNet."""
    tiny_sd_unet(**changes).save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_clip("gelu").save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER | (scheduler or {})))
    for name in ("tokenizer", "safety_checker"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    (folder / "pipeline.py").write_text("raise SystemExit('remote code was run')")
    return folder
