"""The recipe of the bundled prior, from rendering to the finished model. Every stage resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import print as show

from invert3d_ns.prior.training.autoencoder import reconstruction_psnr, train_autoencoder
from invert3d_ns.prior.training.data import world_views
from invert3d_ns.prior.training.denoiser import assemble, train_denoiser

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

DATA_SEED = 1
"""Seed of the training set; evaluations and the judge use others."""
HELD_OUT_SEED = 77
"""Seed of the held-out objects that stages are checked on."""


def train_prior(
    folder: Path, *, objects: int, autoencoder_steps: int, denoiser_steps: int, seed: int = 0, device: str = "cpu"
) -> MultiViewPrior:
    """Render the world, train the autoencoder, then the denoiser with its text tower.

    Args:
        folder: for the training set and the checkpoints; a second call goes on where the first stopped.
        objects: size of the training set.
        autoencoder_steps: of stage 1.
        denoiser_steps: of stage 2.
        seed: of weights, batches and noise.
        device: where to train.
    """
    data = world_views(folder / "data", objects, seed=DATA_SEED)
    held_out = world_views(folder / "data", min(64, objects), seed=HELD_OUT_SEED, split="held-out")
    vae = train_autoencoder(folder, data, autoencoder_steps, seed=seed, device=device)
    whole, foreground = reconstruction_psnr(vae, held_out.images(slice(None)).flatten(0, 1).to(device))
    show(f"autoencoder on held-out objects: {whole:.1f} dB, {foreground:.1f} dB on their pixels")
    torch.manual_seed(seed)
    training = {
        "steps": denoiser_steps, "autoencoder_steps": autoencoder_steps, "objects": objects, "seed": seed,
        "data_seed": DATA_SEED, "command": "invert3d train prior", "psnr": round(whole, 2),
        "psnr_foreground": round(foreground, 2),
    }  # fmt: skip
    prior = assemble(folder, vae, data, training).to(device)
    train_denoiser(folder, prior, data, denoiser_steps, seed=seed)
    return prior
