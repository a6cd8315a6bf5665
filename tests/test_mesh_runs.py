"""From a mesh to a run of ``ns-train invert3d``, and from the run to a mesh again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh as _trimesh
from runs import tiny_config, train

from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.prior.checkpoints import save_prior

trimesh: Any = _trimesh  # whose own annotations know less than it does


def test_a_run_on_a_mesh_gives_the_mesh_back(tmp_path, tiny_prior, monkeypatch):
    monkeypatch.setattr("invert3d_ns.scenes.meshes.making._VIEWS", 24)
    monkeypatch.setattr("invert3d_ns.scenes.meshes.making._LEAST_PIXELS", 96)
    save_prior(tiny_prior, tmp_path / "prior", dtype=torch.float32)
    box = trimesh.creation.box((60.0, 100.0, 40.0))
    box.vertices += [500.0, 0.0, 0.0]
    box.visual.face_colors = [200, 40, 40, 255]
    box.export(tmp_path / "box.ply")
    config = tiny_config(tmp_path / "box.ply", tmp_path / "prior", tmp_path / "outputs", pipeline__steps=1)
    config.pipeline.datamanager.dataparser.mesh_splats = 2000
    run = train(config)
    ExportSplats(run, mesh=tmp_path / "again.ply", faces=3000, texture_size=64, frame="input").run()
    again = trimesh.load(tmp_path / "again.ply")
    assert again.bounds == pytest.approx(box.bounds, abs=5.0)
    assert np.abs(again.visual.vertex_colors.mean(axis=0)[:3] - [200, 40, 40]).max() < 15
