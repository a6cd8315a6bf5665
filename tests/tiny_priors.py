"""Tiny priors with random weights, built through the constructors that real ones use."""

from __future__ import annotations

import json
from pathlib import Path

import torch

TINY_WORDS = [
    "a",
    "photo",
    "of",
    "object",
    "red",
    "blue",
    "cube",
    "mug",
    "cat",
    "3d",
    "asset",
    "with",
    "on",
    "and",
    "the",
    "one",
    "two",
]


def tiny_tokenizer(folder: Path):
    """A CLIP tokenizer over single characters and a few words, from vocabulary files of its own."""
    from transformers import CLIPTokenizer

    characters = [chr(c) for c in range(33, 127)]
    vocab = characters + [c + "</w>" for c in characters]
    merges: list[tuple[str, str]] = []
    for word in TINY_WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces[:2] = ["".join(pair)]
            if pieces[0] not in vocab:
                vocab.append(pieces[0])
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def make_tiny_prior(folder: Path, prediction_type: str = "epsilon", seed: int = 0, *, encodes: bool = False):
    """A prior of about 100k random parameters: 32x32 images, 4x4 latents.

    ``encodes``: it has a view encoder of eight words and a ray reader, and its UNet is told where views look.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from invert3d_ns.prior.info import PriorInfo
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.ray_reader import RayReader
    from invert3d_ns.prior.rays import RAY_CHANNELS
    from invert3d_ns.prior.view_encoder import ViewEncoder

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4 + (RAY_CHANNELS + 4 if encodes else 0),
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),  # type: ignore[arg-type]
        down_block_types=("DownEncoderBlock2D",) * 4,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 4,  # type: ignore[arg-type]
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    tokenizer = tiny_tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    if prediction_type == "epsilon":
        scheduler = DDIMScheduler(**betas, steps_offset=1, set_alpha_to_one=False)
    else:
        scheduler = DDIMScheduler(
            **betas, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
    info = PriorInfo.from_components(f"tiny-{prediction_type}", unet, vae, text_encoder, tokenizer, scheduler)
    reader = RayReader(4, 4, 24, width=16, layers=2, heads=2) if encodes else None
    prior = MultiViewPrior(unet, vae, text_encoder, tokenizer, scheduler, info, ray_reader=reader)
    if encodes:
        small = {"cells": 2, "width": 16, "view_width": 16, "point_width": 8, "heads": 2, "layers": 1}
        encoder = ViewEncoder(4, 4, 24, **small, prior=prior.info.fingerprint)  # type: ignore[arg-type]
        prior.view_encoder = encoder.requires_grad_(False).eval()
    return prior
