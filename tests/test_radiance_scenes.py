"""A radiance field is a scene: its views are the object's, and everything that takes posed images takes it."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from radiance_runs import BALL, BALL_RADIUS, BLUE, RED, make_radiance_run, true_views
from runs import tiny_config, train

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.commands.turntable import MakeTurntable
from invert3d_ns.editing.edit import load_edits
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.assets import SceneDataParserConfig, read_object
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.datasets import SceneDataset
from invert3d_ns.scenes.posed_images import rising_orbit, spread_orbit
from invert3d_ns.scenes.radiance_fields import RadianceField, Sphere
from invert3d_ns.scenes.radiance_runs import load_radiance_model
from invert3d_ns.scenes.radiance_scenes import RadianceScene
from invert3d_ns.scenes.runs import read_run

SIZE = 48
OUTPUTS = ("rgb", "accumulation", "depth")


@pytest.fixture(scope="module")
def scene(radiance_run):
    return RadianceScene(radiance_run)


@pytest.fixture
def copied(radiance_run, tmp_path) -> Path:
    shutil.copytree(radiance_run, tmp_path / "run")
    return tmp_path / "run"


def parse(path: Path, split: str = "train", **options: Any):
    options = {"image_size": SIZE, "num_train_views": 4, "num_eval_views": 3, **options}
    return SceneDataParserConfig(data=path, **options).setup().get_dataparser_outputs(split)


def compare(found: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    """Overlap of silhouettes (intersection over union), and mean error of colors where both show something."""
    shown, expected = found[..., 3] > 0.5, true[..., 3] > 0.5
    both = shown & expected
    return float(both.sum() / (shown | expected).sum()), float((found - true)[..., :3].abs()[both].mean())


@pytest.mark.parametrize(("split", "orbit"), [("train", spread_orbit(4)), ("test", rising_orbit(3))])
def test_views_are_those_of_the_object_as_it_is(radiance_run, split, orbit):
    """Although the images that the run was trained on are gone."""
    outputs = parse(radiance_run, split)
    assert outputs.metadata["has_alpha"] and not outputs.metadata["surroundings"]
    assert torch.allclose(outputs.cameras.camera_to_worlds, orbit_camera_to_world(*orbit)[:, :3])
    assert str(outputs.image_filenames[0]) == f"ball and box/{split}_0000.png"
    dataset = SceneDataset(outputs)
    views = torch.stack([dataset.get_data(index)["image"] for index in range(len(dataset))])
    transform = outputs.metadata["field"].transform
    overlap, error = compare(views, true_views(transform, outputs.cameras.camera_to_worlds, SIZE))
    assert overlap > 0.93 and error < 0.06
    assert views[:, 0].eq(0).all(), "nothing at the borders"


def test_the_object_is_found_and_fills_its_sphere(scene):
    center = -scene.transform[:3, 3] / scene.transform[0, 0]
    assert torch.allclose(center, torch.tensor([0.015, -0.035, 0.05]), atol=0.02)
    assert OBJECT_RADIUS / scene.transform[0, 0] == pytest.approx(0.57, abs=0.03)
    points, colors = scene.seeds["points3D_xyz"], scene.seeds["points3D_rgb"].float() / 255
    back = torch.linalg.inv(scene.transform)
    found = points @ back[:3, :3].T + back[:3, 3]
    red = (colors - RED).abs().amax(dim=-1) < 0.2
    assert 0.3 < red.float().mean() < 0.95
    assert ((found[red] - BALL).norm(dim=-1) - BALL_RADIUS).abs().median() < 0.03, "points are at the surface"


def test_placement_leads_back_to_the_input_of_the_run(scene, radiance_run, copied):
    """nerfstudio halved the coordinates of the images' cameras."""
    point = scene.placement.transform @ torch.tensor([*(2 * BALL).tolist(), 1.0], dtype=torch.float64)
    assert torch.allclose(point[:3].float(), scene.transform[:3, :3] @ BALL + scene.transform[:3, 3], atol=1e-4)
    (copied / "dataparser_transforms.json").unlink()
    assert torch.allclose(RadianceScene(copied).placement.transform.float(), scene.transform)


def test_the_front_is_turned_to_azimuth_0(scene, radiance_run):
    turned = RadianceScene(radiance_run, front=90.0)
    assert torch.allclose(turned.transform[:3, :3] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, -1.6, 0]), atol=0.1)


def test_a_given_sphere_is_all_that_is_seen(radiance_run):
    scene = RadianceScene(radiance_run, sphere=(-0.3, 0.2, 0.15, 0.14))
    poses = orbit_camera_to_world(torch.tensor([0.0, 120.0]), torch.tensor([0.0, 20.0]))
    views = torch.cat([scene.field.render(_in_run(scene, pose))[0][None] for pose in poses])
    shown = views[..., 3] > 0.5
    assert 0.2 < shown.float().mean() < 0.7
    assert (views[shown][:, :3] - BLUE).abs().mean() < 0.1, "the ball is outside"


def _in_run(scene: RadianceScene, pose: torch.Tensor):
    back = torch.linalg.inv(scene.transform)
    moved = back @ pose
    moved[:3, :3] /= torch.linalg.det(back[:3, :3]).pow(1 / 3)
    return pinhole_cameras(moved[None], SIZE)


def test_surroundings_are_left_aside_and_named(tmp_path, capsys):
    run = make_radiance_run(tmp_path, steps=40, floor=True)
    scene = RadianceScene(run)
    said = capsys.readouterr().err
    assert "shows more than an object" in said and "--pipeline.datamanager.dataparser.sphere 0 0 0 0.333" in said
    assert OBJECT_RADIUS / scene.transform[0, 0] == pytest.approx(1 / 3)
    RadianceScene(run, sphere=(0.15, -0.1, 0.05, 0.32))
    assert not [line for line in capsys.readouterr().err.splitlines() if "an object" in line]


def test_skipping_what_is_empty_changes_no_view(radiance_run):
    field = RadianceField(load_radiance_model(radiance_run), "run")
    camera = pinhole_cameras(orbit_camera_to_world(torch.tensor([30.0]), torch.tensor([10.0])), SIZE)
    field.look_at(Sphere(torch.zeros(3), 0.8))
    assert field._grid is not None and 0.05 < field._grid.float().mean() < 0.4
    quick, surface = field.render(camera)
    field._grid = None
    whole, there = field.render(camera)
    assert (quick - whole)[..., 3].abs().mean() < 0.01
    both = (quick[..., 3] > 0.9) & (whole[..., 3] > 0.9)
    assert (quick - whole)[both].abs().mean() < 0.01 and (surface - there)[both].norm(dim=-1).median() < 0.01


@pytest.mark.parametrize("background", ["white", "last_sample", "random"])
def test_colors_are_the_objects_own_where_it_is_thin(radiance_run, background):
    model: Any = load_radiance_model(radiance_run)
    model.renderer_rgb.background_color = background
    field = RadianceField(model, "run")
    field.look_at(Sphere(torch.zeros(3), 0.8))
    view, _ = field.render(pinhole_cameras(orbit_camera_to_world(torch.tensor([30.0]), torch.tensor([10.0])), SIZE))
    thin = view[(view[..., 3] > 0.1) & (view[..., 3] < 0.5)][:, :3]
    assert len(thin) > 20
    assert torch.minimum((thin - RED).abs().mean(dim=-1), (thin - BLUE).abs().mean(dim=-1)).median() < 0.1


def test_a_field_that_shows_nothing_is_refused(radiance_run):
    with pytest.raises(InputError, match=r"shows nothing within the sphere 0\.8 0\.8 0\.8 0\.05; say where its object"):
        RadianceScene(radiance_run, sphere=(0.8, 0.8, 0.8, 0.05))
    with pytest.raises(InputError, match="a radius above 0"):
        parse(radiance_run, sphere=(0.0, 0.0, 0.0, -1.0))


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"rgb": torch.zeros(1, 3)}, "gives no accumulation"),
        (
            {f"{name}_fine": torch.full((1, 3 if name == "rgb" else 1), torch.nan) for name in OUTPUTS},
            "gives values that are not finite",
        ),
        (RuntimeError("needs CUDA\nlong trace"), r"cannot be drawn on this machine \(needs CUDA\)"),
    ],
)
def test_a_model_that_cannot_be_drawn_is_refused_in_one_line(radiance_run, monkeypatch, outputs, says):
    model = load_radiance_model(radiance_run)

    def forward(rays):
        if isinstance(outputs, Exception):
            raise outputs
        return {name: value.expand(len(rays), -1) for name, value in outputs.items()}

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(InputError, match=says) as caught:
        RadianceField(model, "run").render(pinhole_cameras(torch.eye(4)[None], 4))
    assert "\n" not in str(caught.value)


def test_copies_of_metadata_share_one_model(scene):
    assert deepcopy({"field": scene})["field"] is scene


def test_posed_images_of_a_field_are_a_scene_of_their_own(radiance_run, tmp_path):
    ExportSplats(radiance_run, posed_images=tmp_path / "posed", count=8, size=SIZE).run()
    frames = json.loads((tmp_path / "posed" / "transforms.json").read_text())["frames"]
    views = np.stack([np.asarray(Image.open(tmp_path / "posed" / frame["file_path"])) for frame in frames])
    assert views.shape == (8, SIZE, SIZE, 4)
    poses = torch.tensor([frame["transform_matrix"] for frame in frames])
    scene = RadianceScene(radiance_run)
    overlap, _ = compare(torch.from_numpy(views).float() / 255, true_views(scene.transform, poses, SIZE))
    assert overlap > 0.93
    assert parse(tmp_path / "posed").metadata["has_alpha"]


def test_splats_of_a_field_are_fitted(radiance_run, tmp_path, monkeypatch, capsys):
    fit = RadianceScene.fit
    monkeypatch.setattr(RadianceScene, "fit", lambda self, **kwargs: fit(self, views=8, size=32, splats=300, steps=30))
    ExportSplats(radiance_run, out=tmp_path / "splats.ply").run()
    assert "300 splats" in capsys.readouterr().out
    cloud, _ = read_object(tmp_path / "splats.ply")
    red = (cloud.base_colors - RED).abs().amax(dim=-1) < 0.3
    blue = (cloud.base_colors - BLUE).abs().amax(dim=-1) < 0.3
    assert red.sum() > 100 and blue.sum() > 20
    ExportSplats(radiance_run, out=tmp_path / "there.ply", frame="input").run()
    from invert3d_ns.scenes.ply import read_splats

    there = read_splats(tmp_path / "there.ply")
    assert float((there.means[red[: len(there)]].mean(dim=0) - 2 * BALL).norm()) < 0.15, "where the images had it"


def test_a_turntable_of_a_field_says_how_to_get_one(radiance_run, tmp_path):
    with pytest.raises(InputError, match=r"invert3d export .*run.* --out splats\.ply"):
        MakeTurntable(radiance_run, out=tmp_path / "turn.mp4").run()


def test_a_field_is_inverted_and_edited_in_splats(radiance_run, tiny_v_prior, tmp_path):
    """From a run of nerfacto to splats that an edit has changed, in one command."""
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    before = sorted(radiance_run.rglob("*"))
    small = {"num_train_views": 4, "num_eval_views": 2}
    options: dict[str, Any] = {f"pipeline__datamanager__dataparser__{name}": value for name, value in small.items()}
    folder = train(
        tiny_config(radiance_run, tmp_path / "prior", tmp_path / "out", prompt="blue instead of red", **options)
    )
    assert folder.parts[-3] == "ball and box", "called as the run was"
    assert (folder / "embedding.safetensors").is_file()
    assert [edit.label for edit in load_edits(folder / "edits.json")]
    cloud = read_run(folder)
    assert len(cloud) > 50 and cloud.means.norm(dim=-1).median() < OBJECT_RADIUS
    assert sorted(radiance_run.rglob("*")) == before, "nothing is written into the run of the field"
