"""What is neither splats nor a run nor posed images is refused by the name of what it is, wherever a scene is taken."""

from __future__ import annotations

import gzip
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from splat_tables import save, splat_table
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.editing.sources import read_scene
from invert3d_ns.scenes.assets import SceneDataParserConfig, read_object
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.splat_files import write_splat_file


def as_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.obj", "v 0 0 0")


def as_points(path):
    points = np.zeros(3, dtype=[(name, "f4") for name in ("x", "y", "z")])
    save(path, points)


def renamed(ending):
    def write(path):
        made = path.with_name(f"made{ending}")
        write_splat_file(made, make_cloud(20))
        shutil.move(made, path)

    return write


FILES = {
    "cat.obj": (lambda path: path.write_text("v 0 0 0\n"), "has no faces", "export the mesh again"),
    "cat.glb": (lambda path: path.write_bytes(b"glTF\2\0\0\0"), "cannot be read as a mesh", "copy or export it again"),
    "cat.usdz": (as_zip, "is a mesh, not splats", r"export it as \.glb"),
    "mesh.txt": (lambda path: path.write_text("v 0.0 1.0 0.5\n"), "is an OBJ mesh", r"rename it to end as what it is"),
    "cat.LAZ": (lambda path: path.write_bytes(b"LASF" + bytes(90)), "is a point cloud", "trained from it"),
    "cat.xyz": (lambda path: path.write_text("0 0 0\n1 1 1\n"), "is a point cloud", "trained from it"),
    "cat.png": (lambda path: Image.new("RGB", (2, 2)).save(path), "is a picture", "invert3d image"),
    "cat.mp4": (lambda path: path.write_bytes(b"\0\0\0\x20ftypisom"), "is a video", "ns-process-data video"),
    "cat.zip": (as_zip, "is an archive", "unpack it"),
    "cat.pt": (lambda path: torch.save({}, path), "is a checkpoint", "give the folder of the run"),
    "cameras.json": (lambda path: path.write_text("{}"), "is a list of cameras", "give the folder"),
    "cat.dat": (lambda path: path.write_bytes(bytes(9)), "neither a splat file nor a run", r"splats as \.ply"),
    "cat": (lambda path: path.write_text("hello"), "but a text file", r"splats as \.ply"),
    "cat.txt": (lambda path: write_splats(path, make_cloud(9)), r"is a \.ply of Gaussian splats", "rename it"),
    "cat.zip ": (renamed(".sog"), r"is splats in a \.sog file", "rename it"),
    "points.ply": (as_points, "is a point cloud, without the splat properties", "trained from it"),
    "page.ply": (lambda path: path.write_text("<!doctype html>"), r"but a web page \(HTML\)", "not the page about it"),
    "lfs.ply": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "LFS", "git lfs pull"),
    "lfs.bin": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "LFS", "git lfs pull"),
    "spz.ply": (renamed(".spz"), r"splats in an \.spz file", "rename it"),
    "ply.spz": (renamed(".ply"), r"not a \.spz file but a \.ply of Gaussian splats", "rename it"),
    "packed.spz": (lambda path: path.write_bytes(gzip.compress(b"hello")), "a file packed with gzip", "export"),
    "zip.sog": (as_zip, "a zip archive", "export"),
    "text.splat": (lambda path: path.write_text("hello" * 32), "a text file", "export"),
    "none.ply": (lambda path: None, "does not exist", "give a splat file"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_named_with_what_to_do(tmp_path, name):
    write, what, advice = FILES[name]
    path = tmp_path / name
    write(path)
    before = sorted(tmp_path.iterdir())
    uses = [
        lambda: SceneDataParserConfig(data=path).setup().get_dataparser_outputs("train"),
        lambda: read_object(path),
        lambda: read_scene(path),
        ExportSplats(path, out=tmp_path / "out.ply").run,
        ExportSplats(path, posed_images=tmp_path / "out", frame="input").run,
    ]
    for use in uses:
        with pytest.raises(InputError, match=f"{what}.*; .*{advice}") as caught:
            use()
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_scene_is_parsed_once_for_all_its_splits(tmp_path, monkeypatch):
    from invert3d_ns.scenes import ply

    save(tmp_path / "a.ply", splat_table(tmp_path), text=True)
    calls = []
    read = ply.read_columns
    monkeypatch.setattr(ply, "read_columns", lambda *given: calls.append(given) or read(*given))
    parser = SceneDataParserConfig(data=tmp_path / "a.ply", num_train_views=2, num_eval_views=1).setup()
    clouds = [parser.get_dataparser_outputs(split).metadata["splats"] for split in ("train", "val", "test")]
    assert len(calls) == 1 and len(clouds[0]) == 200
