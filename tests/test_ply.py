from __future__ import annotations

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.rasterization import SH_C0


def vertex_table(path):
    return PlyData.read(str(path))["vertex"].data.copy()


def save(path, table, **options):
    PlyData([PlyElement.describe(table, "vertex")], **options).write(str(path))


def drop(table, *prefixes):
    names = [name for name in table.dtype.names if not name.startswith(prefixes)]
    kept = np.empty(len(table), dtype=[(name, table.dtype[name]) for name in names])
    for name in names:
        kept[name] = table[name]
    return kept


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
    save(tmp_path / "b.ply", vertex_table(tmp_path / "a.ply"), **options)
    a, b = read_splats(tmp_path / "a.ply"), read_splats(tmp_path / "b.ply")
    assert torch.allclose(a.means, b.means) and torch.allclose(a.features_rest, b.features_rest)


def test_harmonics_are_stored_channel_by_channel(tmp_path):
    cloud = make_cloud(3, 1)
    write_splats(tmp_path / "a.ply", cloud)
    table = vertex_table(tmp_path / "a.ply")
    assert np.allclose(table["f_rest_1"], cloud.features_rest[:, 1, 0])  # second coefficient of red
    assert np.allclose(table["f_rest_3"], cloud.features_rest[:, 0, 1])  # first of green


def test_lgm_layout_without_normals_and_nerfstudio_rgb_layout(tmp_path):
    cloud = make_cloud(5)
    write_splats(tmp_path / "a.ply", cloud)
    table = drop(vertex_table(tmp_path / "a.ply"), "n")
    save(tmp_path / "lgm.ply", table)
    assert torch.allclose(read_splats(tmp_path / "lgm.ply").features_dc, cloud.features_dc)

    table = drop(table, "f_")
    rgb = np.empty(len(table), dtype=[*table.dtype.descr, ("red", "u1"), ("green", "u1"), ("blue", "u1")])
    for name in table.dtype.names or ():
        rgb[name] = table[name]
    rgb["red"], rgb["green"], rgb["blue"] = 255, 0, 51
    save(tmp_path / "rgb.ply", rgb)
    shown = 0.5 + SH_C0 * read_splats(tmp_path / "rgb.ply").features_dc[0]
    assert torch.allclose(shown, torch.tensor([1.0, 0.0, 0.2]), atol=1e-6)


def bad_file(tmp_path, kind):
    good = tmp_path / "good.ply"
    write_splats(good, make_cloud(50, 1))
    path, table = tmp_path / "bad.ply", vertex_table(good)
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
    elif kind == "nan":
        table["scale_1"][7] = np.nan
        save(path, table)
    elif kind == "infinity":
        table["f_rest_2"][3] = np.inf
        save(path, table)
    elif kind == "empty":
        save(path, table[:0])
    elif kind == "odd harmonics":
        save(path, drop(table, "f_rest_8"))
    elif kind == "zero rotation":
        for i in range(4):
            table[f"rot_{i}"][0] = 0
        save(path, table)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("truncated", "truncated"),
        ("header only", "truncated"),
        ("other format", "not a readable .ply"),
        ("mesh", "is a mesh"),
        ("no opacity", "opacity"),
        ("nan", "NaN or infinity in 1 of 50"),
        ("infinity", "NaN or infinity in 1 of 50"),
        ("empty", "0 splats"),
        ("odd harmonics", "f_rest"),
        ("zero rotation", "rotation"),
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
