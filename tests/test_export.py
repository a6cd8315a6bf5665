from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from splat_tables import read_table
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.scenes.assets import SceneDataParserConfig, read_object
from invert3d_ns.scenes.normalization import from_object_frame, to_object_frame
from invert3d_ns.scenes.ply import declared_up_axis, read_splats, write_splats
from invert3d_ns.scenes.runs import read_run
from invert3d_ns.scenes.splats import ObjectSplatModelConfig


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder with the checkpoint of a model that started from splats."""
    cloud = to_object_frame(make_cloud(150))[0]
    model = ObjectSplatModelConfig().setup(scene_box=None, num_train_data=3, metadata={"splats": cloud})
    (tmp_path / "run" / "nerfstudio_models").mkdir(parents=True)
    state = {f"_model.{name}": value for name, value in model.state_dict().items()}
    for step, shift in ((3, 1.0), (12, 0.0)):
        state["_model.gauss_params.means"] = model.means.detach() + shift
        torch.save({"step": step, "pipeline": state}, tmp_path / "run" / "nerfstudio_models" / f"step-{step:09d}.ckpt")
    (tmp_path / "run" / "config.yml").write_text("")
    return tmp_path / "run", cloud


@pytest.mark.parametrize("up", ["y", "z", "-x"])
def test_an_exported_run_reads_back_as_it_was(run_folder, tmp_path, up, capsys):
    folder, cloud = run_folder
    assert ExportSplats(folder / "config.yml", out=tmp_path / "a.ply", up=up).run() == 0
    assert "150 splats" in capsys.readouterr().out
    assert declared_up_axis(tmp_path / "a.ply") == up
    again, _ = read_object(tmp_path / "a.ply")
    assert again.sh_degree == cloud.sh_degree == 0
    assert torch.allclose(again.means, cloud.means, atol=1e-4)
    assert torch.allclose(again.scales, cloud.scales, atol=1e-3)


def test_posed_images_of_a_ply(tmp_path):
    write_splats(tmp_path / "a.ply", make_cloud(100))
    ExportSplats(tmp_path / "a.ply", posed_images=tmp_path / "scene", count=5, size=32).run()
    frames = json.loads((tmp_path / "scene" / "transforms.json").read_text())["frames"]
    assert len(frames) == 5 == len(list((tmp_path / "scene" / "images").iterdir()))
    outputs = SceneDataParserConfig(data=tmp_path / "scene").setup().get_dataparser_outputs("train")
    assert outputs.metadata["has_alpha"]


def test_a_ply_without_a_declared_axis_is_y_up(tmp_path):
    write_splats(tmp_path / "a.ply", make_cloud(100))
    assert declared_up_axis(tmp_path / "a.ply") is None
    expected, _ = to_object_frame(read_splats(tmp_path / "a.ply"), up="y")
    assert torch.equal(read_object(tmp_path / "a.ply")[0].means, expected.means)


def test_bad_requests_are_refused_and_leave_nothing(run_folder, tmp_path):
    folder, _ = run_folder
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="nothing to write"):
        ExportSplats(folder).run()
    with pytest.raises(InputError, match=r"a\.obj does not end in \.ply, \.compressed\.ply, \.spz"):
        ExportSplats(folder, out=tmp_path / "a.obj").run()
    with pytest.raises(InputError, match="exists already"):
        ExportSplats(folder, out=tmp_path / "a.ply", posed_images=folder).run()
    with pytest.raises(InputError, match="does not exist"):
        ExportSplats(tmp_path / "none", out=tmp_path / "a.ply").run()
    with pytest.raises(InputError, match="holds neither a run nor splats"):
        ExportSplats(tmp_path, out=tmp_path / "a.ply").run()
    with pytest.raises(InputError, match="--count is 0; give 1 to 10000"):
        run_command(ExportSplats(folder, posed_images=tmp_path / "b", count=0))
    assert sorted(tmp_path.rglob("*")) == before
    last = max((folder / "nerfstudio_models").iterdir())
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        read_run(folder)
    torch.save({"pipeline": {"_model.field.weight": torch.zeros(1)}}, last)
    with pytest.raises(InputError, match="not a run of a splatting method"):
        read_run(folder)


@pytest.mark.parametrize("name", ["a.spz", "A.Compressed.PLY", "b 1.sog", "a.splat", "a.ksplat"])
def test_runs_and_files_go_to_other_viewers_and_come_back(run_folder, tmp_path, capsys, name):
    folder, cloud = run_folder
    ExportSplats(folder, out=tmp_path / name).run()
    shown = capsys.readouterr()
    assert shown.out == f"150 splats: {tmp_path / name}\n" and not shown.err
    ExportSplats(tmp_path / name, out=tmp_path / "back.ply").run()
    again = read_object(tmp_path / "back.ply")[0]
    assert len(again) == 150 and (torch.cdist(again.means, cloud.means).amin(dim=1)).max() < 0.01
    ExportSplats(folder, out=tmp_path / name, up="x").run()
    said = capsys.readouterr().err
    assert ("cannot say that x points up (y is assumed)" in said) == (not name.lower().endswith(".ply"))


def test_what_is_exported_is_what_training_takes(run_folder, tmp_path):
    _, cloud = run_folder
    (tmp_path / "one").mkdir()
    write_splats(tmp_path / "one" / "cat.ply", from_object_frame(cloud, "y"))
    (tmp_path / "one" / "notes.txt").write_text("")
    (tmp_path / "one" / "._cat.ply").write_text("what macOS leaves")
    ExportSplats(tmp_path / "one", out=tmp_path / "a.ply").run()
    assert len(read_splats(tmp_path / "a.ply")) == 150
    ExportSplats(tmp_path / "one", posed_images=tmp_path / "posed", count=2, size=16).run()
    with pytest.raises(InputError, match="holds posed images and no splats; fit splats"):
        ExportSplats(tmp_path / "posed", out=tmp_path / "b.ply").run()
    write_splats(tmp_path / "one" / "dog.ply", cloud)
    for use in (ExportSplats(tmp_path / "one", out=tmp_path / "b.ply").run, lambda: parse(tmp_path / "one")):
        with pytest.raises(
            InputError, match=r"has 2 files of splats or meshes \(cat\.ply, dog\.ply\) and no cameras; give one"
        ):
            use()
    assert not (tmp_path / "b.ply").exists()


@pytest.mark.parametrize("far", [False, True])
def test_an_export_can_lie_where_the_input_lay(tmp_path, far):
    """Through a run, and through an edit of that run."""
    shift = (5e5, 4.1e6, 120.0) if far else (3.0, -2.0, 0.5)
    path = tmp_path / "input.ply"
    write_splats(path, replace(make_cloud(100, 1), origin=shift), up="-x")
    run = make_run(tmp_path / "run", path, front=30.0)
    edit = make_run(tmp_path / "edit", run)
    truth = read_table(path)
    for source in (path, tmp_path / "run" / "config.yml", edit):
        ExportSplats(source, out=tmp_path / "out.ply", frame="input", up="z").run()
        table = read_table(tmp_path / "out.ply")
        for axis in "xyz":
            assert np.abs(table[axis] - truth[axis]).max() < 1e-5
        for name in ("scale_0", "f_rest_4", "opacity"):
            assert np.abs(table[name] - truth[name]).max() < 1e-4
        assert declared_up_axis(tmp_path / "out.ply") == "-x"
    if far:
        with pytest.raises(InputError, match=r"which need 64 bits; write a \.ply"):
            ExportSplats(edit, out=tmp_path / "out.spz", frame="input").run()
    (edit / "dataparser_transforms.json").unlink()
    with pytest.raises(InputError, match="does not say where its scene lay"):
        ExportSplats(edit, out=tmp_path / "b.ply", frame="input").run()
    assert not (tmp_path / "b.ply").exists()


def make_run(folder, data, **options):
    """A run that did nothing to its scene."""
    outputs = parse(data, **options)
    (folder / "nerfstudio_models").mkdir(parents=True)
    (folder / "config.yml").write_text("")
    outputs.save_dataparser_transform(folder / "dataparser_transforms.json")
    model = ObjectSplatModelConfig().setup(scene_box=None, num_train_data=3, metadata=outputs.metadata)
    state = {f"_model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"step": 0, "pipeline": state}, folder / "nerfstudio_models" / "step-000000000.ckpt")
    return folder


def parse(data, **options):
    return SceneDataParserConfig(data=data, num_train_views=2, **options).setup().get_dataparser_outputs("train")
