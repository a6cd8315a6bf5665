from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import SPLAT_STEPS, STEPS, go_on, tiny_config, train, train_and_die
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.posed_images import write_posed_images
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

    observe = module.InversionTrainer._observe

    def interrupt(self, step):
        observe(self, step)
        if step == SPLAT_STEPS + 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(module.InversionTrainer, "_observe", interrupt)
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
        ({"pipeline__vectors": 4}, "shape"),
        ({"pipeline__splat_steps": 3}, "splat steps"),
        ({"load_step": 77}, "no checkpoint of step 77"),
    ],
)
def test_resuming_with_other_settings_is_refused(material, unbroken, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(config(material, tmp_path / "o", load_dir=unbroken / "nerfstudio_models", **options))


def test_a_damaged_checkpoint_is_refused(material, tmp_path):
    path = tmp_path / "step-000000003.ckpt"
    path.write_bytes(b"PK not a checkpoint")
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        train(config(material, tmp_path / "o", load_checkpoint=path))
