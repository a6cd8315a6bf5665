from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SPLAT_STEPS, STEPS, tiny_config, train
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.methods.invert3d import InversionPipeline
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.posed_images import write_posed_images
from invert3d_ns.words.cti import CameraTextInversion, fit_words
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior):
    """A tiny prior, a .ply and a folder of posed images, as a user has them."""
    folder = tmp_path_factory.mktemp("material")
    save_prior(tiny_v_prior, folder / "prior", dtype=torch.float32)
    write_splats(folder / "ball.ply", make_cloud(200))
    write_posed_images(to_object_frame(make_cloud(200))[0], folder / "posed", count=8, size=32)
    return folder


@pytest.fixture(scope="module")
def ply_run(material, tmp_path_factory):
    config = tiny_config(material / "ball.ply", material / "prior", tmp_path_factory.mktemp("outputs"))
    return config, train(config)


@pytest.fixture(scope="module")
def posed_run(material, tmp_path_factory):
    config = tiny_config(material / "posed", material / "prior", tmp_path_factory.mktemp("outputs"))
    return config, train(config)


def checkpoint(folder):
    (path,) = (folder / "nerfstudio_models").iterdir()
    return path, torch.load(path, map_location="cpu")


@pytest.mark.parametrize("name", ["ply_run", "posed_run"])
def test_a_run_leaves_embedding_picture_and_figures(name, request, tiny_v_prior):
    config, folder = request.getfixturevalue(name)
    embedding = ObjectEmbedding.load(folder / "embedding.safetensors")
    embedding.check_prior(tiny_v_prior)
    assert embedding.vectors.shape == (config.pipeline.vectors, tiny_v_prior.info.token_dim)
    assert (embedding.init_word, embedding.steps) == ("object", STEPS)
    assert not torch.equal(embedding.vectors, tiny_v_prior.word_vectors("object").expand_as(embedding.vectors))

    picture = np.asarray(Image.open(folder / "views.png"))
    height, width = picture.shape[:2]
    assert width == 4 * height, "two orbits of four square views side by side, truth above generated"
    truth = picture[: height // 2]
    assert truth.min() < 128 and np.median(truth[0]) > 250, "an object on a white background"

    figures = json.loads((folder / "metrics.json").read_text())
    assert set(figures["heldout_loss"]) == {"embedding", "init_word"}
    assert set(figures["psnr"]) == {"embedding", "init_word", "autoencoder"} and 0 <= figures["silhouette_iou"] <= 1
    for figure in ("heldout_loss", "psnr"):
        assert all(np.isfinite(value) for value in figures[figure].values())
    assert figures["seed"] == config.machine.seed
    assert figures["prior"]["fingerprint"] == tiny_v_prior.info.fingerprint
    assert figures["steps"] == {"splats": 0 if name == "ply_run" else SPLAT_STEPS, "words": STEPS}
    assert figures["seconds"]["words"] > 0
    assert figures["versions"]["torch"] and figures["hardware"]["cores"]


def test_words_and_checkpoint_say_what_the_object_is(material, tmp_path):
    folder = train(tiny_config(material / "ball.ply", material / "prior", tmp_path, pipeline__clip="bundled"))
    found = ObjectEmbedding.load(folder / "embedding.safetensors").description
    assert found
    assert checkpoint(folder)[1]["pipeline"]["_extra_state"]["origin"]["description"] == found


def test_a_run_folder_holds_nothing_unexpected(posed_run):
    names = sorted(path.name for path in posed_run[1].iterdir() if not path.name.startswith("events.out"))
    assert names == [
        "camera_path.json",
        "config.yml",
        "dataparser_transforms.json",
        "embedding.safetensors",
        "metrics.json",
        "nerfstudio_models",
        "views.png",
    ]


def test_splats_of_a_ply_stay_as_they_are(ply_run):
    path, state = checkpoint(ply_run[1])
    assert path.name == f"step-{STEPS - 1:09d}.ckpt"
    cloud = to_object_frame(make_cloud(200))[0]
    assert torch.allclose(state["pipeline"]["_model.gauss_params.means"], cloud.means, atol=1e-5)
    assert state["run"]["phase"] == "words"


def test_images_fit_splats_first_and_then_only_words(posed_run):
    path, state = checkpoint(posed_run[1])
    assert path.name == f"step-{SPLAT_STEPS + STEPS - 1:09d}.ckpt"
    assert list(state["optimizers"]) == ["words"]
    assert state["optimizers"]["words"]["state"][0]["step"] == STEPS
    assert not any("unet" in name or "text_encoder" in name for name in state["pipeline"])


def test_the_pipeline_takes_the_steps_of_the_plain_loop(ply_run, tiny_v_prior):
    """nerfstudio's trainer around the objective must change nothing about what is learned."""
    config, folder = ply_run
    from invert3d_ns.words.bank import build_bank

    pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    bank = build_bank(pipeline.model.render, tiny_v_prior, groups=3, heldout_groups=2, seed=config.machine.seed)
    inversion = CameraTextInversion(tiny_v_prior, seed=config.machine.seed)
    words = fit_words(inversion, bank, inversion.initial_words(3, "object"), steps=STEPS)
    assert torch.equal(words, ObjectEmbedding.load(folder / "embedding.safetensors").vectors)


def test_the_same_seed_gives_the_same_embedding_and_another_seed_another(posed_run, material, tmp_path):
    first = (posed_run[1] / "embedding.safetensors").read_bytes()
    same = train(tiny_config(material / "posed", material / "prior", tmp_path / "same"))
    other = train(tiny_config(material / "posed", material / "prior", tmp_path / "other", machine__seed=7))
    assert (same / "embedding.safetensors").read_bytes() == first
    assert (other / "embedding.safetensors").read_bytes() != first


def test_events_hold_losses_and_pictures_of_both_phases(posed_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(posed_run[1]))
    events.Reload()
    steps = [event.step for event in events.Scalars("Train Loss")]
    assert steps == list(range(SPLAT_STEPS + STEPS))
    assert [event.step for event in events.Scalars("Held-out Loss")] == [7, 9, 11]
    assert [event.step for event in events.Images("Held-out views (truth above, generated below)")] == [8, 11]


def test_the_console_tells_phases_and_what_comes_next(material, tmp_path, capfd):
    folder = train(tiny_config(material / "posed", material / "prior", tmp_path))
    text = capfd.readouterr().out
    assert f"splats {SPLAT_STEPS}/{SPLAT_STEPS}" in text and f"words {STEPS}/{STEPS}" in text
    assert "held-out" in text and "left" in text
    ending = text[text.index("The scene is words now.") :]
    for name in ("embedding.safetensors", "views.png", "metrics.json"):
        assert str(folder / name) in ending
    assert "invert3d views" in ending and "ns-viewer --load-config" in ending


def test_inference_loads_a_run_without_its_prior(posed_run, material, monkeypatch):
    config, folder = posed_run
    monkeypatch.setitem(sys.modules, "invert3d_ns.prior.multiview", None)  # importing it would raise
    from nerfstudio.utils.eval_utils import all_methods, eval_setup

    monkeypatch.setitem(all_methods, "invert3d", config)  # where the package is not installed

    _, pipeline, _, step = eval_setup(folder / "config.yml", test_mode="inference")
    assert step == SPLAT_STEPS + STEPS - 1
    assert isinstance(pipeline, InversionPipeline) and pipeline.words is not None
    assert pipeline.datamanager.train_dataset is not None
    saved = ObjectEmbedding.load(folder / "embedding.safetensors").vectors
    assert torch.equal(pipeline.words.detach(), saved)
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].min() < 0.9


def test_frozen_splats_take_no_gradient_and_no_callback(posed_run, material, tmp_path, monkeypatch):
    from invert3d_ns.runs import trainer as module
    from invert3d_ns.scenes.splats import ObjectSplatModel

    densified, groups, rendered = [], [], []
    train_step, load = module.PhasedTrainer._train_step, InversionPipeline.get_train_loss_dict
    after = ObjectSplatModel.step_post_backward
    monkeypatch.setattr(
        ObjectSplatModel, "step_post_backward", lambda s, step: (densified.append(step), after(s, step))
    )

    def watch(self, step):
        train_step(self, step)
        groups.append((self.pipeline.current.name, sorted(self.optimizers.optimizers)))
        if self.pipeline.current.name == "words":
            assert all(parameter.grad is None for parameter in self.pipeline.model.parameters())

    def count(self, step):
        rendered.append((step, self.current.name))
        return load(self, step)

    monkeypatch.setattr(module.PhasedTrainer, "_train_step", watch)
    monkeypatch.setattr(InversionPipeline, "get_train_loss_dict", count)
    train(tiny_config(material / "posed", material / "prior", tmp_path))
    assert densified == list(range(SPLAT_STEPS))
    assert groups[-1] == ("words", ["words"])
    assert "words" not in groups[0][1] and "means" in groups[0][1]
    assert [phase for _, phase in rendered] == ["splats"] * SPLAT_STEPS + ["words"] * STEPS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "nowhere.ply"}, "does not exist"),
        ({"pipeline__prior": "no-such-prior"}, "no-such-prior"),
        ({"pipeline__vectors": 200}, "between 1 and 75"),
        ({"pipeline__vectors": 0}, "--pipeline.vectors is 0; give 1 or more"),
        ({"pipeline__bank_groups": 0}, "--pipeline.bank-groups is 0"),
        ({"pipeline__heldout_groups": 0}, "--pipeline.heldout-groups is 0"),
        ({"pipeline__groups_per_step": 0}, "--pipeline.groups-per-step is 0"),
        ({"pipeline__sampling_steps": 0}, "--pipeline.sampling-steps is 0"),
        ({"pipeline__init_word": ""}, "object"),
        ({"pipeline__resolution": 20}, "multiple of 16"),
        ({"pipeline__timestep_range": (0.9, 0.1)}, "timestep range"),
        ({"load_dir": "nowhere"}, "no checkpoint in nowhere"),
        ({"load_checkpoint": "nowhere.ckpt"}, "no checkpoint at nowhere.ckpt"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(material, tmp_path, options, message):
    from pathlib import Path

    options = {
        name: Path(value) if name in ("data", "load_dir", "load_checkpoint") else value
        for name, value in options.items()
    }
    options = {"data": material / "ball.ply", **options}
    config = tiny_config(prior=material / "prior", output_dir=tmp_path / "outputs", **options)
    with pytest.raises(InputError, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "outputs").exists()


def test_a_blank_scene_is_refused(material, tmp_path):
    cloud = make_cloud(50)
    cloud.features_dc[:] = 0.5 / 0.28209479177387814  # white on white
    write_splats(tmp_path / "white.ply", cloud)
    with pytest.raises(InputError, match="the cameras see nothing"):
        train(tiny_config(tmp_path / "white.ply", material / "prior", tmp_path / "outputs"))
    assert not list((tmp_path / "outputs").rglob("*.safetensors"))


def test_no_space_to_save_is_told_and_keeps_the_last_checkpoint(posed_run, material, tmp_path, monkeypatch):
    from invert3d_ns.runs import trainer as module

    def full(descriptor):
        raise OSError(28, "No space left on device")

    config = tiny_config(material / "ball.ply", material / "prior", tmp_path, steps_per_save=1)
    observe = module.PhasedTrainer._observe

    def fill_up(self, step):
        observe(self, step)
        if step == 3:
            monkeypatch.setattr(os, "fsync", full)

    monkeypatch.setattr(module.PhasedTrainer, "_observe", fill_up)
    with pytest.raises(InputError, match="No space left on device"):
        train(config)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "ckpt" in path.name]
    assert [path.name for path in left] == ["step-000000002.ckpt"]


def test_several_devices_are_refused(material):
    config = tiny_config(material / "ball.ply", material / "prior", material, machine__num_devices=2).pipeline
    config.datamanager.data = material / "ball.ply"
    with pytest.raises(InputError, match="one device"):
        config.setup(device="cpu", test_mode="inference", world_size=2)
