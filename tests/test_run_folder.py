"""Where runs lie: folders are claimed, names stay within, and a run that was moved is the same run from anywhere."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import STEPS, resume, tiny_config, train
from synthetic import make_cloud

from invert3d_ns import compat
from invert3d_ns.base.errors import InputError
from invert3d_ns.configs import invert3d
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.runs.run_folder import FolderLock, RunConfigFile, claim_folder
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_v_prior) -> Path:
    """A prior and a scene. Read-only."""
    folder = tmp_path_factory.mktemp("place")
    save_prior(tiny_v_prior, folder / "prior", dtype=torch.float32)
    write_splats(folder / "ball.ply", make_cloud(100))
    return folder


@pytest.fixture(scope="module")
def started(place, tmp_path_factory) -> tuple[Path, Path]:
    """A run that was started with relative paths, stopped, moved with a copy of a checkpoint in it; and its old place.
    Read-only.
    """
    home, new = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("new [place]")
    shutil.copytree(place, home, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        old = train(tiny_config(Path("ball.ply"), Path("prior"), Path("outputs"), max_num_iterations=STEPS - 2))
        old = old.absolute()
    shutil.move(old, new / "renamed")
    (checkpoint,) = (new / "renamed" / "nerfstudio_models").iterdir()
    shutil.copy(checkpoint, checkpoint.with_name(f"{checkpoint.stem} (1).ckpt"))
    return new / "renamed", old


def words(folder: Path) -> torch.Tensor:
    return ObjectEmbedding.load(folder / "embedding.safetensors").vectors


def test_a_moved_run_goes_on_where_it_lies_from_any_folder(place, started, tmp_path, monkeypatch):
    moved, old = started
    run = tmp_path / "run"
    shutil.copytree(moved, run)
    monkeypatch.chdir(tmp_path)
    assert resume(Path("run")) == run and not old.exists()
    unbroken = train(tiny_config(place / "ball.ply", place / "prior", tmp_path / "outputs"))
    assert torch.equal(words(run), words(unbroken))
    assert resume(run / "config.yml") == run, "what was written meanwhile says nothing of the old place either"


def test_nerfstudios_commands_find_a_moved_run_by_its_file_or_folder(started, tmp_path, monkeypatch):
    from nerfstudio.configs.method_configs import all_methods

    # Not from a module that was imported before the plugin was.
    from nerfstudio.utils.eval_utils import eval_setup

    moved, old = started
    monkeypatch.setitem(all_methods, "invert3d", invert3d.config)
    monkeypatch.chdir(tmp_path)
    for path in (moved, moved / "config.yml"):
        old.mkdir(parents=True)  # a folder of the old name proves nothing
        config, pipeline, checkpoint, step = eval_setup(path, test_mode="inference")
        old.rmdir()
        assert pipeline.output_folder == moved
        assert config.get_base_dir() == moved and checkpoint.parent == moved / "nerfstudio_models"
        assert step == STEPS - 3 and not old.exists()


def test_a_scene_that_is_gone_is_named_and_may_be_named_anew(started, place, tmp_path):
    moved, old = started
    run, scene = tmp_path / "run", tmp_path / "elsewhere.ply"
    shutil.copytree(moved, run)
    home = old.parents[3]
    (home / "ball.ply").rename(home / "gone.ply")
    try:
        with pytest.raises(InputError, match=r"ball\.ply, the scene of this run, is not there.*--data"):
            resume(run)
        shutil.copy(place / "ball.ply", scene)
        resume(run, data=scene)
    finally:
        (home / "gone.ply").rename(home / "ball.ply")
    assert "elsewhere.ply" in (run / "config.yml").read_text() and (run / "embedding.safetensors").is_file()


def test_a_scene_may_be_named_anew_by_either_flag(started, tmp_path):
    config: Any = copy.deepcopy(invert3d.config)
    config.load_config, config.pipeline.datamanager.data = started[0], tmp_path / "elsewhere.ply"
    known = yaml.load(config.load_config.read_text(), Loader=yaml.Loader)
    assert known._data == str(tmp_path / "elsewhere.ply")


def test_a_run_of_a_gpu_that_goes_on_without_one_is_still_of_a_gpu(started, tmp_path, monkeypatch, capfd):
    run = tmp_path / "run"
    shutil.copytree(started[0], run)
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(text.replace("device_type: cpu", "device_type: cuda"))
    monkeypatch.setattr(compat, "device_type", lambda: "cpu")
    resume(run)
    assert "going on with the CPU" in capfd.readouterr().out
    assert yaml.load((run / "config.yml").read_text(), Loader=yaml.Loader).machine.device_type == "cuda"


@pytest.mark.parametrize("end", [SystemExit(143), KeyboardInterrupt(), InputError("no")])
def test_a_run_that_ends_while_it_is_set_up_leaves_no_folder(place, tmp_path, monkeypatch, end):
    config = tiny_config(place / "ball.ply", place / "prior", tmp_path / "o", timestamp="{timestamp}")

    def prepare(*given):
        raise end

    monkeypatch.setattr("invert3d_ns.methods.invert3d.InversionPipeline.prepare", prepare)
    with pytest.raises((SystemExit, InputError)):
        train(config)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../up", "/tmp/absolute", "", " ", "..", "a/b", "a\\b", "a\nb"])
@pytest.mark.parametrize("field", ["experiment_name", "method_name", "timestamp"])
def test_names_that_lead_out_of_the_output_folder_are_refused(place, tmp_path, field, name):
    config = tiny_config(place / "ball.ply", place / "prior", tmp_path / "o" / "p", **{field: name})
    with pytest.raises(InputError, match=rf"--{field.replace('_', '-')} is .* without slashes"):
        train(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["relative_model_dir", "logging__relative_log_dir"])
def test_paths_within_a_run_stay_within_it(place, tmp_path, field):
    config = tiny_config(place / "ball.ply", place / "prior", tmp_path)
    owner, _, name = field.rpartition("__")
    setattr(config.logging if owner else config, name, Path("../../x"))
    with pytest.raises(InputError, match="leads out of the run's folder"):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_run_cannot_lead_away_either(started, tmp_path):
    """A hostile config.yml: wherever it says that it lies, the run is where the file is."""
    run = tmp_path / "run"
    shutil.copytree(started[0], run)
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(text.replace("experiment_name: ball", "experiment_name: ../../../escaped"))
    assert resume(run) == run
    assert not [path for path in tmp_path.parent.rglob("escaped")]


def test_two_runs_of_one_second_have_folders_of_their_own(place, tmp_path, monkeypatch):
    from nerfstudio.configs import experiment_config

    class Stopped(experiment_config.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(experiment_config, "datetime", Stopped)
    options = {"timestamp": "{timestamp}", "max_num_iterations": 1}
    folders = [train(tiny_config(place / "ball.ply", place / "prior", tmp_path, **options)) for _ in range(2)]
    assert [folder.name for folder in folders] == ["2026-01-02_030405", "2026-01-02_030405-2"]
    assert all((folder / "nerfstudio_models").is_dir() for folder in folders)


def test_a_folder_is_claimed_by_one_process_only(tmp_path):
    code = "import sys; from pathlib import Path; from invert3d_ns.runs.run_folder import claim_folder\n"
    code += "print('ready', flush=True); input(); print(claim_folder(Path(sys.argv[1]), 'run'))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "o")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    names = [child.communicate("\n", timeout=60)[0].strip() for child in children]
    assert sorted(names) == ["run", "run-2"] and claim_folder(tmp_path / "o", "run") == "run-3"


def test_a_run_that_is_at_work_is_left_alone(started, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(started[0], run)
    before = {path.name for path in run.iterdir()}
    lock = FolderLock(run)
    with pytest.raises(InputError, match="another process is at work on"):
        resume(run)
    assert {path.name for path in run.iterdir()} == before
    lock.release()
    resume(run)
    FolderLock(run)


def test_an_output_folder_that_cannot_be_one_is_one_line_before_any_work(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for timestamp in ("{timestamp}", "run"):
        config = tiny_config(place / "ball.ply", place / "prior", tmp_path / "file", timestamp=timestamp)
        monkeypatch.setattr(type(config.pipeline), "setup", lambda *_, **__: pytest.fail("work began"))
        with pytest.raises(InputError, match=r"cannot write a run into .*--output-dir") as caught:
            train(config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*nowhere.*No such file"),
        ("{", r"no config.yml of a run that this version can read"),
        ("a: 1", "holds no settings of a run"),
        ("!!python/object:invert3d_ns.runs.trainer.Nothing {}", "no config.yml of a run that this version can read"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, content, message):
    path = tmp_path / ("nowhere" if content is None else "config.yml")
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        RunConfigFile(path).read_text()
    assert "\n" not in str(caught.value)


def test_settings_of_other_methods_are_read_as_they_are(tmp_path):
    from nerfstudio.engine.trainer import TrainerConfig

    (tmp_path / "config.yml").write_text(text := yaml.dump(TrainerConfig(method_name="other")))
    assert RunConfigFile(tmp_path).read_text() == text


def test_settings_beside_load_config_are_left_aside_aloud(started, tmp_path, monkeypatch, capfd):
    from nerfstudio.configs.method_configs import all_methods

    monkeypatch.setitem(all_methods, "invert3d", invert3d.config)
    config: Any = copy.deepcopy(invert3d.config)
    config.load_config, config.max_num_iterations, config.pipeline.vectors = started[0], 7, 5
    config.pipeline.edit_options.edit = Edit(noun="red car", region=Region(relevance="wheels"))
    config.prompt = config.pipeline.model.prompt = "blue"  # as nerfstudio does
    assert config.load_config.read_text()
    said = capfd.readouterr().out
    edit = "--pipeline.edit.noun, --pipeline.edit.relevance"
    assert f"left aside: --pipeline.vectors, {edit}, --prompt, --max-num-iterations." in said


def test_files_remember_no_current_folder(started):
    text = (started[0] / "config.yml").read_text()
    config = yaml.load(text, Loader=yaml.Loader)
    home = started[1].parents[3]
    assert config.output_dir == home / "outputs" and config.pipeline.prior == str(home / "prior")
    assert config.data == config.pipeline.datamanager.data == home / "ball.ply"
    assert config.relative_model_dir == Path("nerfstudio_models")
    assert "_folder" not in text and json.dumps(str(started[0])) not in text
