"""transforms.json and its relatives as other tools write them: read for what they mean, or refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import parse, read_list, rewrite, same_frame
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
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


def field_of_view(meta: dict) -> float:
    return 2 * math.atan(meta["w"] / 2 / meta["fl_x"])


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
    "points missing": (without(ply_file_path="none.ply"), "none.ply is missing"),
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
    printed = capsys.readouterr().out
    assert says in printed and (says or "Warning" not in printed)
    assert printed.count("\n") <= 1, "one line a guess"
    if says and kind not in ("entries twice", "scales"):
        assert "[my] scene" in printed, "brackets are no markup"


def test_a_byte_order_mark_is_no_content(posed, expected, tmp_path):
    folder = rewrite(posed, tmp_path / "a", lambda meta: None)
    path = folder / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(parse(folder).cameras.camera_to_worlds, expected)


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
    "fourth radial": "k4",
    "other shape": "48x40 pixels and its camera 48x48",
    "contradiction": "twice, with different cameras",
    "frames is text": "no list of frames",
    "an image of zero bytes": "an empty file",
    "images of two folders": "means different images by",
    "all set aside": "none is left to train on",
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
    assert "2 of 12 images of" in capsys.readouterr().out


def blender(posed: Path, folder: Path, test: str) -> Path:
    meta = read_list(posed)
    for index, split in ((slice(0, 8), "train"), (slice(8, 12), test)):
        for number, frame in enumerate(meta["frames"][index]):
            (folder / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(posed / frame["file_path"], folder / split / f"r_{number}.png")
            frame["file_path"] = f"./{'train' if split == 'train' else 'test'}/r_{number}"
    for split, frames in (("train", meta["frames"][:8]), ("test", meta["frames"][8:])):
        content = {"camera_angle_x": field_of_view(meta), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


def test_held_out_images_are_never_taken_for_others_of_the_same_name(posed, cloud, tmp_path, capsys):
    """test/r_0 was not rendered, train/r_0 was: it is another image."""
    folder = blender(posed, tmp_path / "scene", "elsewhere/masks")
    held_out = parse(folder, "test")
    assert len(parse(folder).cameras) == 6 and len(held_out.cameras) == 2
    assert {path.parent.name for path in held_out.image_filenames} == {"train"}
    same_frame(held_out, cloud, tolerance=0.08)
    said = capsys.readouterr().out
    assert "none of the 4 images" in said and "transforms_test.json" in said and "transforms_train" not in said


def test_blenders_own_split_is_kept(posed, tmp_path, capsys):
    folder = blender(posed, tmp_path / "scene", "test")
    assert [path.parent.name for path in parse(folder, "val").image_filenames] == ["test"] * 4
    assert len(parse(folder).cameras) == 8 and not capsys.readouterr().out
    (folder / "transforms_test.json").unlink()
    assert len(parse(folder).cameras) == 6 and len(parse(folder, "val").cameras) == 2


@pytest.mark.parametrize(
    ("lists", "train", "held_out"),
    [
        ({"train": range(9), "test": range(9, 12)}, range(9), range(9, 12)),
        ({"train": range(9)}, None, None),
        ({"test": range(9, 12)}, range(9), range(9, 12)),
        ({"train": range(6), "val": range(6, 8), "test": range(8, 12)}, range(6), range(6, 8)),
    ],
)
def test_the_lists_own_split_is_kept(posed, tmp_path, lists, train, held_out):
    def change(meta):
        names = [frame["file_path"] for frame in meta["frames"]]
        meta.update({f"{split}_filenames": [names[index] for index in chosen] for split, chosen in lists.items()})

    folder = rewrite(posed, tmp_path / "a", change)
    found = [[int(path.stem[-4:]) for path in parse(folder, split).image_filenames] for split in ("train", "val")]
    if train is None:  # nothing is held out by the list: two of its own are
        assert len(found[0]) == 7 and len(found[1]) == 2 and sorted(found[0] + found[1]) == list(range(9))
    else:
        assert found == [list(train), list(held_out)]


def test_two_images_are_held_out_or_none(tmp_path, cloud):
    for count, held_out in ((6, 6), (7, 7), (8, 2), (9, 2)):
        folder = tmp_path / str(count)
        write_posed_images(cloud, folder, count=count, size=32)
        assert len(parse(folder, "test").cameras) == held_out


def test_georeferenced_cameras_are_centered_before_single_precision(posed, cloud, tmp_path):
    offset = torch.tensor([5e5, 4.1e6, 120.0], dtype=torch.float64)

    def change(meta):
        for frame in meta["frames"]:
            for row in range(3):
                frame["transform_matrix"][row][3] += float(offset[row])

    plain = parse(posed)
    moved = parse(rewrite(posed, tmp_path / "a", change))
    assert torch.allclose(moved.cameras.camera_to_worlds, plain.cameras.camera_to_worlds, atol=1e-4)
    total = moved.dataparser_transform.double()
    where = total[:, :3] @ offset + total[:, 3]
    assert where.abs().max() < 1.0, "as near as single precision gets"


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


def oriented(posed: Path, folder: Path, orientation: int, *, turned: bool, crop: int = 0) -> Path:
    """JPEGs on white with an EXIF orientation, turned by it on disk or not."""

    def change(meta):
        turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
        meta["w"] -= 2 * crop
        meta["cx"] -= crop
        for frame in meta["frames"]:
            path = folder / frame["file_path"]
            image = Image.open(path)
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            image = image.crop((crop, 0, 48 - crop, 48))
            exif = Image.Exif()
            exif[0x0112] = orientation
            path.unlink()
            frame["file_path"] = frame["file_path"].replace(".png", ".jpg")
            (image.transpose(turn) if turned else image).save(path.with_suffix(".jpg"), exif=exif, quality=95)

    return rewrite(posed, folder, change)


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("crop", [0, 6])
def test_exif_orientation_is_applied_where_the_cameras_ask_for_it(
    posed, cloud, tmp_path, capsys, orientation, turned, crop
):
    """By the shape where it tells, by what the images show together where it does not."""
    outputs = parse(oriented(posed, tmp_path / "a", orientation, turned=turned, crop=crop))
    assert outputs.metadata["upright"] == [turned] * 10
    same_frame(outputs, cloud, tolerance=0.2)
    undecided = crop == 0 or orientation == 3
    assert ("both fit their cameras" in capsys.readouterr().out) == undecided


def masked(posed: Path, folder: Path, change=lambda alpha: alpha, *, place="masks", name="{}.png", count=12) -> Path:
    """Images whose background is noise, and their masks, which the list does not name."""

    def rewrite_images(meta):
        noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        for index, frame in enumerate(meta["frames"]):
            path = folder / frame["file_path"]
            image = Image.open(path)
            alpha = image.getchannel("A")
            Image.composite(image.convert("RGB"), Image.fromarray(noise), alpha).save(path)
            if index < count:
                (folder / place).mkdir(exist_ok=True)
                change(alpha).save(folder / place / name.format(path.stem))

    return rewrite(posed, folder, rewrite_images)


@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        ("masks", "{}.png", lambda alpha: alpha),
        ("masks", "{}.png.png", lambda alpha: alpha),
        ("mask", "{}_mask.jpg", lambda alpha: alpha),
        ("images_masks", "{}.PNG", lambda alpha: alpha.resize((96, 96))),
        ("masks", "mask_{}.png", lambda alpha: alpha.point(lambda value: value > 127)),
    ],
)
def test_folders_of_masks_are_used_and_said(posed, cloud, tmp_path, capsys, place, name, change):
    folder = masked(posed, tmp_path / "a", change, place=place, name=name)
    outputs = parse(folder)
    same_frame(outputs, cloud, tolerance=0.1)
    assert outputs.metadata["has_alpha"] and f"masks are taken from {folder / place}" in capsys.readouterr().out


def test_masks_that_do_not_fit_are_said(posed, tmp_path, capsys):
    assert parse(masked(posed, tmp_path / "a", name="other_{}.png")).metadata["surroundings"]
    assert "fit 0 of 12 images; they are ignored" in capsys.readouterr().out
    outputs = parse(masked(posed, tmp_path / "b", count=10))
    assert "2 of 12 images have no mask" in capsys.readouterr().out and outputs.metadata["has_alpha"]
    with pytest.raises(InputError, match="invert them"):
        parse(masked(posed, tmp_path / "c", lambda alpha: alpha.point(lambda value: 255 - value)))
    with pytest.raises(InputError, match="24x48 pixels and its image 48x48"):
        parse(masked(posed, tmp_path / "d", lambda alpha: alpha.resize((24, 48))))


def test_one_mask_for_all_images_is_not_the_object(posed, tmp_path, capsys):
    def change(meta):
        for frame in meta["frames"]:
            frame["mask_path"] = "lens.png"
        Image.new("L", (48, 48), 255).save(folder / "lens.png")

    folder = tmp_path / "a"
    outputs = parse(rewrite(posed, folder, change))
    assert "all images have the same mask" in capsys.readouterr().out and outputs.metadata["alpha_filenames"] is None


def test_masks_that_only_say_what_to_learn_from_have_the_size_of_the_images(posed, tmp_path):
    folder = masked(posed, tmp_path / "a", lambda alpha: alpha.convert("RGB").resize((96, 96)))
    outputs = parse(folder, masks_are_objects=False, image_size=32)
    data = SceneDataset(outputs).get_data(0)
    assert data["image"].shape == (32, 32, 3) and data["mask"].shape == (32, 32, 1)
    assert data["mask"].dtype == torch.bool and 0.02 < data["mask"].float().mean() < 0.9


def test_opaque_pictures_among_transparent_ones_keep_their_object(posed, tmp_path):
    """A picture that is opaque all over is often saved without alpha."""

    def change(meta):
        path = folder / meta["frames"][3]["file_path"]
        Image.open(path).convert("RGB").resize((48, 48)).save(path)

    folder = tmp_path / "a"
    outputs = parse(rewrite(posed, folder, change))
    assert outputs.metadata["has_alpha"]
    images = [SceneDataset(outputs).get_data(index)["image"] for index in range(len(outputs.cameras))]
    assert {image.shape for image in images} == {(48, 48, 4)}


def test_an_empty_picture_is_said(posed, tmp_path, capsys):
    def change(meta):
        Image.new("RGBA", (48, 48)).save(folder / meta["frames"][0]["file_path"])

    folder = tmp_path / "a"
    parse(rewrite(posed, folder, change))
    assert "1 of 10 images show no object" in capsys.readouterr().out


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
