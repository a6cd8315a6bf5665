"""transforms.json and its relatives as other tools write them: read for what they mean, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import field_of_view, parse, read_list, rewrite, same_frame
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.assets import scene_name
from invert3d_ns.scenes.datasets import SceneDataset
from invert3d_ns.scenes.normalization import to_object_frame, transform_splats
from invert3d_ns.scenes.posed_images import write_posed_images


@pytest.fixture(scope="module")
def cloud():
    return to_object_frame(make_cloud(600))[0]


@pytest.fixture(scope="module")
def posed(tmp_path_factory, cloud) -> Path:
    """Twelve posed RGBA images of 48x48 pixels. Read-only."""
    folder = tmp_path_factory.mktemp("posed") / "scene"
    write_posed_images(cloud, folder, count=12, size=48)
    return folder


@pytest.fixture(scope="module")
def expected(posed) -> torch.Tensor:
    return parse(posed).cameras.camera_to_worlds


def rename(change):
    """A change of every frame's file_path."""

    def names(meta, folder):
        for frame in meta["frames"]:
            frame["file_path"] = change(frame["file_path"], folder)

    return names


def without(*names, **added):
    """Numbers left out, and others instead: text is the name of the number that they are."""

    def change(meta, folder):
        known = {**meta, "angle": field_of_view(meta)}
        for name in names:
            del meta[name]
        meta.update({name: known.get(value, value) for name, value in added.items()})

    return change


def move_images(to):
    def change(meta, folder):
        (folder / "images").rename(folder / to)

    return change


def per_frame(meta, folder):
    for frame in meta["frames"]:
        frame.update({name: meta[name] for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model")})
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
        del meta[name]


def three_rows(meta, folder):
    for frame in meta["frames"]:
        frame["transform_matrix"] = frame["transform_matrix"][:3]


def uppercase_files(meta, folder):
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".PNG"))


def twice(meta, folder):
    meta["frames"] += meta["frames"][:2]


def beside(meta, folder):
    """Depth and normal images beside the pictures, as Blender's scenes have."""
    for frame in meta["frames"]:
        path = folder / frame["file_path"]
        for kind in ("depth", "normal"):
            Image.new("RGB", (48, 48)).save(path.with_name(f"{path.stem}_{kind}_0001.png"))
        frame["file_path"] = frame["file_path"].removesuffix(".png")


def depth_folder(meta, folder):
    """Depth under the same names in another folder, and pictures that are not where the list says."""
    shutil.copytree(folder / "images", folder / "depths")
    rename(lambda name, _: "/home/ann/capture/" + Path(name).name)(meta, folder)


def scale_rotations(meta, folder):
    for index, frame in enumerate(meta["frames"]):
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] *= 0.25 + index
        frame["transform_matrix"] = matrix.tolist()


CHANGES = {
    "backslashes": (rename(lambda name, _: name.replace("/", "\\")), ""),
    "a drive letter": (rename(lambda name, _: "C:\\Users\\ann\\scene\\" + name.replace("/", "\\")), "not where"),
    "another machine": (rename(lambda name, _: "/home/ann/scene/" + name), "12 images are not where"),
    "absolute": (rename(lambda name, folder: str(folder / name)), ""),
    "a URL": (rename(lambda name, folder: (folder / name).as_uri()), ""),
    "percent codes": (rename(lambda name, _: name.replace("_", "%5F")), ""),
    "no ending": (rename(lambda name, _: "./" + name.removesuffix(".png")), ""),
    "another ending": (rename(lambda name, _: name.replace(".png", ".jpg")), "not where"),
    "uppercase files": (uppercase_files, "not where"),
    "another folder": (move_images("input"), "not where"),
    "beside the list": (rename(lambda name, _: "../scene-of-old/images/" + Path(name).name), "not where"),
    "depth beside": (beside, ""),
    "depth in a folder": (depth_folder, "not where"),
    "an angle": (without("fl_x", "fl_y", "cx", "cy", "w", "h", camera_angle_x="angle"), ""),
    "a vertical angle": (without("fl_x", "fl_y", "cx", "cy", "w", "h", camera_angle_y="angle"), ""),
    "one focal length": (without("fl_y", "cx"), ""),
    "other names": (without("fl_x", "fl_y", fx="fl_x", fy="fl_y"), ""),
    "no camera model": (without("camera_model"), ""),
    "numbers per frame": (per_frame, ""),
    "three rows": (three_rows, ""),
    "entries twice": (twice, "lists 2 of its images again"),
    "scales": (scale_rotations, "all 12 cameras have a scale (0.25 to 11.25)"),
    "points missing": (without(ply_file_path="none.ply"), "there are no points of the reconstruction"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_lists_of_other_tools_are_read_for_what_they_mean(posed, expected, tmp_path, capsys, kind):
    change, says = CHANGES[kind]
    folder = tmp_path / "[my] scene"
    outputs = parse(rewrite(posed, folder, lambda meta: change(meta, folder)))
    assert torch.allclose(outputs.cameras.camera_to_worlds, expected, atol=1e-5)
    lens = torch.cat([outputs.cameras.fx, outputs.cameras.fy, outputs.cameras.cx, outputs.cameras.cy], dim=-1)
    assert torch.allclose(lens, torch.tensor([52.5416, 52.5416, 24.0, 24.0]), atol=1e-3)
    assert lens.dtype == torch.float32 and outputs.cameras.width.unique().tolist() == [48]
    assert SceneDataset(outputs).get_data(0)["image"].shape == (48, 48, 4)
    printed = capsys.readouterr().err
    assert says in printed and (says or "Warning" not in printed)
    assert printed.count("\n") <= 1, "one line a guess"
    if says and kind not in ("entries twice", "scales"):
        assert "[my] scene" in printed, "brackets are no markup"


def test_a_byte_order_mark_is_no_content(posed, expected, tmp_path):
    folder = rewrite(posed, tmp_path / "a", lambda meta: None)
    path = folder / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(parse(folder).cameras.camera_to_worlds, expected)


@pytest.mark.parametrize("kind", ["size", "angle", "pixels"])
def test_smaller_copies_are_taken_where_the_camera_means_them_too(posed, tmp_path, monkeypatch, kind):
    """Without a size, focal lengths in pixels are those of the images that are listed."""
    monkeypatch.setattr("invert3d_ns.scenes.layouts.frames._LARGE", 24)

    def change(meta):
        shutil.copytree(folder / "images", folder / "images_2")
        for path in (folder / "images_2").iterdir():
            Image.open(path).resize((24, 24)).save(path)
        if kind != "size":
            without("w", "h", "cx", "cy")(meta, folder)
        if kind == "angle":
            meta["camera_angle_x"] = 2 * np.arctan(24 / meta.pop("fl_x"))
            del meta["fl_y"]

    folder = tmp_path / "a"
    outputs = parse(rewrite(posed, folder, change))
    assert outputs.image_filenames[0].parent.name == ("images" if kind == "pixels" else "images_2")
    assert torch.allclose(outputs.cameras.fx / outputs.cameras.width, torch.tensor(52.5416 / 48), atol=1e-4)


def test_perspective_and_fisheye_cameras_may_be_mixed(posed, tmp_path):
    def change(meta):
        meta["frames"][0]["camera_model"] = "OPENCV_FISHEYE"

    assert parse(rewrite(posed, tmp_path / "a", change)).cameras.distortion_params.shape[-1] == 6


@pytest.mark.parametrize(
    ("lists", "given", "says"),
    [
        (
            ["transforms.json", "transforms_train.json"],
            "transforms_train.json",
            "which is .*/transforms.json; give that",
        ),
        (["transforms.json", "transforms_2.json"], "transforms_2.json", "which is .*/transforms.json; give that"),
        (["transforms_train.json", "transforms_old.json"], "transforms_old.json", "which is .*/transforms_train.json"),
        (["transforms_2.json"], "transforms_2.json", "rename it to transforms.json"),
        (["transforms_train.json", "transforms_val.json"], "transforms_val.json", ""),
        (["transforms_train.json", "transforms_test.json"], "transforms_train.json", ""),
    ],
)
def test_a_list_that_would_not_be_read_is_refused(posed, tmp_path, lists, given, says):
    folder = rewrite(posed, tmp_path / "a", lambda meta: None)
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").unlink()
    for name in lists:
        (folder / name).write_text(text)
    if not says:
        assert scene_name(folder / given) == "a"
        return
    with pytest.raises(InputError, match=says):
        parse(folder / given)


def test_the_list_of_a_folder_stands_for_the_folder(posed, expected):
    assert torch.equal(parse(posed / "transforms.json").cameras.camera_to_worlds, expected)
    assert scene_name(posed / "transforms.json") == scene_name(posed) == posed.name


def spoil(kind):
    def change(meta, folder):
        frame = meta["frames"][3]
        matrix = np.array(frame["transform_matrix"])
        if kind == "strings":
            frame["transform_matrix"] = [[str(value) for value in row] for row in matrix.tolist()]
        elif kind == "mirrored":
            frame["transform_matrix"] = (matrix @ np.diag([-1, 1, 1, 1])).tolist()
        elif kind == "uneven":
            frame["transform_matrix"] = (matrix @ np.diag([1, 2, 1, 1])).tolist()
        elif kind == "no rotation":
            matrix[:3, :3] = 0
            frame["transform_matrix"] = matrix.tolist()
        elif kind == "transposed":
            frame["transform_matrix"] = matrix.T.tolist()
        elif kind == "ragged":
            frame["transform_matrix"][1] = [1, 2]
        elif kind == "flat":
            frame["transform_matrix"] = matrix.flatten().tolist()
        elif kind == "infinite":
            frame["transform_matrix"][0][3] = float("inf")
        elif kind == "no pose":
            del frame["transform_matrix"]
        elif kind == "no name":
            frame["file_path"] = ""
        elif kind == "degrees":
            del meta["fl_x"], meta["fl_y"]
            meta["camera_angle_x"] = 49.1
        elif kind == "shares":
            meta.update(fl_x=1.09, fl_y=1.09, cx=0.5, cy=0.5)
        elif kind == "center in shares":
            meta.update(cx=0.5, cy=0.5)
        elif kind == "text for a number":
            meta["fl_x"] = "wide"
        elif kind == "negative focal":
            meta["fl_x"] = -50.0
        elif kind == "unknown model":
            meta["camera_model"] = "BROWN"
        elif kind == "sixteen numbers":
            frame.update(camera_model="FISHEYE624", distortion_params=[0.0] * 16, fisheye_crop_radius=20)
        elif kind == "fourth radial":
            meta["k4"] = 0.1
        elif kind == "other shape":
            Image.new("RGB", (48, 40)).save(folder / frame["file_path"])
        elif kind == "contradiction":
            meta["frames"].append({**frame, "transform_matrix": meta["frames"][0]["transform_matrix"]})
        elif kind == "frames is text":
            meta["frames"] = "none"
        elif kind == "an image of zero bytes":
            (folder / frame["file_path"]).write_bytes(b"")
        elif kind == "images of two folders":
            for index, entry in enumerate(meta["frames"]):
                entry["file_path"] = f"cam{index % 2}/view_{index // 2:04d}.png"
        elif kind == "numbers of larger images":
            del meta["w"], meta["h"]
            meta.update(fl_x=105.0, fl_y=105.0, cx=48.0, cy=48.0)
        elif kind == "mirrored world":
            meta["applied_transform"] = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
        elif kind == "no scale":
            meta["applied_scale"] = 0
        elif kind == "all set aside":
            meta["test_filenames"] = [entry["file_path"] for entry in meta["frames"]]
            meta["train_filenames"] = []

    return change


REFUSED = {
    "strings": "no matrix of 4x4",
    "mirrored": "mirrored",
    "uneven": "scaled unevenly",
    "no rotation": "no rotation",
    "transposed": "transposed",
    "ragged": "no matrix of 4x4",
    "flat": "no matrix of 4x4",
    "infinite": "NaN or infinity",
    "no pose": "no transform_matrix",
    "no name": "without file_path",
    "degrees": "radians",
    "shares": "principal point|focal length",
    "center in shares": "principal point",
    "text for a number": "finite number",
    "negative focal": "focal length of -50",
    "unknown model": "undistort the images, or give one of",
    "sixteen numbers": "camera_model 'FISHEYE624'; undistort the images",
    "fourth radial": "k4",
    "other shape": "48x40 pixels and its camera 48x48",
    "contradiction": "twice, with different cameras",
    "frames is text": "no list of frames",
    "an image of zero bytes": "an empty file",
    "images of two folders": "means different images by",
    "all set aside": "none is left to train on",
    "no scale": "applied_scale of 0",
    "mirrored world": "no 3x4 rotation",
    "numbers of larger images": "principal point",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_makes_no_camera_is_refused_by_name(posed, tmp_path, kind):
    folder = tmp_path / "scene"
    rewrite(posed, folder, lambda meta: spoil(kind)(meta, folder))
    with pytest.raises(InputError, match=REFUSED[kind]) as caught:
        parse(folder)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_missing_images_are_left_out_aloud(posed, tmp_path, capsys):
    folder = rewrite(posed, tmp_path / "a", lambda meta: None)
    for index in (2, 5):
        (folder / "images" / f"view_{index:04d}.png").unlink()
    outputs = parse(folder)
    assert len(outputs.cameras) + len(parse(folder, "val").cameras) == 10
    assert "2 of 12 images of" in capsys.readouterr().err


def test_georeferenced_cameras_are_centered_before_single_precision(posed, cloud, tmp_path):
    offset = torch.tensor([5e5, 4.1e6, 120.0], dtype=torch.float64)

    def change(meta):
        for frame in meta["frames"]:
            for row in range(3):
                frame["transform_matrix"][row][3] += float(offset[row])

    plain = parse(posed)
    moved = parse(rewrite(posed, tmp_path / "a", change))
    assert torch.allclose(moved.cameras.camera_to_worlds, plain.cameras.camera_to_worlds, atol=1e-4)
    for outputs, point in ((plain, torch.zeros(3, dtype=torch.float64)), (moved, offset)):
        outputs.save_dataparser_transform(tmp_path / "t.json")
        total = torch.tensor(read_list(tmp_path, "t.json")["transform"], dtype=torch.float64)
        where = total[:, :3] @ point + total[:, 3]
        assert where.abs().max() < 0.05, "what was in the middle is there, in double precision"


def test_images_of_several_sizes_have_a_focal_length_each(posed, expected, tmp_path):
    def change(meta):
        fov = field_of_view(meta)
        for name in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            del meta[name]
        meta["camera_angle_x"] = fov
        for index, frame in enumerate(meta["frames"]):
            path = folder / frame["file_path"]
            size = 48 if index % 2 else 96
            Image.open(path).resize((size, size)).save(path)

    folder = tmp_path / "a"
    cameras = parse(rewrite(posed, folder, change)).cameras
    assert sorted(cameras.width.unique().tolist()) == [48, 96]
    assert torch.allclose(cameras.fx / cameras.width, torch.full_like(cameras.fx, 52.5416 / 48), atol=1e-4)
    assert torch.allclose(cameras.camera_to_worlds, expected, atol=0.05)


def test_a_scene_within_the_folder_is_named(posed, tmp_path):
    shutil.copytree(posed, tmp_path / "outer" / "scene")
    with pytest.raises(InputError, match=r"give .*outer/scene, which has one"):
        parse(tmp_path / "outer")


def test_a_world_that_ns_process_data_turned_is_undone(posed, cloud, tmp_path):
    """applied_transform and applied_scale lead back to the world that the tool started from."""
    turn = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])

    def change(meta):
        meta["applied_transform"] = turn[:3].tolist()

    outputs = parse(rewrite(posed, tmp_path / "a", change))
    same_frame(outputs, transform_splats(cloud, torch.linalg.inv(turn)))
