"""Material for runs that edit, and their configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from runs import tiny_config, train
from synthetic import make_cloud

from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.posed_images import write_posed_images

BLUE = "blue instead of red"
EDIT = "pipeline__edit_options__edit__"
REGION = f"{EDIT}region__"
TOP = (-1.0, -1.0, 0.0, 1.0, 1.0, 1.0)
SAME = ("means", "scales", "opacities", "quats")


def make_material(folder: Path, prior) -> None:
    """A tiny prior, a .ply, a folder of posed images, and a finished run on the .ply."""
    save_prior(prior, folder / "prior", dtype=torch.float32)
    write_splats(folder / "ball.ply", make_cloud(200))
    write_posed_images(to_object_frame(make_cloud(200))[0], folder / "posed", count=8, size=32)
    train(tiny_config(folder / "ball.ply", folder / "prior", folder / "outputs"))


def edit(data: Path | None, output_dir: Path, **options):
    config = tiny_config(data or Path(), None, output_dir, method="invert3d_edit", **options)
    config.data = data
    return config
