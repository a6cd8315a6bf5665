from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import parse, rewrite, same_frame, write_colmap
from scipy.spatial.transform import Rotation
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.assets import SceneDataParserConfig
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, ORBIT_RADIUS
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig, SceneDataset
from invert3d_ns.scenes.images import read_image
from invert3d_ns.scenes.normalization import to_object_frame, transform_splats
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.posed_images import write_posed_images
from invert3d_ns.scenes.rendering import render_rgba


@pytest.fixture(scope="module")
def cloud():
    return to_object_frame(make_cloud(1200))[0]


@pytest.fixture(scope="module")
def posed(tmp_path_factory, cloud) -> Path:
    """Twelve posed RGBA images of an object in the object frame. Read-only."""
    folder = tmp_path_factory.mktemp("posed") / "scene"
    write_posed_images(cloud, folder, count=12, size=64)
    return folder


def test_a_ply_is_seen_by_orbit_cameras_that_hold_out_others(tmp_path):
    write_splats(tmp_path / "a.ply", make_cloud(200))
    train = parse(tmp_path / "a.ply", num_train_views=6, num_eval_views=3, image_size=48)
    held_out = parse(tmp_path / "a.ply", "test", num_train_views=6, num_eval_views=3, image_size=48)
    assert len(train.image_filenames) == len(train.cameras) == 6 and len(held_out.cameras) == 3
    positions = train.cameras.camera_to_worlds[:, :, 3], held_out.cameras.camera_to_worlds[:, :, 3]
    assert torch.allclose(torch.cat(positions).norm(dim=-1), torch.tensor(ORBIT_RADIUS), atol=1e-4)
    assert torch.cdist(*positions).min() > 0.2
    assert train.metadata["background"] == "white"
    expected, _ = to_object_frame(make_cloud(200))
    assert torch.allclose(train.metadata["splats"].means, expected.means, atol=1e-5)


def test_the_dataset_of_a_ply_renders_what_its_cameras_see(tmp_path):
    write_splats(tmp_path / "a.ply", make_cloud(200))
    outputs = parse(tmp_path / "a.ply", num_train_views=3, image_size=48)
    dataset = SceneDataset(outputs)
    data = dataset.get_data(1, "uint8")
    assert data["image"].shape == (48, 48, 4)
    expected = render_rgba(outputs.metadata["splats"], outputs.cameras[1:2])[0]
    assert torch.allclose(data["image"].float() / 255, expected, atol=2 / 255)
    shown = dataset[1]["image"]
    assert shown.shape == (48, 48, 3) and torch.allclose(shown[0, 0], torch.ones(3))


def test_pictures_are_rendered_and_kept_where_the_datamanager_is(tmp_path, monkeypatch):
    """Also on a machine that has a GPU, when it is told to stay on the CPU."""
    write_splats(tmp_path / "a.ply", make_cloud(50))
    parser = SceneDataParserConfig(data=tmp_path / "a.ply", num_train_views=2, num_eval_views=1, image_size=32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    manager = SceneDatamanagerConfig(data=tmp_path / "a.ply", dataparser=parser).setup(device="cpu")
    images = [*manager.cached_train, *manager.cached_eval]
    assert len(images) == 3 and {image["image"].device.type for image in images} == {"cpu"}
    manager = SceneDatamanagerConfig(data=tmp_path / "a.ply", dataparser=parser).setup(device="meta")
    assert manager.train_dataset.device == manager.eval_dataset.device == "meta"


def test_front_turns_a_ply(tmp_path):
    write_splats(tmp_path / "a.ply", make_cloud(200))
    plain = parse(tmp_path / "a.ply").metadata["splats"]
    turned = parse(tmp_path / "a.ply", front=90.0).metadata["splats"]
    # What stood at azimuth 90 (+x) now stands at azimuth 0 (-y).
    assert torch.allclose(turned.means[:, 1], -plain.means[:, 0], atol=1e-5)


def test_posed_images_come_back_to_the_object_frame(posed, cloud):
    outputs = parse(posed)
    same_frame(outputs, cloud)
    assert len(outputs.cameras) == 10 and len(parse(posed, "test").cameras) == 2
    # The object was in the object frame before: nothing but the accuracy of the hull is left.
    assert torch.allclose(outputs.dataparser_transform[:, :3], torch.eye(3), atol=1e-3)
    assert abs(outputs.dataparser_scale - 1) < 0.1
    points, colors = outputs.metadata["points3D_xyz"], outputs.metadata["points3D_rgb"]
    assert len(points) > 200 and points.norm(dim=-1).max() < 1.1 * OBJECT_RADIUS
    assert torch.cdist(points, cloud.means).min(dim=-1).values.median() < 0.1
    front = points[:, 1] < -0.3
    assert colors[front, 0].float().mean() > colors[front, 2].float().mean()
    assert outputs.metadata["has_alpha"]


def test_any_similar_world_is_normalized_alike(posed, cloud, tmp_path):
    similarity = torch.eye(4)
    similarity[:3, :3] = 3.0 * torch.from_numpy(Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()).float()
    similarity[:3, 3] = torch.tensor([5.0, -2.0, 9.0])

    def move(meta):
        for frame in meta["frames"]:
            pose = similarity @ torch.tensor(frame["transform_matrix"])
            pose[:3, :3] /= 3.0
            frame["transform_matrix"] = pose.tolist()

    outputs = parse(rewrite(posed, tmp_path / "moved", move))
    same_frame(outputs, transform_splats(cloud, similarity))
    up = outputs.dataparser_transform[:, :3] @ (similarity[:3, 2] / 3.0)
    assert torch.allclose(up, torch.tensor([0.0, 0.0, 1.0]), atol=1e-3)
    # A world without axes of its own: the first camera sees the front.
    position = outputs.cameras.camera_to_worlds[0, :, 3]
    assert abs(float(position[0])) < 0.1 and position[1] < 0


def test_a_y_up_world_becomes_z_up_as_in_mvdream(posed, tmp_path):
    to_y_up = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

    def move(meta):
        for frame in meta["frames"]:
            frame["transform_matrix"] = (to_y_up @ torch.tensor(frame["transform_matrix"])).tolist()

    outputs = parse(rewrite(posed, tmp_path / "moved", move))
    assert torch.allclose(outputs.dataparser_transform[:, :3] @ to_y_up[:3, :3], torch.eye(3), atol=1e-3)


@pytest.mark.parametrize("kind", ["plain background", "masks", "bigger"])
def test_silhouettes_come_from_whatever_the_images_have(posed, cloud, tmp_path, kind):
    def change(meta):
        for frame in meta["frames"]:
            path = tmp_path / "scene" / frame["file_path"]
            image = Image.open(path)
            if kind == "masks":
                noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
                alpha = image.getchannel("A")
                picture = Image.composite(image.convert("RGB"), Image.fromarray(noise), alpha)
                picture.save(path)
                frame["mask_path"] = frame["file_path"].replace("view", "mask")
                Image.fromarray((np.asarray(alpha) > 127).astype(np.uint8) * 255).save(
                    tmp_path / "scene" / frame["mask_path"]
                )
            elif kind == "plain background":
                Image.alpha_composite(Image.new("RGBA", image.size, (20, 200, 220)), image).convert("RGB").save(path)
            else:
                image.resize((128, 128)).save(path)
        if kind == "bigger":
            meta.update({key: 2 * meta[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")})

    outputs = parse(rewrite(posed, tmp_path / "scene", change), image_size=64)
    same_frame(outputs, cloud, tolerance=0.1)
    dataset = SceneDataset(outputs)
    data = dataset.get_data(0)
    assert data["image"].shape == (64, 64, 3 if kind == "plain background" else 4)
    assert "mask" not in data
    if kind == "plain background":
        assert np.allclose(outputs.metadata["image_background"], np.array([20, 200, 220]) / 255, atol=0.01)
    else:
        assert outputs.metadata["image_background"] is None and outputs.metadata["has_alpha"]


def test_images_with_surroundings_are_centered_on_what_cameras_look_at(posed, tmp_path):
    def change(meta):
        rng = np.random.default_rng(0)
        for frame in meta["frames"]:
            noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "scene" / frame["file_path"])

    outputs = parse(rewrite(posed, tmp_path / "scene", change))
    assert outputs.metadata["surroundings"]
    assert torch.allclose(outputs.dataparser_transform[:, 3], torch.zeros(3), atol=1e-3)
    assert 0.7 < outputs.dataparser_scale < 1.4


def test_blender_and_colmap_folders(posed, cloud, tmp_path):
    meta = json.loads((posed / "transforms.json").read_text())
    fov = 2 * np.arctan(meta["w"] / (2 * meta["fl_x"]))
    frames = [{**f, "file_path": "./" + f["file_path"].removesuffix(".png")} for f in meta["frames"]]
    blender = tmp_path / "blender"
    shutil.copytree(posed / "images", blender / "images")
    (blender / "transforms_train.json").write_text(json.dumps({"camera_angle_x": fov, "frames": frames[:10]}))
    (blender / "transforms_test.json").write_text(json.dumps({"camera_angle_x": fov, "frames": frames[10:]}))
    same_frame(parse(blender), cloud)
    assert len(parse(blender, "val").cameras) == 2

    same_frame(parse(write_colmap(posed, tmp_path / "colmap")), cloud, tolerance=0.08)


def spoiled(posed, tmp_path, kind):
    if kind == "missing path":
        return tmp_path / "none"
    folder = tmp_path / "bad"
    if kind == "empty folder":
        folder.mkdir()
        return folder
    if kind == "no cameras":
        shutil.copytree(posed / "images", folder)
        return folder
    if kind == "other file":
        (tmp_path / "a.txt").write_text("")
        return tmp_path / "a.txt"

    def change(meta):
        frames = meta["frames"]
        first = folder / frames[0]["file_path"]
        if kind == "images missing":
            shutil.rmtree(first.parent)
        elif kind == "image unreadable":
            first.write_bytes(first.read_bytes()[:200])
        elif kind == "looking away":
            for frame in frames:
                pose = torch.tensor(frame["transform_matrix"])
                pose[:3, :3] = pose[:3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
                frame["transform_matrix"] = pose.tolist()
        elif kind == "nothing there":
            for frame in frames:
                Image.new("RGBA", (64, 64)).save(folder / frame["file_path"])
        elif kind == "views disagree":
            for frame in frames:
                frame["transform_matrix"] = frames[0]["transform_matrix"]
        elif kind == "nan pose":
            frames[3]["transform_matrix"][0][3] = float("nan")
        elif kind == "panoramas":
            meta["camera_model"] = "EQUIRECTANGULAR"
        elif kind == "no frames":
            meta["frames"] = []
        elif kind == "no intrinsics":
            del meta["fl_x"], meta["fl_y"]

    rewrite(posed, folder, change)
    if kind == "broken json":
        (folder / "transforms.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing path", "does not exist"),
        ("empty folder", "is empty"),
        ("no cameras", "ns-process-data"),
        ("other file", "neither a splat file"),
        ("images missing", "is missing"),
        ("image unreadable", "cannot be read"),
        ("looking away", "do not look at a common object"),
        ("nothing there", "see nothing"),
        ("views disagree", "same direction"),
        ("nan pose", "NaN"),
        ("panoramas", "panoramic"),
        ("no frames", "cannot be read|no images"),
        ("no intrinsics", "no focal length"),
        ("broken json", "cannot be read"),
    ],
)
def test_bad_scenes_are_refused_in_one_line(posed, tmp_path, kind, says):
    with pytest.raises(InputError, match=says) as caught:
        parse(spoiled(posed, tmp_path, kind))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_an_image_that_breaks_later_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


def test_shrinking_lets_no_hidden_color_into_edges(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:, :1] = [255, 0, 0, 255]  # the rest is transparent black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = read_image(tmp_path / "a.png", size=(2, 2))
    assert small[0, 0, 0] > 250 and abs(int(small[0, 0, 3]) - 128) <= 1


def test_posed_images_refuse_a_folder_with_content(tmp_path, cloud):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").write_text("")
    with pytest.raises(InputError, match="exists already"):
        write_posed_images(cloud, tmp_path / "a", count=1, size=32)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["kept"]
