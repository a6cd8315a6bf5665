"""What ``ns-train ge3d`` starts from: views, a blob, splats, runs, points; and priors of single views."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from pretend_cuda import pretend_cuda
from runs import train
from single_view import write_sd_folder
from synthetic import make_cloud
from text_configs import STEPS, checkpoint, configured

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.assets import object_splats
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.posed_images import write_posed_images
from invert3d_ns.scenes.runs import read_run


@pytest.fixture(scope="module")
def finished(stored_prior: Path, tmp_path_factory) -> Path:
    """A whole run. Read-only."""
    return train(configured(stored_prior, tmp_path_factory.mktemp("outputs")))


def test_a_blob_needs_no_views(stored_prior: Path, tmp_path: Path) -> None:
    folder = train(configured(stored_prior, tmp_path, pipeline__start__kind="blob", pipeline__reconstruct__steps=0))
    assert len(read_run(folder)) == 50 and checkpoint(folder)["step"] == STEPS - 1


def test_it_starts_from_splats_and_from_runs(stored_prior: Path, finished: Path, tmp_path: Path) -> None:
    write_splats(tmp_path / "ball.ply", make_cloud(30))
    for data, before in ((tmp_path / "ball.ply", make_cloud(30)), (finished, read_run(finished))):
        keep = object_splats(before)  # the splats of a random prior fly about
        before = before if keep is None else before.select(keep)
        config = configured(stored_prior, tmp_path / data.stem, pipeline__reconstruct__steps=0)
        config.data = config.pipeline.datamanager.data = data
        after = read_run(train(config))
        assert len(after) == len(before) > 0
        assert (after.features_dc - before.features_dc).abs().max() > 1e-5


def write_points(path: Path, count: int, colors: bool = True) -> Path:
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4")] + [(c, "u1") for c in ("red", "green", "blue") if colors]
    table = np.zeros(count, dtype=kinds)
    rng = np.random.default_rng(0)
    for axis in "xyz":
        table[axis] = rng.normal(5.0, 3.0, count)
    if colors:
        table["red"] = 255
    PlyData([PlyElement.describe(table, "vertex")]).write(str(path))
    return path


@pytest.mark.parametrize("colors", [True, False])
def test_it_starts_from_points(colors: bool, stored_prior: Path, tmp_path: Path) -> None:
    config = configured(stored_prior, tmp_path, pipeline__steps=1, pipeline__reconstruct__steps=0)
    config.data = config.pipeline.datamanager.data = write_points(tmp_path / "points.ply", 25, colors)
    cloud = read_run(train(config))
    assert len(cloud) == 25 and 0.5 < float(cloud.means.norm(dim=-1).max()) < 0.9
    means = cloud.base_colors.mean(0)
    assert (means[0] > 0.8 and means[1] < 0.2) if colors else (means - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("count", [0, 3])
def test_points_that_are_too_few_are_refused(count: int, stored_prior: Path, tmp_path: Path) -> None:
    config = configured(stored_prior, tmp_path)
    config.data = config.pipeline.datamanager.data = write_points(tmp_path / "points.ply", count)
    with pytest.raises(InputError, match=rf"holds {count} points to start from; give a .ply with four or more"):
        train(config)


def test_posed_images_are_no_start(stored_prior: Path, tmp_path: Path) -> None:
    write_posed_images(to_object_frame(make_cloud(60))[0], tmp_path / "posed", count=4, size=16)
    config = configured(stored_prior, tmp_path)
    config.data = config.pipeline.datamanager.data = tmp_path / "posed"
    with pytest.raises(InputError, match="holds posed images; fit splats to them first"):
        train(config)


# Priors of single views


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """A tiny Stable Diffusion in diffusers' form. Read-only."""
    return write_sd_folder(tmp_path_factory.mktemp("sd") / "sd")


def test_a_prior_of_single_views_guides_a_blob(single: Path, tmp_path: Path) -> None:
    options = {"pipeline__reconstruct__steps": 0, "pipeline__steps": 2, "pipeline__cameras__background": 1.0}
    folder = train(configured(single, tmp_path, **options, pipeline__cameras__zoom=(0.9, 1.2)))
    assert len(read_run(folder)) == 50
    assert json.loads((folder / "metrics.json").read_text())["steps"] == {"distill": 2, "report": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline__start__kind": "views"}, "knows no cameras, so its views are of one object by chance only"),
        ({}, "knows no cameras, so denoised views do not agree"),
    ],
)
def test_what_needs_cameras_is_refused_to_it(options: dict, message: str, single: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(configured(single, tmp_path, **options))


def test_single_views_guide_on_a_pretended_gpu(single: Path, tmp_path: Path) -> None:
    options = {"machine__device_type": "cuda", "pipeline__prior_options__precision": "fp32"}
    with pretend_cuda():
        folder = train(configured(single, tmp_path, **options, pipeline__steps=2, pipeline__reconstruct__steps=0))
    assert len(read_run(folder)) == 50
