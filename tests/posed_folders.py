"""Folders of posed images as tools write them, and whether what is read of them is right."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from invert3d_ns.scenes.assets import SceneDataParserConfig
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.datasets import SceneDataset
from invert3d_ns.scenes.normalization import transform_splats
from invert3d_ns.scenes.rendering import render_rgba


def parse(path, split="train", **options):
    return SceneDataParserConfig(data=path, **options).setup().get_dataparser_outputs(split)


def rewrite(posed, folder, change):
    """A copy of the folder with another transforms.json."""
    shutil.copytree(posed, folder)
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(change(meta) or meta))
    return folder


def same_frame(outputs, cloud, tolerance=0.06):
    """Whether rendering the original splats with the parsed cameras, after the parsed transform, gives the images."""
    transform = torch.eye(4)
    transform[:3] = outputs.dataparser_transform * outputs.dataparser_scale
    moved = transform_splats(cloud, transform)
    center = (moved.means.amax(dim=0) + moved.means.amin(dim=0)) / 2
    assert center.abs().max() < tolerance
    assert abs(float(moved.means.norm(dim=-1).max()) - OBJECT_RADIUS) < 0.13
    dataset = SceneDataset(outputs)
    for index in (0, len(dataset) - 1):
        image = dataset.get_data(index)["image"]
        rendered = render_rgba(moved, dataset.cameras[index : index + 1])[0]
        alpha = image[..., 3] if image.shape[-1] == 4 else (image - image[0, 0]).abs().amax(dim=-1).gt(0.05).float()
        assert (alpha - rendered[..., 3]).abs().mean() < tolerance / 2


def write_colmap(
    posed: Path,
    folder: Path,
    model: str = "sparse/0",
    images: str = "images",
    *,
    name: Callable[[str], str] = lambda name: name,
    camera: str = "",
    frames: slice = slice(None),
) -> Path:
    """A COLMAP model in text of posed images: where it lies, what images are called, another line of its camera."""
    meta = read_list(posed)
    (folder / model).mkdir(parents=True, exist_ok=True)
    lens = camera or f"PINHOLE {meta['w']} {meta['h']} {meta['fl_x']} {meta['fl_y']} {meta['cx']} {meta['cy']}"
    (folder / model / "cameras.txt").write_text(f"# Camera list\n1 {lens}\n")
    lines = ["# Image list"]
    for index, frame in enumerate(meta["frames"][frames]):
        world_to_camera = np.diag([1, -1, -1, 1]) @ np.linalg.inv(np.array(frame["transform_matrix"]))
        x, y, z, w = Rotation.from_matrix(world_to_camera[:3, :3]).as_quat()
        pose = " ".join(map(str, [w, x, y, z, *world_to_camera[:3, 3]]))
        called = name(Path(frame["file_path"]).name)
        lines += [f"{index + 1} {pose} 1 {called}", ""]
        target = folder / images / called
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(posed / frame["file_path"], target)
    (folder / model / "images.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / model / "points3D.txt").write_text("1 0.1 0.2 0.3 10 20 30 0.5 1 0\n")
    return folder


def read_list(folder: Path, name: str = "transforms.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def field_of_view(meta: dict[str, Any]) -> float:
    """Horizontal, in radians."""
    return 2 * math.atan(meta["w"] / 2 / meta["fl_x"])
