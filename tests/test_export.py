from __future__ import annotations

import json

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.scenes.assets import SceneDataParserConfig, read_object
from invert3d_ns.scenes.normalization import to_object_frame
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
    with pytest.raises(InputError, match=r"\.ply"):
        ExportSplats(folder, out=tmp_path / "a.obj").run()
    with pytest.raises(InputError, match="does not exist"):
        ExportSplats(tmp_path / "none", out=tmp_path / "a.ply").run()
    with pytest.raises(InputError, match="no checkpoint"):
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
