"""Which images of a folder are held out, which way up they are, and what masks say about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import field_of_view, parse, read_list, rewrite, same_frame
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.datasets import SceneDataset
from invert3d_ns.scenes.normalization import to_object_frame
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
    said = capsys.readouterr().err
    assert "none of the 4 images" in said and "transforms_test.json" in said and "transforms_train" not in said


def test_blenders_own_split_is_kept(posed, tmp_path, capsys):
    folder = blender(posed, tmp_path / "scene", "test")
    assert [path.parent.name for path in parse(folder, "val").image_filenames] == ["test"] * 4
    assert len(parse(folder).cameras) == 8 and not capsys.readouterr().err
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
    assert ("both fit their cameras" in capsys.readouterr().err) == undecided


def test_without_a_size_the_principal_point_tells_what_is_up(posed, cloud, tmp_path):
    for turned in (True, False):
        folder = oriented(posed, tmp_path / str(turned), 6, turned=turned, crop=6)
        path = folder / "transforms.json"
        meta = json.loads(path.read_text())
        del meta["w"], meta["h"]
        path.write_text(json.dumps(meta))
        outputs = parse(folder)
        assert outputs.metadata["upright"][0] == turned
        assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == (36, 48)


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
    assert outputs.metadata["has_alpha"] and f"masks are taken from {folder / place}" in capsys.readouterr().err


@pytest.mark.parametrize(("nested", "used"), [(True, True), (False, False)])
def test_masks_in_folders_as_the_images(posed, cloud, tmp_path, capsys, nested, used):
    """The masks of two cameras, whose images have the same names; one mask without a folder could mean either."""
    folder = masked(posed, tmp_path / "a")
    meta = json.loads((folder / "transforms.json").read_text())
    for index, frame in enumerate(meta["frames"]):
        old, place = Path(frame["file_path"]), f"{'ab'[index % 2]}/{index // 2}.png"
        for kind in ("images", "masks"):
            (folder / kind / place).parent.mkdir(exist_ok=True)
            (folder / kind / old.name).rename(folder / kind / (place if nested or kind == "images" else place[2:]))
        frame["file_path"] = f"images/{place}"
    (folder / "transforms.json").write_text(json.dumps(meta))
    outputs = parse(folder)
    assert outputs.metadata["has_alpha"] == used
    assert ("fit 0 of 12 images; they are ignored" in capsys.readouterr().err) != used
    if used:
        same_frame(outputs, cloud, tolerance=0.1)
        masks = outputs.metadata["alpha_filenames"]
        pairs = zip(masks, outputs.image_filenames, strict=True)
        assert all(mask.parts[-2:] == image.parts[-2:] for mask, image in pairs)


def test_masks_that_do_not_fit_are_said(posed, tmp_path, capsys):
    assert parse(masked(posed, tmp_path / "a", name="other_{}.png")).metadata["surroundings"]
    assert "fit 0 of 12 images; they are ignored" in capsys.readouterr().err
    outputs = parse(masked(posed, tmp_path / "b", count=10))
    assert "2 of 12 images have no mask" in capsys.readouterr().err and outputs.metadata["has_alpha"]
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
    assert "all images have the same mask" in capsys.readouterr().err and outputs.metadata["alpha_filenames"] is None


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


def test_points_are_read_where_there_is_no_silhouette_to_start_from(posed, tmp_path, capsys):
    def change(meta):
        meta["ply_file_path"] = "none.ply"
        noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        for frame in meta["frames"]:
            Image.fromarray(noise).save(folder / frame["file_path"])

    folder = tmp_path / "a"
    assert parse(rewrite(posed, folder, change)).metadata["surroundings"]
    assert "none.ply is missing" in capsys.readouterr().err


def test_an_empty_picture_is_said(posed, tmp_path, capsys):
    def change(meta):
        Image.new("RGBA", (48, 48)).save(folder / meta["frames"][0]["file_path"])

    folder = tmp_path / "a"
    parse(rewrite(posed, folder, change))
    assert "1 of 10 images show no object" in capsys.readouterr().err
