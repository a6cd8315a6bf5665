"""COLMAP's models wherever tools put them, in text and binary, and the images that they are about."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path, get_spiral_path
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.utils import colmap_parsing_utils as parsing
from PIL import Image
from posed_folders import parse, write_colmap
from synthetic import make_cloud

from invert3d_ns import compat
from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig, check_path
from invert3d_ns.scenes.layouts.points import read_colmap_points, read_ply_points
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.posed_images import write_posed_images


@pytest.fixture(scope="module")
def posed(tmp_path_factory) -> Path:
    """Twelve posed RGBA images of 32x32 pixels. Read-only."""
    folder = tmp_path_factory.mktemp("posed") / "scene"
    write_posed_images(to_object_frame(make_cloud(400))[0], folder, count=12, size=32)
    return folder


@pytest.fixture(scope="module")
def expected(posed, tmp_path_factory) -> torch.Tensor:
    return parse(write_colmap(posed, tmp_path_factory.mktemp("plain"))).cameras.camera_to_worlds


def to_binary(model: Path) -> None:
    """Write a model in text as COLMAP writes it in binary, and remove the text."""
    cameras, images = parsing.read_cameras_text(model / "cameras.txt"), parsing.read_images_text(model / "images.txt")
    parsing.write_cameras_binary(cameras, model / "cameras.bin")
    parsing.write_images_binary(images, model / "images.bin")
    parsing.write_points3D_binary(parsing.read_points3D_text(model / "points3D.txt"), model / "points3D.bin")
    for name in ("cameras", "images", "points3D"):
        (model / f"{name}.txt").unlink()


def without_point_lines(folder: Path) -> None:
    path = folder / "sparse/0/images.txt"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line))


def with_point_lines(folder: Path) -> None:
    path = folder / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line or "10.5 11.5 -1 3 4 7" for line in lines))


LAYOUTS = {
    "sparse": {"model": "sparse"},
    "colmap/sparse/0": {"model": "colmap/sparse/0"},
    "in the root": {"model": "."},
    "beside the images": {"model": "images"},
    "dense": {"model": "dense/sparse", "images": "dense/images"},
    "images in input": {"images": "input"},
    "images in the root": {"images": "."},
    "names with spaces": {"name": lambda name: "A-1 map plan (" + name.replace(".png", ").png")},
    "names in subfolders": {"name": lambda name: "cam 1/" + name},
    "names with the folder": {"name": lambda name: "images/" + name, "images": "."},
    "other scripts": {"name": lambda name: "größe 画像 " + name},
    "names of digits": {"name": lambda name: name.removesuffix(".png").removeprefix("view_"), "images": "images"},
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_models_are_found_wherever_tools_put_them(posed, expected, tmp_path, capsys, kind):
    folder = write_colmap(posed, tmp_path / "a", **LAYOUTS[kind])
    if kind == "names of digits":
        for path in (folder / "images").iterdir():
            path.rename(path.with_suffix(".png"))
    outputs = parse(folder)
    assert torch.equal(outputs.cameras.camera_to_worlds, expected) and not capsys.readouterr().err
    assert len(outputs.image_filenames) == 10 and all(path.is_file() for path in outputs.image_filenames)


@pytest.mark.parametrize("change", [without_point_lines, with_point_lines])
def test_lines_of_points_may_be_there_or_not(posed, expected, tmp_path, change):
    folder = write_colmap(posed, tmp_path / "a")
    change(folder)
    assert torch.equal(parse(folder).cameras.camera_to_worlds, expected)


def test_binary_models_are_read(posed, expected, tmp_path, capsys):
    folder = write_colmap(posed, tmp_path / "a")
    to_binary(folder / "sparse/0")
    assert torch.equal(parse(folder).cameras.camera_to_worlds, expected) and not capsys.readouterr().err


def test_of_several_models_the_largest_is_used_and_said(posed, expected, tmp_path, capsys):
    folder = write_colmap(posed, tmp_path / "a", model="sparse/1")
    write_colmap(posed, folder, model="sparse/0", frames=slice(0, 2))
    write_colmap(posed, folder, model="sparse/2", frames=slice(3, 7))
    to_binary(folder / "sparse/2")
    assert torch.equal(parse(folder).cameras.camera_to_worlds, expected)
    said = capsys.readouterr().err
    assert "3 COLMAP models; sparse/1 with 12 images is used" in said and "sparse/2 has 4" in said


def test_smaller_copies_of_the_images_serve(posed, tmp_path):
    folder = write_colmap(posed, tmp_path / "a", images="images_2")
    for path in (folder / "images_2").iterdir():
        Image.open(path).resize((16, 16)).save(path)
    outputs = parse(folder)
    assert outputs.cameras.width.unique().tolist() == [32] and outputs.metadata["has_alpha"]


def test_registered_images_that_are_absent_are_left_out(posed, tmp_path, capsys):
    folder = write_colmap(posed, tmp_path / "a")
    (folder / "images" / "view_0003.png").unlink()
    assert len(parse(folder).cameras) + len(parse(folder, "val").cameras) == 11
    assert "1 of 12 images of" in capsys.readouterr().err


def test_lists_of_splits_are_kept(posed, tmp_path):
    folder = write_colmap(posed, tmp_path / "a")
    (folder / "test_list.txt").write_text("view_0003.png\r\nview_0004.png\n")
    assert [path.stem for path in parse(folder, "val").image_filenames] == ["view_0003", "view_0004"]
    assert len(parse(folder).cameras) == 10


@pytest.mark.parametrize("listed", ["images/{}", "{}", "./images\\{}"])
@pytest.mark.parametrize("called", ["{}", "images/{}"])
def test_names_in_lists_of_splits_may_begin_with_the_folder_or_not(posed, tmp_path, listed, called):
    folder = write_colmap(posed, tmp_path / "a", images=".", name=called.format)
    names = [f"view_{index:04d}.png" for index in range(12)]
    (folder / "train_list.txt").write_text("\n".join(listed.format(name) for name in names[2:]))
    (folder / "test_list.txt").write_text("\n".join(listed.format(name) for name in names[:2]))
    assert sorted(path.name for path in parse(folder).image_filenames) == names[2:]
    assert sorted(path.name for path in parse(folder, "test").image_filenames) == names[:2]


def test_a_list_of_other_images_is_said(posed, tmp_path):
    folder = write_colmap(posed, tmp_path / "a")
    (folder / "train_list.txt").write_text("other.png\n")
    with pytest.raises(InputError, match=r"train_list.txt names none of the images of the model; name"):
        parse(folder)


@pytest.mark.parametrize(
    ("camera", "kind", "distortion"),
    [
        ("SIMPLE_PINHOLE 32 32 35 16 16", CameraType.PERSPECTIVE, [0, 0, 0, 0, 0, 0]),
        ("SIMPLE_RADIAL 32 32 35 16 16 0.1", CameraType.PERSPECTIVE, [0.1, 0, 0, 0, 0, 0]),
        ("RADIAL 32 32 35 16 16 0.1 0.2", CameraType.PERSPECTIVE, [0.1, 0.2, 0, 0, 0, 0]),
        ("OPENCV 32 32 35 35 16 16 0.1 0.2 0.3 0.4", CameraType.PERSPECTIVE, [0.1, 0.2, 0, 0, 0.3, 0.4]),
        ("OPENCV_FISHEYE 32 32 35 35 16 16 0.1 0.2 0.3 0.4", CameraType.FISHEYE, [0.1, 0.2, 0.3, 0.4, 0, 0]),
        ("RADIAL_FISHEYE 32 32 35 16 16 0.1 0.2", CameraType.FISHEYE, [0.1, 0.2, 0, 0, 0, 0]),
    ],
)
def test_lenses_are_read(posed, tmp_path, camera, kind, distortion):
    cameras = parse(write_colmap(posed, tmp_path / "a", camera=camera)).cameras
    assert torch.allclose(cameras.distortion_params[0], torch.tensor(distortion, dtype=torch.float32))
    assert int(cameras.camera_type[0]) == kind.value and abs(float(cameras.fx[0]) - 35) < 1e-4


@pytest.mark.parametrize(
    "camera", ["OPENCV 32 32 35 35 16 16 0.05 0.01 0.001 0.002", "OPENCV_FISHEYE 32 32 35 35 16 16 0.05 0.01 0.01 0.02"]
)
def test_pictures_are_undistorted_with_their_alpha(posed, tmp_path, camera):
    manager = SceneDatamanagerConfig(data=write_colmap(posed, tmp_path / "a", camera=camera)).setup(device="cpu")
    cameras = manager.train_dataset.cameras
    for index, data in enumerate(manager.cached_train):
        assert data["image"].shape == (int(cameras.height[index]), int(cameras.width[index]), 4)
        assert 0.05 < (data["image"][..., 3] > 127).float().mean() < 0.9


def spoil(kind: str, folder: Path) -> None:
    model = folder / "sparse/0"
    if kind in ("truncated cameras", "truncated images", "unknown model in binary"):
        to_binary(model)
    if kind == "truncated cameras":
        (model / "cameras.bin").write_bytes((model / "cameras.bin").read_bytes()[:20])
    elif kind == "truncated images":
        (model / "images.bin").write_bytes((model / "images.bin").read_bytes()[:200])
    elif kind == "unknown model in binary":
        content = bytearray((model / "cameras.bin").read_bytes())
        content[12] = 77
        (model / "cameras.bin").write_bytes(bytes(content))
    elif kind == "no images":
        (model / "images.txt").unlink()
    elif kind == "empty images":
        (model / "images.txt").write_text("# Image list\n")
    elif kind == "short line":
        (model / "images.txt").write_text("1 1 0 0 0 0 0\n\n")
    elif kind == "another camera":
        (model / "cameras.txt").write_text("7 PINHOLE 32 32 35 35 16 16\n")
    elif kind == "no quaternion":
        (model / "images.txt").write_text("1 0 0 0 0 0 0 0 1 view_0000.png\n\n")
    elif kind == "all absent":
        shutil.rmtree(folder / "images")
    elif kind == "NaN":
        (model / "cameras.txt").write_text("1 PINHOLE 32 32 nan 35 16 16\n")
    elif kind == "other sizes":
        (model / "cameras.txt").write_text("1 PINHOLE 64 32 35 35 32 16\n")
    else:
        (model / "cameras.txt").write_text(f"1 {kind}\n")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("FULL_OPENCV 32 32 35 35 16 16 0 0 0 0 0 0 0 0", "the model FULL_OPENCV"),
        ("FOV 32 32 35 35 16 16 0.1", "the model FOV"),
        ("BROWN 32 32 35", "the model BROWN"),
        ("PINHOLE 32 32 35 16", "has 2 parameters"),
        ("truncated cameras", "cannot be read"),
        ("truncated images", "cannot be read"),
        ("unknown model in binary", "camera model 77"),
        ("no images", "no images.bin or images.txt"),
        ("empty images", "lists no images"),
        ("short line", "cannot be read"),
        ("another camera", "which .* lacks"),
        ("no quaternion", "no rotation"),
        ("all absent", "is missing, as are all 12"),
        ("NaN", "NaN or infinity"),
        ("other sizes", "32x32 pixels and its camera 64x32"),
    ],
)
def test_what_makes_no_camera_is_refused_by_name(posed, tmp_path, kind, says):
    folder = write_colmap(posed, tmp_path / "a")
    spoil(kind, folder)
    with pytest.raises(InputError, match=says) as caught:
        parse(folder)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says", "count"),
    [
        (None, "is missing", 0),
        (b"", "holds no points", 0),
        (b"# nothing\n", "holds no points", 0),
        (b"1 2 3\n", "cannot be read", 0),
        (b"\xff\xfe\x00", "cannot be read", 0),
        (b"1 nan 0 0 1 2 3 0.5\n2 0.1 0.2 0.3 1 2 3 0.5\n", "1 of 2 points", 1),
        (b"1 nan 0 0 1 2 3 0.5\n", "none of them finite", 0),
    ],
)
def test_points_are_optional(tmp_path, capsys, content, says, count):
    if content is not None:
        (tmp_path / "points3D.txt").write_bytes(content)
    points = read_colmap_points(tmp_path)
    assert (0 if points is None else len(points.positions)) == count
    assert says in capsys.readouterr().err


def test_points_that_are_not_needed_are_missed_aloud_and_large_files_of_them_left_alone(posed, tmp_path, capsys):
    folder = write_colmap(posed, tmp_path / "a")
    points = folder / "sparse/0/points3D.txt"
    points.write_text("nonsense\n" * 600_000)
    parse(folder)
    assert "points" not in capsys.readouterr().err
    points.unlink()
    parse(folder)
    assert "there are no points of the reconstruction" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "full"), [("u1", 255), ("u2", 65535), ("i4", 255), ("i4", 65535), ("f4", 1.0), ("f4", 255.0)]
)
def test_colors_of_points_are_scaled_by_their_type(tmp_path, kind, full):
    from plyfile import PlyData, PlyElement

    table = np.zeros(2, dtype=[*((c, "f8") for c in "xyz"), *((c, kind) for c in ("red", "green", "blue"))])
    table["x"], table["red"] = 4.1e6 + 0.125, full
    PlyData([PlyElement.describe(table, "vertex")]).write(str(tmp_path / "a.ply"))
    points = read_ply_points(tmp_path, "somewhere\\a.ply")
    assert points is not None and points.positions[0, 0] == 4.1e6 + 0.125
    assert np.allclose(points.colors, [255, 0, 0])


def test_a_ply_that_is_none_is_a_warning(tmp_path, capsys):
    (tmp_path / "a.ply").write_text("not a ply")
    assert read_ply_points(tmp_path, "a.ply") is None and "cannot be read" in capsys.readouterr().err


def test_nerfstudios_paths_lead_through_what_is_read(posed, tmp_path):
    import json

    meta = json.loads((posed / "transforms.json").read_text())
    angle = 2 * np.arctan(meta["w"] / 2 / meta["fl_x"])
    folder = tmp_path / "blender"
    shutil.copytree(posed / "images", folder / "images")
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": meta["frames"]}))
    for data in (folder, write_colmap(posed, tmp_path / "colmap")):
        cameras = parse(data, "test").cameras
        assert len(get_spiral_path(cameras[:1], steps=3, radius=0.1)) == 3
        assert len(get_interpolated_camera_path(cameras, steps=2, order_poses=False)) == 2


def test_a_path_through_one_camera_is_refused_in_one_line(posed, monkeypatch):
    from nerfstudio.scripts import render

    monkeypatch.setattr(render, "get_interpolated_camera_path", get_interpolated_camera_path)
    compat.check_camera_paths(check_path)
    compat.check_camera_paths(check_path)
    cameras = parse(posed, "test").cameras
    path = render.get_interpolated_camera_path(cameras=cameras, steps=2, order_poses=False)
    assert len(path) == 2
    with pytest.raises(InputError, match="add --pose-source train"):
        render.get_interpolated_camera_path(cameras=cameras[:1], steps=2, order_poses=False)
    with pytest.raises(InputError, match="--interpolation-steps is 0"):
        render.get_interpolated_camera_path(cameras=cameras, steps=0, order_poses=False)


def test_everything_stays_where_the_machine_says(posed, monkeypatch):
    """Images of a folder, with a GPU in the machine that is not to be used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = SceneDatamanagerConfig(data=posed)
    manager = config.setup(device="cpu")
    camera, data = manager.next_train(0)
    assert camera.device.type == data["image"].device.type == "cpu"
    assert manager.eval_dataloader.get_camera(image_idx=0)[0].device.type == "cpu"
