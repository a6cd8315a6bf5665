from __future__ import annotations

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from splat_tables import drop, read_table, save, splat_table, with_columns
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.rasterization import SH_C0


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_round_trip_keeps_every_value(tmp_path, sh_degree):
    cloud = make_cloud(20, sh_degree)
    write_splats(tmp_path / "a.ply", cloud)
    again = read_splats(tmp_path / "a.ply")
    assert again.sh_degree == sh_degree
    for name, tensor in cloud.tensors().items():
        assert torch.allclose(getattr(again, name), tensor, atol=1e-6), name
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": ">"}, {"byte_order": "<"}])
def test_every_encoding_reads_alike(tmp_path, options):
    write_splats(tmp_path / "a.ply", make_cloud(10, 1))
    save(tmp_path / "b.ply", read_table(tmp_path / "a.ply"), **options)
    a, b = read_splats(tmp_path / "a.ply"), read_splats(tmp_path / "b.ply")
    assert torch.allclose(a.means, b.means) and torch.allclose(a.features_rest, b.features_rest)


def test_harmonics_are_stored_channel_by_channel(tmp_path):
    cloud = make_cloud(3, 1)
    write_splats(tmp_path / "a.ply", cloud)
    table = read_table(tmp_path / "a.ply")
    assert np.allclose(table["f_rest_1"], cloud.features_rest[:, 1, 0])  # second coefficient of red
    assert np.allclose(table["f_rest_3"], cloud.features_rest[:, 0, 1])  # first of green


def test_lgm_layout_without_normals_and_nerfstudio_rgb_layout(tmp_path):
    cloud = make_cloud(5)
    write_splats(tmp_path / "a.ply", cloud)
    table = drop(read_table(tmp_path / "a.ply"), "n")
    save(tmp_path / "lgm.ply", table)
    assert torch.allclose(read_splats(tmp_path / "lgm.ply").features_dc, cloud.features_dc)

    table = drop(table, "f_")
    white, black, dim = (np.full(len(table), value, np.uint8) for value in (255, 0, 51))
    save(tmp_path / "rgb.ply", with_columns(table, red=white, green=black, blue=dim))
    shown = 0.5 + SH_C0 * read_splats(tmp_path / "rgb.ply").features_dc[0]
    assert torch.allclose(shown, torch.tensor([1.0, 0.0, 0.2]), atol=1e-6)


def bad_file(tmp_path, kind):
    good = tmp_path / "good.ply"
    write_splats(good, make_cloud(50, 1))
    path, table = tmp_path / "bad.ply", read_table(good)
    if kind == "missing":
        return tmp_path / "none.ply"
    if kind == "folder":
        return tmp_path
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:-100])
    elif kind == "header only":
        path.write_bytes(good.read_bytes()[:60])
    elif kind == "other format":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    elif kind == "mesh":
        faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
        points = drop(table, "f_", "opacity", "scale", "rot")
        PlyData([PlyElement.describe(points, "vertex"), PlyElement.describe(faces, "face")]).write(str(path))
    elif kind == "no opacity":
        save(path, drop(table, "opacity"))
    elif kind == "empty":
        save(path, table[:0])
    elif kind == "odd harmonics":
        save(path, drop(table, "f_rest_8"))
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("truncated", "truncated"),
        ("header only", "truncated"),
        ("other format", "not a .ply file but a PNG image"),
        ("mesh", "is a mesh"),
        ("no opacity", "opacity"),
        ("empty", "0 splats"),
        ("odd harmonics", "f_rest"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, kind, says):
    with pytest.raises(InputError, match=says) as caught:
        read_splats(bad_file(tmp_path, kind))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    (tmp_path / "a.ply").write_text("kept")
    cloud = make_cloud(5)
    cloud.opacities = cloud.opacities[:2]
    with pytest.raises(ValueError):
        write_splats(tmp_path / "a.ply", cloud)
    assert (tmp_path / "a.ply").read_text() == "kept"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_splats(tmp_path / "file" / "b.ply", make_cloud(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "file"]


COLORS = {
    "8 bits": ("u1", 255, ""),
    "16 bits": ("u2", 65535, ""),
    "float, 0 to 1": ("f4", 1, ""),
    "double, 0 to 1": ("f8", 1, ""),
    "float, 0 to 255": ("f4", 255, "255 is taken for white"),
    "int, 0 to 255": ("i4", 255, "255 is taken for white"),
    "int, 0 to 65535": ("i4", 65535, "65535 is taken for white"),
}


@pytest.mark.parametrize("kind", COLORS)
def test_the_type_of_plain_colors_says_what_is_white(tmp_path, capsys, kind):
    dtype, white, says = COLORS[kind]
    table = drop(splat_table(tmp_path), "f_")
    share = {"red": 1.0, "green": 0.2, "blue": 0.0}
    columns = {name: np.full(len(table), white * value).round(9).astype(dtype) for name, value in share.items()}
    cloud = read_splats(save(tmp_path / "a.ply", with_columns(table, **columns)))
    assert torch.allclose(cloud.base_colors, torch.tensor([1.0, 0.2, 0.0]), atol=1e-5)
    warned = capsys.readouterr().err
    assert (says in warned and warned.count("\n") == 1) if says else not warned


def test_a_far_scene_in_double_precision_keeps_every_digit_and_goes_back_there(tmp_path):
    table = splat_table(tmp_path)
    far = {axis: table[axis].astype("f8") + shift for axis, shift in zip("xyz", (5e5, 4.1e6, 120.0), strict=True)}
    path = save(tmp_path / "far.ply", with_columns(table, **far))
    cloud, near = read_splats(path), read_splats(tmp_path / "table.ply")
    assert cloud.origin == (500000.0, 4100000.0, 120.0) and near.origin == (0.0, 0.0, 0.0)
    assert torch.allclose(cloud.means, near.means, atol=1e-6)
    write_splats(tmp_path / "again.ply", cloud)
    for axis in "xyz":
        assert np.abs(read_table(tmp_path / "again.ply")[axis] - far[axis]).max() < 1e-6


@pytest.mark.parametrize("shift", [0.0, 4.1e6])
def test_an_outlier_beyond_single_precision_is_left_out_as_others_are(tmp_path, recwarn, capsys, shift):
    table = splat_table(tmp_path)
    x = table["x"].astype("f8") + shift
    x[7] = 1e300
    cloud = read_splats(save(tmp_path / "a.ply", with_columns(table, x=x)))
    assert len(cloud) == len(table) - 1 and not [w for w in recwarn if w.category is RuntimeWarning]
    assert "in 1 of 200 splats" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["f4", "i4"])
def test_scenes_near_their_origin_have_none_of_their_own(tmp_path, kind):
    table = splat_table(tmp_path)
    columns = {axis: (1000 * table[axis]).astype(kind) for axis in "xyz"}
    scales = {f"scale_{i}": table[f"scale_{i}"] + np.float32(np.log(1000)) for i in range(3)}
    cloud = read_splats(save(tmp_path / "a.ply", with_columns(table, **columns, **scales)))
    assert cloud.origin == (0.0, 0.0, 0.0)
    assert torch.allclose(cloud.means / 1000, read_splats(tmp_path / "table.ply").means, atol=2e-3)


def test_flat_splats_are_read_as_such(tmp_path, capsys):
    path = save(tmp_path / "flat.ply", drop(splat_table(tmp_path), "scale_2"))
    cloud, solid = read_splats(path), read_splats(tmp_path / "table.ply")
    assert torch.equal(cloud.scales[:, :2], solid.scales[:, :2])
    thickness = (cloud.scales[:, 2] - cloud.scales[:, :2].amin(dim=-1)).exp()
    assert torch.allclose(thickness, torch.tensor(1e-3), rtol=1e-3)
    assert "flat splats (2DGS)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dropped", "added", "says"),
    [
        (["scale"], ["scaling_0", "scaling_1", "scaling_2"], "scale_0, scale_1"),
        (["rot"], ["rotation_0"], "rot_0"),
        (["opacity"], ["alpha"], "opacity"),
        (["f_dc_1"], [], "f_dc_1"),
        (["f_dc"], ["red", "green"], "f_dc_0"),
    ],
)
def test_other_names_are_not_guessed_at(tmp_path, dropped, added, says):
    table = drop(splat_table(tmp_path), *dropped)
    table = with_columns(table, **{name: np.zeros(len(table), "f4") for name in added})
    with pytest.raises(InputError, match=f"no splat file that is known here, without the splat properties {says}"):
        read_splats(save(tmp_path / "a.ply", table))
