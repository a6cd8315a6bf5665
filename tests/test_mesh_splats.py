"""Meshes as scenes: splats on their surface, without holes, in the right colors, through every command that reads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import trimesh as _trimesh
from PIL import Image
from plyfile import PlyData
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.commands.turntable import MakeTurntable
from invert3d_ns.editing.sources import read_scene
from invert3d_ns.scenes.assets import SceneDataParserConfig, read_object, scene_name
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.meshes.reading import GRAY, read_surfaces
from invert3d_ns.scenes.meshes.sampling import read_mesh
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.scenes.splat_files import read_splat_file

trimesh: Any = _trimesh  # whose own annotations know less than it does

SIDES = {
    # Which way a side of the box faces in the file (y up), its color, and from where it is seen.
    "front": ((0, 0, 1), (220, 30, 30), (0.0, 0.0)),
    "right": ((1, 0, 0), (30, 200, 40), (90.0, 0.0)),
    "back": ((0, 0, -1), (40, 60, 230), (180.0, 0.0)),
    "left": ((-1, 0, 0), (230, 220, 40), (270.0, 0.0)),
    "top": ((0, 1, 0), (200, 60, 220), (0.0, 89.0)),
    "bottom": ((0, -1, 0), (40, 210, 220), (0.0, -89.0)),
}


def textured_box() -> Any:
    """A box whose sides have a color each, all in one picture."""
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    vertices = box.triangles.reshape(-1, 3)
    uvs = np.zeros((36, 2))
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    for slot, (direction, color, _) in enumerate(SIDES.values()):
        row, column = divmod(slot, 3)
        picture[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = color
        uvs[np.repeat(box.face_normals @ direction > 0.9, 3)] = (2 * column + 1) / 6, 1 - (2 * row + 1) / 4
    material = PBRMaterial(baseColorTexture=Image.fromarray(picture), metallicFactor=0.0)
    return trimesh.Trimesh(
        vertices, np.arange(36).reshape(-1, 3), process=False, visual=TextureVisuals(uv=uvs, material=material)
    )


def seen(cloud: SplatCloud, azimuth: float, elevation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RGBA in the middle of a view, and the alphas of all of the object but its rim."""
    poses = orbit_camera_to_world(torch.tensor([azimuth]), torch.tensor([elevation]))
    with torch.no_grad():
        rgb, alpha = render_splats(cloud, poses, 256)
    inner = -torch.nn.functional.max_pool2d(-(alpha > 0.5).float(), 13, 1, 6) > 0
    return rgb[0, :, 118:138, 118:138].mean(dim=(1, 2)), alpha[inner]


@pytest.mark.parametrize("ending", [".glb", ".gltf", ".obj"])
def test_a_textured_box_has_the_right_color_on_every_side(tmp_path, ending):
    path = tmp_path / f"box{ending}"
    box = textured_box()
    if ending == ".gltf":
        for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(box)).items():
            (tmp_path / name).write_bytes(content)
        path = tmp_path / "model.gltf"
    else:
        if ending == ".obj":
            box.visual.material = SimpleMaterial(image=box.visual.material.baseColorTexture, diffuse=[102] * 3)
        box.export(path)
    cloud, _ = read_object(path)
    assert len(cloud) == 20_000
    for name, (_, color, (azimuth, elevation)) in SIDES.items():
        middle, alphas = seen(cloud, azimuth, elevation)
        assert (middle * 255 - torch.tensor(color)).abs().max() < 6, name
        assert alphas.min() > 0.97 and len(alphas) > 5000, "no holes"


def test_a_sphere_has_the_colors_of_its_vertices(tmp_path):
    ball = trimesh.creation.icosphere(4, radius=300.0)
    ball.visual.vertex_colors = np.where(ball.vertices[:, 1:2] > 0, [255, 40, 20, 255], [20, 60, 255, 255])
    for ending in (".ply", ".obj"):
        ball.export(tmp_path / f"ball{ending}")
        cloud, _ = read_object(tmp_path / f"ball{ending}")
        for elevation, color in ((89.0, (255, 40, 20)), (-89.0, (20, 60, 255))):
            middle, alphas = seen(cloud, 0.0, elevation)
            assert (middle * 255 - torch.tensor(color)).abs().max() < 6
            assert alphas.min() > 0.97
        # Evenly: the nearest neighbor of each is about as far as that of every other.
        near = torch.cdist(cloud.means[:2000], cloud.means).topk(2, largest=False).values[:, 1]
        spacing = (4 * np.pi * float(cloud.means.norm(dim=1).mean()) ** 2 / len(cloud)) ** 0.5
        assert near.min() > 0.6 * spacing and near.max() < 1.4 * spacing
        # Flat, along the surface.
        w, x, y, z = cloud.quats.unbind(-1)
        across = 2 * (x * z + w * y)  # the x coordinate of the third axis of each
        assert (across - torch.nn.functional.normalize(cloud.means, dim=1)[:, 0]).abs().max() < 0.06
        assert (cloud.scales[:, 2] < cloud.scales[:, :2].amin(dim=1) - 2).all()


def test_both_sides_of_a_thin_sheet_are_covered(tmp_path):
    sheet = trimesh.creation.box((1.0, 1.0, 0.004))
    sheet.visual.face_colors = np.where(sheet.face_normals[:, 2:] > 0, [250, 0, 0, 255], [0, 0, 250, 255])
    sheet.export(tmp_path / "sheet.ply")
    cloud, _ = read_object(tmp_path / "sheet.ply")
    assert seen(cloud, 0.0, 0.0)[0].tolist() == pytest.approx([250 / 255, 0, 0], abs=0.03)
    assert seen(cloud, 180.0, 0.0)[0].tolist() == pytest.approx([0, 0, 250 / 255], abs=0.03)
    for red in (True, False):
        alone = cloud.select((cloud.base_colors[:, 0] > 0.5) == red)
        assert abs(len(alone) - 10_000) < 200
        assert seen(alone, 0.0, 0.0)[1].min() > 0.9


def test_colors_of_gltf_are_linear_and_multiply(tmp_path):
    """The definition of glTF: base color is texture (sRGB) times factor (linear) times COLOR_0 (linear)."""
    box = textured_box()
    material = box.visual.material
    material.baseColorFactor = [0.5, 1.0, 0.25, 1.0]
    box.export(tmp_path / "a.glb")
    (surface,) = read_surfaces(tmp_path / "a.glb")
    found = surface.colors(np.array([0]), np.full((1, 3), 1 / 3))[0]
    plain = np.array(next(c for d, c, _ in SIDES.values() if box.face_normals[0] @ d > 0.9)) / 255
    linear = np.where(plain <= 0.04045, plain / 12.92, ((plain + 0.055) / 1.055) ** 2.4) * [0.5, 1.0, 0.25]
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert found[:3] == pytest.approx(expected, abs=0.01) and found[3] == 1
    material.baseColorTexture = None
    box.export(tmp_path / "b.glb")
    (surface,) = read_surfaces(tmp_path / "b.glb")
    half = 1.055 * (128 / 255) ** (1 / 2.4) - 0.055
    assert surface.colors(np.array([0]), np.full((1, 3), 1 / 3))[0, :2] == pytest.approx([half, 1.0], abs=0.01)


@pytest.mark.parametrize("mode", ["OPAQUE", "MASK", "BLEND"])
def test_alpha_counts_where_the_material_says_so(tmp_path, mode):
    """One of two triangles of equal size is faint (alpha 0.3)."""
    picture = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 77]]], dtype=np.uint8))
    mesh = trimesh.Trimesh(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [3, 0, 0], [2, 1, 0]],
        [[0, 1, 2], [3, 4, 5]],
        process=False,
        visual=TextureVisuals(
            uv=[[0.25, 0.5]] * 3 + [[0.75, 0.5]] * 3, material=PBRMaterial(baseColorTexture=picture, alphaMode=mode)
        ),
    )
    mesh.export(tmp_path / "a.glb")
    cloud = read_mesh(tmp_path / "a.glb", 1000)
    left, right = cloud.means[:, 0] < 1.5, cloud.means[:, 0] > 1.5
    assert int(left.sum()) == pytest.approx(500, abs=20)
    assert int(right.sum()) == pytest.approx(0 if mode == "MASK" else 500, abs=20)
    assert cloud.opacities[left].sigmoid().min() > 0.98
    if mode != "MASK":
        opacity = cloud.opacities[right].sigmoid()
        assert opacity.mean() == pytest.approx(0.99 if mode == "OPAQUE" else 0.3, abs=0.01)
    assert (cloud.base_colors - torch.tensor([200 / 255, 0, 0])).abs().max() < 0.01


def test_parts_lie_where_the_transforms_of_the_scene_put_them(tmp_path):
    scene = trimesh.Scene()
    ball = trimesh.creation.icosphere(2, 0.1)
    ball.vertices[:, 0] += 0.5
    for x in (0.0, 2.0):
        # Tall, turned about y by a quarter, and moved: what was along x is along -z.
        matrix = np.array([[0.0, 0, 1, x], [0, 3, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
        scene.add_geometry(ball, geom_name="ball", transform=matrix)
    scene.export(tmp_path / "a.glb")
    cloud = read_mesh(tmp_path / "a.glb", 1000)
    assert cloud.means.amin(dim=0).tolist() == pytest.approx([-0.1, -0.3, -0.6], abs=0.02)
    assert cloud.means.amax(dim=0).tolist() == pytest.approx([2.1, 0.3, -0.4], abs=0.02)
    assert int((cloud.means[:, 0] > 1).sum()) == pytest.approx(500, abs=30)


def test_a_mesh_without_colors_is_gray(tmp_path):
    for ending in (".stl", ".off", ".ply", ".glb"):
        trimesh.creation.torus(1.0, 0.3).export(tmp_path / f"a{ending}")
        cloud, up = read_splat_file(tmp_path / f"a{ending}", 500)
        assert (cloud.base_colors - GRAY).abs().max() < 1e-5 and len(cloud) == 500
        assert up == ("y" if ending == ".glb" else None)


def test_ups_fronts_and_numbers_are_those_of_splat_files(tmp_path):
    textured_box().export(tmp_path / "box.glb")

    def middle(**settings):
        settings = {"data": tmp_path / "box.glb", "num_train_views": 2, "mesh_splats": 3000, **settings}
        outputs = SceneDataParserConfig(**settings).setup().get_dataparser_outputs("train")
        cloud = outputs.metadata["splats"]
        assert len(cloud) == 3000 and cloud.means.norm(dim=1).max() < 0.95
        return (seen(cloud, 0.0, 0.0)[0] * 255).round().tolist()

    for settings, side in (({}, "front"), ({"front": 90.0}, "right"), ({"up": "z"}, "bottom"), ({"up": "y"}, "front")):
        assert middle(**settings) == pytest.approx(SIDES[side][1], abs=12), settings
    assert scene_name(tmp_path / "box.glb") == "box"


def test_commands_take_meshes(tmp_path, monkeypatch, capsys):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "chair.glb"
    textured_box().export(path)
    monkeypatch.chdir(tmp_path)
    ExportSplats(path, out=tmp_path / "chair.ply").run()
    assert len(PlyData.read(str(tmp_path / "chair.ply"))["vertex"].data) == 20_000
    MakeTurntable(source=path.parent, seconds=0.1, fps=20, size=32).run()
    assert (tmp_path / "folder_turntable.mp4").exists()
    assert len(read_scene(path)) == 20_000
    assert not capsys.readouterr().err
    ExportSplats(path, out=tmp_path / "there.ply", frame="input").run()
    means = read_splat_file(tmp_path / "there.ply")[0].means
    assert means.abs().max() == pytest.approx(0.5, abs=1e-3)


def test_what_is_far_away_is_read_around_an_origin_of_its_own(tmp_path):
    box = trimesh.creation.box()
    box.vertices += [5e6, 4e5 + 0.25, 12.0]
    box.export(tmp_path / "far.obj")
    cloud = read_mesh(tmp_path / "far.obj", 500)
    assert cloud.origin == (5e6, 4e5, 12.0)
    assert cloud.means.amax(dim=0).tolist() == pytest.approx([0.5, 0.75, 0.5], abs=0.03)


def test_a_ply_with_faces_and_opacities_is_splats(tmp_path):
    """Splats that were written with faces besides, as some programs do."""
    from synthetic import make_cloud

    from invert3d_ns.scenes.ply import write_splats

    write_splats(tmp_path / "a.ply", make_cloud(30))
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    face = b"element face 1\nproperty list uchar int vertex_indices\n"
    (tmp_path / "a.ply").write_bytes(head + face + b"end_header\n" + body + b"\3" + bytes(12))
    assert len(read_splat_file(tmp_path / "a.ply")[0]) == 30


def test_missing_materials_are_named(tmp_path, capsys):
    box = textured_box()
    box.visual.material = SimpleMaterial(image=box.visual.material.baseColorTexture)
    box.export(tmp_path / "box.obj")
    (picture,) = tmp_path.glob("*.png")
    picture.unlink()
    read_mesh(tmp_path / "box.obj", 100)
    assert f"names {picture.name}, which is not there" in capsys.readouterr().err
    (tmp_path / "material.mtl").unlink()
    read_mesh(tmp_path / "box.obj", 100)
    assert "names material.mtl, which is not there" in capsys.readouterr().err
    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(textured_box())).items():
        (tmp_path / name).write_bytes(content)
    tree = json.loads((tmp_path / "model.gltf").read_text())
    tree["images"] = [{"uri": "my%20picture.png"}]
    (tmp_path / "model.gltf").write_text(json.dumps(tree))
    read_mesh(tmp_path / "model.gltf", 100)
    assert "names my picture.png, which is not there" in capsys.readouterr().err


def _obj(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def _far_stl() -> bytes:
    box = trimesh.creation.box()
    box.vertices += [1e6, 0, 0]
    return box.export(file_type="stl")


def _draco() -> bytes:
    tree = json.loads(trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box()))["model.gltf"])
    name = "KHR_draco_mesh_compression"
    tree["extensionsRequired"] = tree["extensionsUsed"] = [name]
    tree["meshes"][0]["primitives"][0]["extensions"] = {name: {"bufferView": 0, "attributes": {"POSITION": 0}}}
    return json.dumps(tree).encode()


_GLB = trimesh.Scene(trimesh.creation.box()).export(file_type="glb")
_STL = trimesh.creation.box().export(file_type="stl")
_PLY = trimesh.creation.box().export(file_type="ply")
_OFF = trimesh.creation.box().export(file_type="off").encode()
_POINTS = trimesh.Scene(trimesh.PointCloud(np.eye(3))).export(file_type="glb")
BAD = {
    "points.obj": (_obj("v 0 0 0", "v 1 0 0"), "has no faces; export the mesh again"),
    "points.glb": (_POINTS, "has no faces; export the mesh again"),
    "nan.obj": (_obj("v nan 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 3"), "NaN or infinity in 1 of 1 faces; export"),
    "line.obj": (_obj("v 0 0 0", "v 1 0 0", "v 2 0 0", "f 1 2 3"), "have no area; export"),
    "point.obj": (_obj("v 1 1 1", "v 1 1 1", "v 1 1 1", "f 1 2 3"), "have no area.*; export"),
    "huge.obj": (_obj("v 1e300 0 0", "v 0 1e300 0", "v 0 0 1", "f 1 2 3"), "beyond all measure; export"),
    "index.obj": (_obj("v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 9"), "cannot be read as a mesh, or is damaged"),
    "far.stl": (_far_stl(), "round them to steps of 0.12.*; export it around its origin"),
    "cut.glb": (_GLB[:-20], "it ends early.*; copy or export it again"),
    "cut.stl": (_STL[:-20], "it ends early.*; copy or export it again"),
    "cut.ply": (_PLY[:-20], "cannot be read as a mesh, or is damaged.*; copy or export it again"),
    "cut.off": (_OFF[: len(_OFF) // 2], "cannot be read as a mesh, or is damaged.*; copy or export it again"),
    "cut.gltf": (b'{"asset": {"version": "2.0"}, "meshes": [', "cannot be read as a mesh, or is damaged"),
    "none.gltf": (b'{"asset": {"version": "2.0"}, "meshes": []}', "no faces|cannot be read as a mesh"),
    "packed.gltf": (_draco(), "uses KHR_draco_mesh_compression, which cannot be read; export it without compression"),
    "empty.off": (b"", r"is not a \.off file but an empty file; copy"),
    "png.glb": (b"\x89PNG\r\n\x1a\n" + bytes(50), r"is not a \.glb file but a PNG image; copy"),
    "page.obj": (b"<!doctype html><html></html>", r"is not a \.obj file but a web page \(HTML\); download"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_meshes_are_refused_in_one_line(tmp_path, name):
    content, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box())).items():
        (tmp_path / name).write_bytes(content)  # what must not be read instead
    with pytest.raises(InputError, match=says) as caught:
        read_object(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_few_bad_corners_are_left_out(tmp_path, capsys):
    lines = ["v nan 0 0", "v 1 0 0", "v 0 1 0", "v 0 0 1", "v 1 1 1", "f 2 3 4", "f 2 3 5", "f 1 2 3"]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    assert len(read_mesh(tmp_path / "a.obj", 200)) == 200
    assert "has NaN or infinity in 1 of 3 faces, which are left out" in capsys.readouterr().err


def test_a_transparent_mesh_is_refused(tmp_path):
    box = textured_box()
    box.visual.material = PBRMaterial(baseColorFactor=[1.0, 1.0, 1.0, 0.0], alphaMode="BLEND")
    box.export(tmp_path / "a.glb")
    with pytest.raises(InputError, match="is transparent everywhere; export it with opaque materials"):
        read_mesh(tmp_path / "a.glb")
