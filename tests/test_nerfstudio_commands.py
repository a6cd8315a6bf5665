"""nerfstudio's own commands on finished runs of invert3d."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from runs import tiny_config, train
from synthetic import make_cloud

from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.assets import read_object
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.posed_images import write_posed_images

REGISTER = "invert3d=invert3d_ns.configs:invert3d"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_prior) -> dict[str, Path]:
    """The config.yml of a run on a .ply and of one on posed images. Read-only."""
    folder = tmp_path_factory.mktemp("runs")
    save_prior(tiny_prior, folder / "prior", dtype=torch.float32)
    cloud = make_cloud(150)
    write_splats(folder / "ball.ply", cloud)
    write_posed_images(to_object_frame(cloud)[0], folder / "posed", count=12, size=32)
    configs = {}
    for name in ("ball.ply", "posed"):
        config = tiny_config(
            folder / name, folder / "prior", folder / "outputs", pipeline__splat_steps=4, pipeline__steps=1
        )
        configs[name] = train(config) / "config.yml"
    return configs


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The method under its name, also where the package is not installed."""
    from nerfstudio.configs.method_configs import all_methods

    from invert3d_ns.configs import invert3d

    monkeypatch.setitem(all_methods, "invert3d", invert3d.config)


@pytest.fixture(params=["ball.ply", "posed"])
def config_path(request, runs):
    return runs[request.param]


def test_render_interpolate_writes_a_video(config_path, tmp_path):
    from nerfstudio.scripts.render import RenderInterpolated

    out = tmp_path / "a.mp4"
    RenderInterpolated(config_path, out, pose_source="train", interpolation_steps=1, frame_rate=8).main()
    assert out.stat().st_size > 500


def test_render_camera_path_shows_the_object_on_white(config_path, tmp_path):
    from nerfstudio.scripts.render import RenderCameraPath

    matrix = [1, 0, 0, 0, 0, 0, -1, -2.5, 0, 1, 0, 0, 0, 0, 0, 1]
    path = {
        "camera_type": "perspective",
        "render_height": 40,
        "render_width": 40,
        "fps": 1,
        "seconds": 1,
        "camera_path": [{"camera_to_world": matrix, "fov": 49.1, "aspect": 1}],
    }
    (tmp_path / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        config_path,
        tmp_path / "out",
        image_format="png",
        output_format="images",
        camera_path_filename=tmp_path / "path.json",
        rendered_output_names=["rgb", "depth"],
    ).main()
    image = np.asarray(Image.open(tmp_path / "out" / "00000.png"))
    assert image.shape == (40, 80, 3)
    assert (image[0, 0] == 255).all() and (image[20, 20] < 250).any()


def test_render_camera_path_reads_the_turntable_that_each_run_leaves(config_path, tmp_path):
    from nerfstudio.scripts.render import RenderCameraPath

    path = json.loads((config_path.parent / "camera_path.json").read_text())
    assert len(path["camera_path"]) == 144
    path |= {"camera_path": path["camera_path"][::36], "render_height": 64, "render_width": 64}
    (tmp_path / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        config_path,
        tmp_path / "out",
        image_format="png",
        output_format="images",
        camera_path_filename=tmp_path / "path.json",
    ).main()
    pictures = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "out").iterdir())]
    assert len(pictures) == 4
    for picture in pictures:
        edges = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert edges.min() > 245 and picture[24:40, 24:40].min() < 200


def test_render_dataset_writes_truth_and_rendering_of_every_camera(config_path, tmp_path):
    from nerfstudio.scripts.render import DatasetRender

    DatasetRender(
        config_path, tmp_path, image_format="png", split="train+test", rendered_output_names=["rgb", "gt-rgb"]
    ).main()
    for split in ("train", "test"):
        shown = sorted((tmp_path / split / "rgb").rglob("*.png"))
        truth = sorted((tmp_path / split / "gt-rgb").rglob("*.png"))
        assert len(shown) == len(truth) > 0
        if "ball" in str(config_path):
            a, b = (np.asarray(Image.open(paths[0]), dtype=int) for paths in (shown, truth))
            assert np.abs(a - b).max() <= 3, "a scene of splats is its own truth"


def test_eval_reports_figures_and_writes_images(config_path, tmp_path):
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(config_path, tmp_path / "a.json", tmp_path / "images").main()
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert results["psnr"] > (40 if "ball" in str(config_path) else 8) and 0 < results["ssim"] <= 1
    assert list((tmp_path / "images").iterdir())


def test_viewer_serves_a_page(config_path, monkeypatch):
    from nerfstudio.scripts.viewer import run_viewer

    pages = []

    class OneGlance:
        """Stands for the module ``time``: the viewer's endless loop sleeps once, looks at its page, and ends."""

        @staticmethod
        def sleep(seconds: float) -> None:
            (viewer,) = viewers
            with urllib.request.urlopen(f"http://127.0.0.1:{viewer.viser_server.get_port()}", timeout=20) as page:
                pages.append(page.status)
            viewer.viser_server.stop()
            raise KeyboardInterrupt

    viewers = []

    class Recorded(run_viewer.ViewerState):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            viewers.append(self)

    monkeypatch.setattr(run_viewer, "time", OneGlance)
    monkeypatch.setattr(run_viewer, "ViewerState", Recorded)
    viewer = run_viewer.ViewerConfigWithoutNumRays(websocket_host="127.0.0.1", websocket_port=None)
    with pytest.raises(KeyboardInterrupt):
        run_viewer.RunViewer(config_path, viewer=viewer).main()
    assert pages == [200]


def test_render_spiral_from_the_shell_needs_no_diffusion_model(runs, tmp_path):
    """In a process of its own: there the plugin is imported while ns-render's module is half done."""
    code = (
        "import sys\n"
        "from nerfstudio.scripts.render import entrypoint\n"
        "entrypoint()\n"
        "assert 'diffusers' not in sys.modules\n"
    )
    arguments = ["spiral", "--load-config", str(runs["ball.ply"]), "--output-path", str(tmp_path / "a.mp4")]
    arguments += ["--seconds", "0.5", "--frame-rate", "8", "--radius", "0.5"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    if "invert3d" not in importlib.metadata.entry_points(group="nerfstudio.method_configs").names:
        environment["NERFSTUDIO_METHOD_CONFIGS"] = REGISTER
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert (tmp_path / "a.mp4").stat().st_size > 500


def test_ns_export_writes_splats_that_read_back(runs, tmp_path, monkeypatch):
    for name in ("open3d", "pymeshlab"):  # for meshes only; bare machines lack the system libraries that these load
        try:
            importlib.import_module(name)
        except (ImportError, OSError):
            monkeypatch.setitem(sys.modules, name, MagicMock())
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    ExportGaussianSplat(load_config=runs["ball.ply"], output_dir=tmp_path, output_filename="a.ply").main()
    again, _ = read_object(tmp_path / "a.ply")
    expected, _ = to_object_frame(make_cloud(150))
    assert torch.allclose(again.means, expected.means, atol=1e-3)
