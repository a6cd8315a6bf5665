"""Trainings at sizes of seconds: small networks in every recipe, and sets of few objects."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from invert3d_ns.training import autoencoder, clip, denoiser, loop, reading, text
from invert3d_ns.training.judge import train_judge
from invert3d_ns.training.judge_data import judged_views
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.world.captions import full_description
from invert3d_ns.world.data import WorldViews, render_on_orbits, world_views
from invert3d_ns.world.objects import sample_object
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import COLORS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from invert3d_ns.prior.multiview import MultiViewPrior

SMALL = {
    autoencoder: {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "norm_num_groups": 4},
    denoiser: {
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "attention_head_dim": 2,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    },
    text: {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
    },
    reading: {"cells": 2, "width": 32, "view_width": 16, "point_width": 8, "heads": 2},
}
"""What differs from each recipe's own architecture: 64x64 images, 8x8x4 latents, 0.2 million weights in all."""
SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 32},
    "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Small networks in every recipe for as long as the patch lasts."""
    for module, numbers in SMALL.items():
        patch.setattr(module, "ARCHITECTURE", module.ARCHITECTURE | numbers)
    patch.setattr(reading, "READER", {"width": 32, "layers": 2, "heads": 2})
    patch.setattr(clip, "ARCHITECTURE", SMALL_CLIP)
    patch.setattr(clip, "ATTRIBUTES_FROM", 3)


def tiny_autoencoder(data: WorldViews) -> AutoencoderKL:
    """A small autoencoder of random weights with normal latents: the same one each time."""
    with loop.initial_weights(3):
        vae = autoencoder.build_autoencoder().eval()
    autoencoder.normalize_latents(vae, data)
    return vae.requires_grad_(False)


def tiny_denoiser(folder: Path, data: WorldViews, *, encodes: bool = False) -> MultiViewPrior:
    """A small untrained prior around :func:`tiny_autoencoder`, its vocabulary kept in ``folder``.

    ``encodes``: with a view encoder.
    """
    with loop.initial_weights(0):
        prior = denoiser.assemble_prior(folder, tiny_autoencoder(data), TrainingSets(data), {"steps": 1})
        if encodes:
            prior.view_encoder = reading.build_view_encoder(prior)
        return prior


def two_objects(*, one_orbit: bool = False) -> WorldViews:
    """Eight views each of two objects that differ in everything, and have a front.

    ``one_orbit``: from the same cameras, which else tell a network which of the two it sees.
    """
    rng = np.random.default_rng(0)
    pairs = (("car", "red"), ("chair", "blue"))
    objects = [sample_object(rng, name=name, color=color, plain=True, split="any") for name, color in pairs]
    together = [[item] for item in objects] if one_orbit else [objects]
    rgb, alpha, azimuths, elevations = zip(*(render_on_orbits(some, 3, 64, 8) for some in together), strict=True)
    captions = [[full_description(item)] * 2 for item in objects]
    zeros = torch.zeros(2, dtype=torch.long)
    classes, colors = (
        torch.tensor([list(table).index(pair[k]) for pair in pairs]) for k, table in enumerate((CLASSES, COLORS))
    )
    return WorldViews(
        np.concatenate(rgb),
        np.concatenate(alpha),
        torch.cat(azimuths),
        torch.cat(elevations),
        captions,
        [options[0] for options in captions],
        classes,
        colors,
        zeros,
        zeros,
        torch.ones(2, dtype=torch.bool),
    )


STAGES = ("autoencoder", "decoder", "encoder", "denoiser", "clip", "judge")
STEPS = 7


def train_stage(name: str, material: Path, folder: Path) -> None:
    """Train one stage for :data:`STEPS` small steps, or go on with it, in ``folder``.

    Args:
        name: one of :data:`STAGES`; networks must be small, see :func:`shrink`.
        material: where data and vocabularies are kept, which no stage may make for itself twice.
        folder: for the checkpoint.
    """
    if name == "judge":
        train_judge(folder, judged_views(material, 8, seed=3), STEPS, batch=8)
    elif name == "clip":
        data = world_views(material, 12, seed=3, size=32, views=2, plain=True)
        # Ties between merges fall differently each time.
        _copy_vocabulary(material / "clip", folder, lambda at: clip.build_clip(at, clip.object_wordings(data)))
        clip.train_clip(folder, data, STEPS, batch=6)
    else:
        data = world_views(material, 6, seed=3, views=8, photos=True)
        if name == "autoencoder":
            autoencoder.train_autoencoder(folder, data, STEPS, batch=4)
        elif name == "decoder":
            autoencoder.finish_decoder(folder, tiny_autoencoder(data), data, STEPS, batch=4)
        else:
            prior = tiny_denoiser(material, data, encodes=True)
            assemblies = world_views(material, 4, seed=3, views=8, kind="assemblies", photos=True)
            changes = world_views(material, 4, seed=3, views=8, kind="changes")
            sets = TrainingSets(data, assemblies, changes)
            if name == "encoder":
                reading.train_reading(folder, prior, sets, STEPS)
            else:
                denoiser.train_denoiser(folder, prior, sets, STEPS, images=8)


def _copy_vocabulary(source: Path, folder: Path, make: Callable[[Path], object]) -> None:
    if not source.exists():
        make(source)
    if not (folder / "tokenizer").exists():
        shutil.copytree(source, folder, dirs_exist_ok=True)


def checkpoint_of(name: str, folder: Path) -> dict[str, Any]:
    """Everything that a stage's checkpoint holds."""
    return torch.load(folder / f"{name}.pt", weights_only=True)


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two checkpoints agree in weights, averages, states of optimizers, logs and settings."""
    assert one["settings"] == other["settings"]
    rest = [{key: value for key, value in state.items() if key != "settings"} for state in (one, other)]
    torch.testing.assert_close(*rest, rtol=0, atol=0)
