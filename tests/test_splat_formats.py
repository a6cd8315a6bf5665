from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr
from invert3d_ns.scenes.assets import DEMO_SCENE, SceneDataParserConfig, read_object, scene_name
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.scenes.rendering import render_orbit
from invert3d_ns.scenes.splat_files import (
    ENDINGS,
    check_ending,
    read_splat_file,
    splat_stem,
    write_splat_file,
)
from invert3d_ns.scenes.splat_formats import CONVERTED, left_out


def views(cloud):
    return render_orbit(cloud, torch.tensor([20.0, 200.0]), torch.tensor([15.0, -10.0]), 64)


@pytest.fixture(scope="module")
def demo():
    return read_object(DEMO_SCENE)[0]


@pytest.fixture(scope="module")
def shiny():
    """Splats of every size whose colors change with the direction, to be drawn anti-aliased."""
    cloud = to_object_frame(make_cloud(300, 3, seed=1))[0]
    return replace(cloud, features_rest=2 * cloud.features_rest, rasterize_mode="antialiased")


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_brings_the_demo_back(tmp_path, demo, ending):
    path = tmp_path / f"cat v1.0{ending}"
    write_splat_file(path, demo, "y")
    again, up = read_splat_file(path)
    assert len(again) == len(demo) and again.sh_degree == 0
    assert psnr(views(again), views(demo)) > 50
    assert up == ("y" if ending in (".ply", ".compressed.ply", ".spz") else None)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert splat_stem(path) == scene_name(path) == "cat v1.0"


@pytest.mark.parametrize(
    ("ending", "least"), [(".compressed.ply", 44), (".spz", 33), (".splat", 20), (".ksplat", 50), (".sog", 50)]
)
def test_harmonics_and_the_way_of_drawing_come_back_or_their_loss_is_said(tmp_path, shiny, ending, least):
    path = tmp_path / f"a{ending}"
    write_splat_file(path, shiny, "z")
    again, up = read_splat_file(path)
    assert again.sh_degree == (0 if ending == ".splat" else 3)
    assert psnr(views(replace(again, rasterize_mode="antialiased")), views(shiny)) > least
    missing = left_out(shiny, ending, "z")
    assert ("that they are to be drawn anti-aliased" in missing) == (again.rasterize_mode == "classic")
    assert ("how colors change with the direction" in missing) == (again.sh_degree == 0)
    assert ("that z points up (y is assumed)" in missing) == (up != "z")
    assert not left_out(replace(shiny, rasterize_mode="classic"), ".ply", "z")


def test_one_splat_goes_through_every_format(tmp_path):
    one = to_object_frame(make_cloud(1))[0]
    for ending in ENDINGS:
        write_splat_file(tmp_path / f"a{ending}", one)
        again = read_splat_file(tmp_path / f"a{ending}")[0]
        assert len(again) == 1 and torch.allclose(again.scales, one.scales, atol=0.04)


def test_a_compressed_ply_is_told_by_its_content(tmp_path, demo):
    write_splat_file(tmp_path / "a.compressed.ply", demo, "-z")
    shutil.move(tmp_path / "a.compressed.ply", tmp_path / "a.ply")
    again, up = read_splat_file(tmp_path / "a.ply")
    assert up == "-z" and len(again) == len(demo)
    write_splat_file(tmp_path / "plain.ply", demo)
    shutil.move(tmp_path / "plain.ply", tmp_path / "plain.compressed.ply")
    assert torch.equal(read_splat_file(tmp_path / "plain.compressed.ply")[0].means, demo.means)
    with pytest.raises(InputError, match=r"is a compressed splat \.ply"):
        read_splats(tmp_path / "a.ply")


def test_a_scene_may_be_any_splat_file_in_any_case(tmp_path, demo):
    write_splat_file(tmp_path / "cat.spz", demo)
    path = tmp_path / "CAT.SPZ"
    shutil.move(tmp_path / "cat.spz", path)
    outputs = SceneDataParserConfig(data=path).setup().get_dataparser_outputs("train")
    assert len(outputs.metadata["splats"]) == len(demo)
    assert str(outputs.image_filenames[0].parent) == "CAT"


@pytest.mark.parametrize("ending", CONVERTED)
@pytest.mark.parametrize("damage", ["cut", "scrambled", "empty", "page"])
def test_damaged_files_are_refused_in_one_line(tmp_path, shiny, ending, damage):
    path = tmp_path / f"a{ending}"
    write_splat_file(path, shiny)
    whole = path.read_bytes()
    if damage == "scrambled":
        content = whole[:40] + bytes(range(256)) * 20
    else:
        content = {"cut": whole[: len(whole) // 2 + 1], "empty": b"", "page": b"<!doctype html><p>gone"}[damage]
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_splat_file(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and ";" in message and "/tmp/tmp" not in message


def test_what_the_converter_cannot_survive_ends_its_own_process_only(tmp_path, monkeypatch):
    path = tmp_path / "a.spz"
    header = b"NGSP" + (3).to_bytes(4, "little") + (100_000).to_bytes(4, "little") + bytes([3, 12, 0, 0])
    path.write_bytes(gzip.compress(header))
    with pytest.raises(InputError, match="is damaged"):
        read_splat_file(path)
    path = tmp_path / "a.ksplat"  # degree 65535, with which GaussForge 0.6 looks up a table of four, then works on
    monkeypatch.setattr("invert3d_ns.scenes.splat_formats._PATIENCE", 0.5)
    path.write_bytes(bytes([0, 1, 0, 0, 1, 0, 0, 0]) + b"\1\0\0\0" * 1022 + b"\xff" * 1200)
    with pytest.raises(InputError, match="is damaged"):
        read_splat_file(path)


def test_the_converter_finds_what_is_found_here(tmp_path, monkeypatch):
    """Also a package in the current folder; what it cannot import is not the file's fault."""
    (tmp_path / "a.splat").write_bytes(bytes(32))
    jobs = []

    def run(command, **_):
        jobs.append(json.loads(command[-1]))
        return subprocess.CompletedProcess(
            command, 1, b"", b"Traceback:\nModuleNotFoundError: No module named 'numpy'\n"
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "made", *sys.path])
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InputError, match=r"cannot be run \(ModuleNotFoundError: No module named 'numpy'\); install"):
        read_splat_file(tmp_path / "a.splat")
    assert jobs[0][-1][:2] == [str(tmp_path), str(tmp_path / "made")]


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, demo, monkeypatch):
    monkeypatch.setattr("invert3d_ns.scenes.splat_formats._convert", lambda *_: False)
    with pytest.raises(InputError, match=r"cannot be written as \.sog"):
        write_splat_file(tmp_path / "a.sog", demo)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"does not end in \.ply, \.compressed\.ply, \.spz"):
        check_ending(tmp_path / "a.glb")


def test_numbers_that_look_like_another_file_by_chance_are_splats_still(tmp_path, demo):
    path = tmp_path / "a.splat"
    write_splat_file(path, demo)
    content = path.read_bytes()
    for start in (b"\x80\x02", b"\x1f\x8b", b"BM"):
        path.write_bytes(start + content[2:])
        assert len(read_splat_file(path)[0]) == len(demo)
