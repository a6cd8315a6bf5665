"""Meshes in files: what is written opens elsewhere, and `invert3d export --mesh` shows what the splats show."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh as _trimesh
from mesh_views import draw_mesh, masked_psnr
from synthetic import make_cloud
from test_export import make_run

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.scenes.assets import DEMO_SCENE, read_object, read_object_and_placement
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.meshes.depth_views import splat_renderer
from invert3d_ns.scenes.meshes.mesh import Mesh, vertex_normals
from invert3d_ns.scenes.meshes.writing import write_mesh
from invert3d_ns.scenes.ply import read_splats, write_splats

trimesh: Any = _trimesh  # whose own annotations know less than it does


def quad(**changes) -> Mesh:
    """A square, of which each quarter has a color of its own."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float64)
    faces = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    texture = np.zeros((8, 8, 3), dtype=np.uint8)
    texture[:4, :4], texture[:4, 4:], texture[4:, :4], texture[4:, 4:] = (250, 0, 0), (0, 250, 0), (0, 0, 250), 100
    mesh = Mesh(
        vertices,
        faces,
        vertex_normals(vertices, faces),
        colors=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.6]], dtype=np.float32),
        uvs=vertices[:, :2].astype(np.float32),
        texture=texture,
    )
    return replace(mesh, **changes)


def opened(path) -> Mesh:
    """What trimesh reads, with its texture or its colors."""
    (part,) = trimesh.load_scene(path, process=False).dump()
    visual = part.visual
    made = Mesh(np.asarray(part.vertices), np.asarray(part.faces), np.asarray(part.vertex_normals))
    if visual.kind == "vertex":
        return replace(made, colors=visual.vertex_colors[:, :3].astype(np.float32) / 255)
    picture = getattr(visual.material, "baseColorTexture", None) or visual.material.image
    return replace(made, uvs=visual.uv.astype(np.float32), texture=np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("name", ["a.glb", "a b.OBJ", "a.ply"])
def test_what_is_written_opens_again(tmp_path, name):
    mesh, path = quad(), tmp_path / name
    files = write_mesh(path, mesh)
    assert files[0] == path and sorted(files) == sorted(tmp_path.iterdir())
    assert len(files) == (3 if path.suffix == ".OBJ" else 1)
    again = opened(path)
    assert again.vertices[again.faces] == pytest.approx(mesh.vertices[mesh.faces])
    assert again.normals[again.faces] == pytest.approx(mesh.normals[mesh.faces])
    if path.suffix == ".ply":
        assert again.colors is not None and again.colors == pytest.approx(mesh.colors, abs=1 / 500)
    else:
        assert again.uvs is not None and again.uvs == pytest.approx(mesh.uvs)
        assert again.texture is not None and (again.texture == mesh.texture).all()


def test_a_glb_says_that_its_light_is_in_its_colors(tmp_path):
    write_mesh(tmp_path / "a.glb", quad())
    content = (tmp_path / "a.glb").read_bytes()
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert tree["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    assert "NORMAL" in tree["meshes"][0]["primitives"][0]["attributes"]


def test_meshes_without_colors_are_written_without(tmp_path):
    for name in ("a.glb", "a.obj", "a.ply"):
        assert write_mesh(tmp_path / name, quad(colors=None, uvs=None, texture=None)) == [tmp_path / name]
        assert trimesh.load(tmp_path / name, force="mesh").area == pytest.approx(1.0)


def test_only_an_obj_can_lie_far_away(tmp_path):
    far = quad(vertices=quad().vertices + np.array([5e6, 0, 0.125]))
    for name in ("a.glb", "a.ply"):
        with pytest.raises(InputError, match=r"far from their origin .*; write an \.obj, or write the mesh centered"):
            write_mesh(tmp_path / name, far)
    assert not list(tmp_path.iterdir())
    write_mesh(tmp_path / "a.obj", far)
    assert opened(tmp_path / "a.obj").vertices.max(axis=0) == pytest.approx([5e6 + 1, 1, 0.125], abs=1e-6)


@pytest.fixture
def coarse_views(monkeypatch):
    """Few and small views, where how the mesh looks does not matter."""
    monkeypatch.setattr("invert3d_ns.scenes.meshes.making._VIEWS", 24)
    monkeypatch.setattr("invert3d_ns.scenes.meshes.making._LEAST_PIXELS", 96)


def test_views_of_a_mesh_are_those_of_its_splats(tmp_path, capsys):
    path = tmp_path / "demo.glb"
    ExportSplats(DEMO_SCENE, mesh=path, faces=10_000, texture_size=512, up="z").run()
    mesh = opened(path)
    assert capsys.readouterr().out == f"{len(mesh.faces)} triangles: {path}\n"
    assert 7_500 < len(mesh.faces) <= 10_000 and mesh.texture is not None and mesh.texture.shape == (512, 512, 3)
    poses = orbit_camera_to_world(torch.arange(4) * 90.0 + 20, torch.tensor([15.0, -25.0, 45.0, 0.0]))
    with torch.no_grad():
        rgb, alpha, _ = splat_renderer(read_object(DEMO_SCENE)[0])(poses, 256)
    shown, mask = draw_mesh(mesh, poses, 256)
    solid = (alpha > 0.5).float()
    common = solid * mask
    overlap = float(common.sum() / (solid + mask).clamp(max=1).sum())
    psnr = masked_psnr(shown, rgb / alpha.clamp_min(1e-6), common)
    assert overlap > 0.94 and psnr > 27, (overlap, psnr)
    assert trimesh.load(path, force="mesh").volume > 0


@pytest.mark.parametrize("up", ["y", "z", "-x"])
def test_a_mesh_points_up_as_splats_do(tmp_path, coarse_views, up):
    write_splats(tmp_path / "in.ply", make_cloud(400))
    ExportSplats(
        tmp_path / "in.ply", mesh=tmp_path / "a.ply", out=tmp_path / "splats.ply", faces=1000, texture_size=64, up=up
    ).run()
    mesh, cloud = opened(tmp_path / "a.ply"), read_splats(tmp_path / "splats.ply")
    low, high = cloud.means.amin(dim=0).numpy(), cloud.means.amax(dim=0).numpy()
    assert mesh.vertices.min(axis=0) == pytest.approx(low, abs=0.12)
    assert mesh.vertices.max(axis=0) == pytest.approx(high, abs=0.12)
    assert mesh.colors is not None, "red in front, blue behind, a green knob on top"
    nearest = torch.cdist(torch.from_numpy(mesh.vertices).float(), cloud.means).argmin(dim=1)
    assert np.median(np.abs(cloud.base_colors[nearest].numpy() - mesh.colors)) < 0.1


def test_a_mesh_can_lie_where_the_input_lay(tmp_path, coarse_views):
    path = tmp_path / "input.ply"
    write_splats(path, replace(make_cloud(300, 1), origin=(5e5, 4.1e6, 120.0)), up="-x")
    run = make_run(tmp_path / "run", path, front=30.0)
    cloud, up = read_splats(path), np.array([5e5, 4.1e6, 120.0])
    for source in (path, run):
        ExportSplats(source, mesh=tmp_path / "out.obj", faces=1000, texture_size=64, frame="input").run()
        offset = opened(tmp_path / "out.obj").vertices - up
        assert offset.mean(axis=0) == pytest.approx(cloud.means.mean(dim=0).numpy() + cloud.origin - up, abs=0.05)
        assert np.ptp(offset, axis=0) == pytest.approx(np.ptp(cloud.means.numpy(), axis=0), abs=0.1)
    (run / "dataparser_transforms.json").unlink()
    with pytest.raises(InputError, match="does not say where its scene lay"):
        ExportSplats(run, mesh=tmp_path / "b.obj", frame="input").run()


def test_only_the_object_of_a_scene_with_surroundings_is_made(tmp_path, coarse_views):
    """A shell around it hides the object from all cameras."""
    near, far = make_cloud(500), make_cloud(500, seed=1)
    shell = torch.nn.functional.normalize(far.means, dim=1) * 1.4
    far = replace(far, means=shell, scales=torch.full_like(shell, -1.5))
    both = replace(near, **{name: torch.cat([value, far.tensors()[name]]) for name, value in near.tensors().items()})
    path = tmp_path / "run"
    (path / "nerfstudio_models").mkdir(parents=True)
    (path / "config.yml").write_text("method_name: invert3d\n")
    state = {f"_model.gauss_params.{name}": value for name, value in both.tensors().items()}
    torch.save({"step": 0, "pipeline": state}, path / "nerfstudio_models" / "step-000000000.ckpt")
    ExportSplats(path, mesh=tmp_path / "a.ply", faces=1000, texture_size=64, up="z").run()
    assert np.ptp(opened(tmp_path / "a.ply").vertices, axis=0) == pytest.approx([0.4, 0.8, 0.4], abs=0.2)


def test_bad_requests_are_refused_before_any_work(tmp_path, coarse_views):
    write_splats(tmp_path / "in.ply", make_cloud(50))
    (tmp_path / "a.mtl").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for made, says in {
        "a.stl": r"a\.stl does not end in \.glb, \.obj or \.ply; give --mesh",
        "mesh": r"mesh does not end in \.glb",
        "a.obj": r"a\.mtl is a folder; give --mesh",
        "file/a.glb": "file is a file, so nothing can be written",
    }.items():
        with pytest.raises(InputError, match=says):
            ExportSplats(tmp_path / "in.ply", mesh=tmp_path / made).run()
    options: dict[str, Any]
    for options, says in (
        ({"faces": 999}, "--faces is 999; give 1000 to 500000"),
        ({"texture_size": 4097}, "--texture-size is 4097; give 64 to 4096"),
    ):
        with pytest.raises(InputError, match=says):
            run_command(ExportSplats(tmp_path / "in.ply", mesh=tmp_path / "b.glb", **options))
    with pytest.raises(InputError, match=r"--out and --mesh are both .*b\.ply"):
        ExportSplats(tmp_path / "in.ply", out=tmp_path / "b.ply", mesh=tmp_path / "b.ply").run()
    with pytest.raises(InputError, match=r"b\.glb does not end in .*; give --mesh .*b\.glb for a mesh"):
        ExportSplats(tmp_path / "in.ply", out=tmp_path / "b.glb").run()
    faint = make_cloud(50)
    write_splats(tmp_path / "in.ply", replace(faint, opacities=torch.full_like(faint.opacities, -1.5)))
    with pytest.raises(InputError, match="no surface is seen"):
        ExportSplats(tmp_path / "in.ply", mesh=tmp_path / "b.glb").run()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_placement_of_what_is_read_leads_back(tmp_path):
    path = tmp_path / "in.ply"
    write_splats(path, replace(make_cloud(60), origin=(5e5, 4.1e6, 120.0)), up="x")
    cloud, placement = read_object_and_placement(path)
    back = cloud.means.double() @ placement.inverse[:3, :3].T + placement.inverse[:3, 3]
    input_cloud = read_splats(path)
    there = input_cloud.means.double() + torch.tensor(input_cloud.origin, dtype=torch.float64)
    assert (back - there).abs().max() < 1e-5
