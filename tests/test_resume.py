from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import SPLAT_STEPS, STEPS, go_on, tiny_config, train, train_and_die
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.posed_images import write_posed_images
from invert3d_ns.scenes.runs import read_run
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior):
    folder = tmp_path_factory.mktemp("material")
    save_prior(tiny_v_prior, folder / "prior", dtype=torch.float32)
    write_posed_images(to_object_frame(make_cloud(200))[0], folder / "posed", count=8, size=32)
    return folder


@pytest.fixture(scope="module")
def unbroken(material, tmp_path_factory) -> Path:
    return train(config(material, tmp_path_factory.mktemp("unbroken")))


def config(material, output_dir, **options):
    return tiny_config(material / "posed", material / "prior", output_dir, **options)


def words(folder: Path) -> torch.Tensor:
    return ObjectEmbedding.load(folder / "embedding.safetensors").vectors


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "nerfstudio_models").iterdir())


DEATHS = {
    "while fitting splats": ({"die_after_step": 3}, 2),
    "while learning words": ({"die_after_step": SPLAT_STEPS + 3}, SPLAT_STEPS + 2),
    "while saving": ({"die_saving_step": SPLAT_STEPS + 1}, SPLAT_STEPS),
}
"""How a run dies, and the step that was saved last before."""


@pytest.fixture(scope="module")
def killed(material, tmp_path_factory) -> dict[str, Path]:
    """The folders of runs that were killed with signal 9."""
    outputs = {name: tmp_path_factory.mktemp("killed") for name in DEATHS}
    common = {"data": material / "posed", "prior": material / "prior", "steps_per_save": 1}
    train_and_die(*({**common, "output_dir": outputs[name], **death} for name, (death, _) in DEATHS.items()))
    return {name: output / "posed" / "invert3d" / "run" for name, output in outputs.items()}


@pytest.mark.parametrize("name", DEATHS)
def test_a_killed_run_goes_on_to_the_very_same_words(killed, unbroken, name):
    folder, saved = killed[name], DEATHS[name][1]
    assert checkpoints(folder) == [f"step-{saved:09d}.ckpt"]
    assert not (folder / "embedding.safetensors").exists()

    assert go_on(folder) == folder
    assert torch.equal(words(folder), words(unbroken))
    assert checkpoints(folder) == [f"step-{SPLAT_STEPS + STEPS - 1:09d}.ckpt"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".step")]
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (folder, unbroken))
    assert first["heldout_loss"] == second["heldout_loss"] and first["psnr"] == second["psnr"]


@pytest.mark.parametrize("stop", [4, SPLAT_STEPS, SPLAT_STEPS + 2])
def test_load_dir_ends_at_the_same_step_as_an_unbroken_run(material, unbroken, tmp_path, stop):
    first = train(config(material, tmp_path / "first", max_num_iterations=stop))
    assert not (first / "embedding.safetensors").exists()
    second = train(config(material, tmp_path / "second", load_dir=first / "nerfstudio_models"))
    assert checkpoints(second) == [f"step-{SPLAT_STEPS + STEPS - 1:09d}.ckpt"]
    assert torch.equal(words(second), words(unbroken))


def test_a_finished_run_only_writes_its_outputs_again(material, unbroken, tmp_path):
    folder = train(config(material, tmp_path))
    before = checkpoints(folder), words(folder)
    (folder / "views.png").unlink()
    go_on(folder)
    assert (folder / "views.png").exists()
    assert checkpoints(folder) == before[0] and torch.equal(words(folder), before[1])


def test_ctrl_c_saves_and_names_the_command_that_goes_on(material, unbroken, tmp_path, monkeypatch, capfd):
    import os
    import signal

    from invert3d_ns.runs import trainer as module

    observe = module.PhasedTrainer._observe

    def interrupt(self, step):
        observe(self, step)
        if step == SPLAT_STEPS + 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(module.PhasedTrainer, "_observe", interrupt)
        train(config(material, tmp_path))
    assert exit_.value.code == 130
    (folder,) = tmp_path.glob("posed/invert3d/run")
    assert f"ns-train invert3d --load-config {folder / 'config.yml'}" in capfd.readouterr().out.replace("\n", "")
    assert checkpoints(folder) == [f"step-{SPLAT_STEPS + 1:09d}.ckpt"]
    go_on(folder)
    assert torch.equal(words(folder), words(unbroken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline__vectors": 4}, r"--pipeline.vectors was 3 and is now 4"),
        ({"pipeline__splat_steps": 3}, r"--pipeline.splat-steps was 6 and is now 3"),
        ({"machine__seed": 7}, r"--machine.seed was 42 and is now 7"),
        ({"pipeline__bank_groups": 5}, r"--pipeline.bank-groups was 3 and is now 5"),
        ({"pipeline__lr": 0.5}, r"--pipeline.lr was .* and is now 0.5"),
        ({"pipeline__init_word": "mug"}, r"--pipeline.init-word was object and is now mug"),
        ({"pipeline__steps": 2}, "has taken 6 steps of phase 'words' already"),
        ({"load_step": 77}, "no checkpoint of step 77"),
    ],
)
def test_resuming_with_other_settings_is_refused(material, unbroken, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(config(material, tmp_path / "o", load_dir=unbroken / "nerfstudio_models", **options))


def test_resuming_with_another_scene_or_prior_is_refused(material, unbroken, tmp_path, tiny_prior):
    write_posed_images(to_object_frame(make_cloud(150))[0], tmp_path / "posed", count=8, size=32)
    save_prior(tiny_prior, tmp_path / "prior", dtype=torch.float32)
    checkpoints = unbroken / "nerfstudio_models"
    for data, prior, what in (
        (tmp_path / "posed", material / "prior", r"the scene \(--data\) was \w{12} and is now \w{12}"),
        (
            material / "posed",
            tmp_path / "prior",
            r"--pipeline.prior \(its weights\) was \w+ and is now \w+",
        ),
    ):
        with pytest.raises(InputError, match=what):
            train(tiny_config(data, prior, tmp_path / "o", load_dir=checkpoints))


def test_a_scene_that_was_moved_is_the_same_scene(material, unbroken, tmp_path):
    shutil.copytree(material / "posed", tmp_path / "elsewhere" / "posed")
    config_ = tiny_config(
        tmp_path / "elsewhere" / "posed", material / "prior", tmp_path, load_dir=unbroken / "nerfstudio_models"
    )
    assert torch.equal(words(train(config_)), words(unbroken))


def test_a_run_that_reached_its_limit_goes_on_to_the_end(material, unbroken, tmp_path):
    folder = train(config(material, tmp_path, max_num_iterations=4))
    assert checkpoints(folder) == ["step-000000003.ckpt"]
    go_on(folder)
    assert torch.equal(words(folder), words(unbroken))


def test_a_run_with_an_edit_goes_on_from_within_its_splat_fit(material, tmp_path):
    """Words and edit have not begun then: nothing of theirs is compared, or asked for."""
    options = {"prompt": "blue instead of red"}
    folder = train(config(material, tmp_path / "stopped", max_num_iterations=4, **options))
    go_on(folder)
    whole = train(config(material, tmp_path / "whole", **options))
    assert torch.equal(words(folder), words(whole))
    assert torch.equal(read_run(folder).features_dc, read_run(whole).features_dc)


def test_another_prior_may_learn_the_words_of_splats_that_are_fitted(material, tmp_path, tiny_prior):
    save_prior(tiny_prior, tmp_path / "prior", dtype=torch.float32)
    first = train(config(material, tmp_path / "first", max_num_iterations=4))
    other = tiny_config(
        material / "posed", tmp_path / "prior", tmp_path / "other", load_dir=first / "nerfstudio_models"
    )
    learned = ObjectEmbedding.load(train(other) / "embedding.safetensors")
    learned.check_prior(tiny_prior)


def test_a_run_that_began_from_another_goes_on_from_its_own_checkpoints(material, unbroken, tmp_path):
    first = train(config(material, tmp_path / "first", max_num_iterations=3))
    second = train(
        config(material, tmp_path / "second", load_dir=first / "nerfstudio_models", max_num_iterations=SPLAT_STEPS + 2)
    )
    shutil.rmtree(first)
    go_on(second)
    assert torch.equal(words(second), words(unbroken))


def test_a_signal_while_outputs_are_written_ends_the_run_when_they_are(material, tmp_path, monkeypatch):
    import os
    import signal

    from invert3d_ns.methods.words_phase import WordsPhase

    finish = WordsPhase.finish

    def interrupted(self, run):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, run)

    monkeypatch.setattr(WordsPhase, "finish", interrupted)
    with pytest.raises(SystemExit) as exit_:
        train(config(material, tmp_path))
    assert exit_.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.rglob("embedding.safetensors"))


def test_a_signal_while_orbits_are_encoded_stops_at_once_and_loses_nothing(material, unbroken, tmp_path, monkeypatch):
    import os
    import signal

    from invert3d_ns.methods import words_phase

    build = words_phase.build_bank

    def interrupted(*given, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return build(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(words_phase, "build_bank", interrupted)
        train(config(material, tmp_path))
    (folder,) = tmp_path.glob("posed/invert3d/run")
    assert checkpoints(folder) == [f"step-{SPLAT_STEPS - 1:09d}.ckpt"]
    go_on(folder)
    assert torch.equal(words(folder), words(unbroken))


def test_a_longer_run_takes_up_where_a_shorter_one_ended(material, unbroken, tmp_path):
    longer = train(config(material, tmp_path, load_dir=unbroken / "nerfstudio_models", pipeline__steps=STEPS + 2))
    assert checkpoints(longer) == [f"step-{SPLAT_STEPS + STEPS + 1:09d}.ckpt"]
    assert not torch.equal(words(longer), words(unbroken))
    assert ObjectEmbedding.load(longer / "embedding.safetensors").steps == STEPS + 2


def test_a_failed_resume_leaves_the_run_as_it_was(material, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "nerfstudio_models")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = config(material, tmp_path, load_dir=tmp_path / "nowhere")
    again.__dict__["_folder"] = str(folder)
    with pytest.raises(InputError, match="no checkpoint in"):
        train(again)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_names_in_the_checkpoint_folder_are_no_checkpoints(material, unbroken, tmp_path):
    folder = tmp_path / "nerfstudio_models"
    shutil.copytree(unbroken / "nerfstudio_models", folder)
    (path,) = folder.iterdir()
    shutil.copy(path, folder / f"{path.stem} (1).ckpt")
    resumed = train(config(material, tmp_path / "o", load_dir=folder))
    assert torch.equal(words(resumed), words(unbroken))


def test_a_damaged_checkpoint_is_refused(material, tmp_path):
    path = tmp_path / "step-000000003.ckpt"
    path.write_bytes(b"PK not a checkpoint")
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        train(config(material, tmp_path / "o", load_checkpoint=path))
