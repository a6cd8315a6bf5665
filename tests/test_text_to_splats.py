"""``ns-train ge3d``: splats from words, end to end with tiny priors; what it refuses; words that change meanwhile."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_cuda import pretend_cuda
from runs import go_on, train
from text_configs import FIT, PROMPT, STEPS, checkpoint, configured, configured_with

from invert3d_ns.base.errors import InputError
from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS
from invert3d_ns.methods.distill_phase import DistillPhase, total_variation
from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline
from invert3d_ns.scenes.runs import read_run


@pytest.fixture(scope="module")
def finished(stored_prior: Path, tmp_path_factory) -> Path:
    """A whole run. Read-only."""
    return train(configured(stored_prior, tmp_path_factory.mktemp("outputs")))


def test_a_run_leaves_splats_pictures_and_figures(finished: Path) -> None:
    assert finished.parts[-3:] == ("a-red-cube", "ge3d", "run")
    names = {path.name for path in finished.iterdir() if not path.name.startswith("events.out")}
    assert names == {
        "config.yml", "dataparser_transforms.json", "nerfstudio_models", "views.png", "metrics.json", "camera_path.json"
    }  # fmt: skip
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["prompt"] == PROMPT and figures["splats"] == 40 and figures["guidance"] == "ge3d"
    assert figures["steps"] == {"start": 1, "distill": STEPS, "reconstruct": FIT, "report": 0}
    assert -1 <= figures["clip_similarity"] <= 1 and figures["seconds"]["distill"] > 0
    assert checkpoint(finished)["step"] == STEPS + FIT
    cloud = read_run(finished)
    assert len(cloud) == 40 and cloud.sh_degree == 0
    assert all(bool(tensor.isfinite().all()) for tensor in cloud.tensors().values())


def test_every_phase_moves_the_splats(stored_prior: Path, tmp_path: Path) -> None:
    clouds = []
    for steps, fit in ((0, 0), (STEPS, 0), (STEPS, FIT)):
        name = f"{steps}-{fit}"
        options = {"pipeline__steps": steps, "pipeline__reconstruct__steps": fit}
        clouds.append(read_run(train(configured(stored_prior, tmp_path / name, **options))))
    for before, after in ((0, 1), (1, 2)):
        for name in ("means", "features_dc", "opacities", "scales", "quats"):
            moved = (getattr(clouds[before], name) - getattr(clouds[after], name)).abs().max()
            assert moved > 1e-5, f"{name} stayed from {before} to {after}"


@pytest.mark.parametrize("kind", list(GUIDANCE_CONFIGS))
@pytest.mark.parametrize("limit", [3, STEPS + 3])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    kind: str, limit: int, stored_prior: Path, tmp_path: Path
) -> None:
    given = copy.deepcopy(GUIDANCE_CONFIGS[kind])
    options = {"pipeline__guidance": given, "pipeline__densify": True, "pipeline__model__refine_every": 2}
    options |= {"pipeline__model__warmup_length": 1, "pipeline__cameras__scale_noise": 0.1}
    options |= {"pipeline__guidance__jumps": 2} if kind == "ge3d" else {}
    whole, part = (configured_with(stored_prior, tmp_path / name, options) for name in ("whole", "part"))
    unbroken = train(whole)
    part.max_num_iterations = limit
    stopped = train(part)
    assert checkpoint(stopped)["step"] == limit - 1 and not (stopped / "metrics.json").exists()
    go_on(stopped)
    for one, other in zip(read_run(unbroken).tensors().values(), read_run(stopped).tensors().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_other_words_are_refused_on_resuming(finished: Path) -> None:
    import yaml

    config = yaml.load((finished / "config.yml").read_text(), Loader=yaml.Loader)
    config.prompt = config.pipeline.model.prompt = "a blue ball"
    with pytest.raises(InputError, match=r"--prompt was a red cube and is now a blue ball"):
        train(config)


# Devices


@pytest.mark.parametrize("kind", list(GUIDANCE_CONFIGS))
def test_a_run_on_a_pretended_gpu_is_stopped_and_goes_on(kind: str, stored_prior: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "pipeline__guidance": copy.deepcopy(GUIDANCE_CONFIGS[kind]),
        "pipeline__densify": True,
        "pipeline__model__refine_every": 2,
        "pipeline__cameras__background": 1.0,
        "machine__device_type": "cuda",
        "pipeline__prior_options__precision": "fp32",
    }
    with pretend_cuda():
        config = configured_with(stored_prior, tmp_path, options)
        config.max_num_iterations = 3
        go_on(train(config))
    assert json.loads((config.get_base_dir() / "metrics.json").read_text())["guidance"] == kind


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "there is no prompt; say what to make"),
        ({"prompt": "  "}, "there is no prompt"),
        ({"pipeline__steps": 0, "pipeline__reconstruct__steps": 0, "pipeline__start__kind": "blob"}, "nothing to do"),
        ({"pipeline__guidance__jumps": 0}, r"--pipeline.guidance.jumps is 0; give 1 to 50"),
        ({"pipeline__guidance__max_step": 0.05}, "jumps of 0.06 to 0.08 up to 0.05 do not fit the diffusion"),
        ({"pipeline__guidance__jump": (0.2, 0.1)}, "do not fit the diffusion"),
        ({"pipeline__cameras__zoom": (1.2, 0.9)}, r"--pipeline.cameras.zoom goes from 1.2 to 0.9"),
        ({"pipeline__prior": "nonsense"}, "nonsense"),
        ({"prompt": "a cube " * 100}, "77|tokens"),
    ],
)
def test_what_cannot_be_carried_out_leaves_no_folder(
    options: dict, message: str, stored_prior: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(configured(stored_prior, tmp_path / "outputs", **options))
    assert not list((tmp_path / "outputs").rglob("config.yml"))


def test_unknown_words_are_said_and_it_goes_on(tmp_path: Path, capfd) -> None:
    options = {"pipeline__steps": 0, "pipeline__reconstruct__steps": 0, "pipeline__start__fit_steps": 1}
    train(configured("bundled", tmp_path, **options, prompt="a red zeppelin"))
    assert "the prior 'bundled' never learned 'zeppelin'" in capfd.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    stored_prior: Path, tmp_path, monkeypatch
) -> None:
    from invert3d_ns.guidance.ge3d import EditingTrajectories

    given = EditingTrajectories.loss

    def broken(self, images, cameras, generator, progress=0.0):
        terms = given(self, images, cameras, generator, progress)
        return {name: term * (float("nan") if progress >= 0.6 else 1.0) for name, term in terms.items()}

    monkeypatch.setattr(EditingTrajectories, "loss", broken)
    config = configured(stored_prior, tmp_path, steps_per_save=1)
    with pytest.raises(InputError, match=r"not a number at step 4 of following the prompt.*less --pipeline.guidance"):
        train(config)
    kept = checkpoint(config.get_base_dir())
    assert kept["step"] == 3
    assert all(v.isfinite().all() for k, v in kept["pipeline"].items() if k.startswith("_model.gauss"))


# While it runs


def test_words_may_change_meanwhile_and_a_resumed_run_knows_them(
    stored_prior: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[tuple[int, str]] = []
    given = DistillPhase.step

    def step(self, run, index):
        if index == 1:
            panel = self.pipeline.prompt_panel
            self.pipeline.queue.training = lambda: "training"
            self.pipeline.queue.ask(panel.follow("a green ball", "blurry"))
        output = given(self, run, index)
        seen.append((index, self.guidance.conditions and self._words[0]))
        return output

    monkeypatch.setattr(DistillPhase, "step", step)
    config = configured(stored_prior, tmp_path, pipeline__reconstruct__steps=0)
    config.max_num_iterations = 4
    folder = train(config)
    assert seen == [(0, PROMPT), (1, PROMPT), (2, "a green ball")]
    assert checkpoint(folder)["run"]["state"]["prompt"] == "a green ball"
    go_on(folder)
    assert seen[3:] == [(3, "a green ball"), (4, "a green ball")]
    figures = json.loads((folder / "metrics.json").read_text())
    assert (figures["prompt"], figures["negative_prompt"]) == ("a green ball", "blurry")


def test_an_empty_prompt_is_not_followed(stored_prior: Path, tmp_path: Path) -> None:
    pipeline = configured(stored_prior, tmp_path).pipeline.setup(
        device="cpu", test_mode="val", world_size=1, local_rank=0
    )
    assert isinstance(pipeline, TextToSplatsPipeline)
    with pytest.raises(InputError, match="the prompt is empty"):
        pipeline.change_words(" ", "")


def test_nothing_follows_words_once_the_run_is_finished(stored_prior: Path, tmp_path: Path) -> None:
    pipeline = configured(stored_prior, tmp_path).pipeline.setup(
        device="cpu", test_mode="val", world_size=1, local_rank=0
    )
    assert isinstance(pipeline, TextToSplatsPipeline)
    with pytest.raises(InputError, match="the run is finished: nothing follows words any more"):
        pipeline.prompt_panel.follow("a green ball", "").run(lambda done, total: None, lambda: False)


def test_splats_are_added_where_they_are_asked_for(stored_prior: Path, tmp_path: Path) -> None:
    options = {
        "pipeline__densify": True,
        "pipeline__steps": 8,
        "pipeline__model__refine_every": 2,
        "pipeline__model__warmup_length": 1,
        "pipeline__model__densify_grad_thresh": 0.0,
        "pipeline__model__cull_alpha_thresh": 0.005,
        "pipeline__reconstruct__steps": 0,
    }
    assert len(read_run(train(configured(stored_prior, tmp_path, **options)))) > 40


# Terms


def test_regularizers_weigh_in(stored_prior: Path, tmp_path: Path) -> None:
    sizes = {}
    for weight in (0.0, 1e4):
        options = {"pipeline__regularize__scale": weight, "pipeline__reconstruct__steps": 0}
        folder = train(configured(stored_prior, tmp_path / f"{weight}", **options))
        sizes[weight] = float(read_run(folder).scales.exp().mean())
    assert sizes[1e4] < sizes[0.0]
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    assert float(total_variation(ramp)) == 1.0 and float(total_variation(ramp.mT * 2)) == 2.0


def test_a_step_looks_from_random_cameras_that_depend_on_it_alone(stored_prior: Path, tmp_path: Path) -> None:
    from invert3d_ns.scenes.cameras import orbit_camera_to_world

    config = configured(stored_prior, tmp_path, pipeline__cameras__groups=2, pipeline__cameras__coarse=0.5)
    pipeline = config.pipeline
    pipeline.model.prompt = PROMPT
    pipeline = pipeline.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
    pipeline.prepare(0)
    phase = next(phase for phase in pipeline.phases if isinstance(phase, DistillPhase))
    from runs import QuietRun

    run = QuietRun(tmp_path)
    phase.begin(run, None)  # type: ignore[arg-type]
    looks = [phase.look(index) for index in (0, 0, 1, STEPS - 1)]
    assert torch.equal(looks[0].images, looks[1].images) and not torch.equal(looks[0].cameras, looks[2].cameras)
    assert looks[0].images.shape == looks[3].images.shape == (2, 4, 3, 32, 32)
    assert looks[0].depths.shape[-1] == 32 and looks[3].depths.shape[-1] == 64, "coarse at first"
    matrices = looks[0].cameras.unflatten(-1, (4, 4))
    azimuths = torch.rad2deg(torch.atan2(matrices[0, :, 0, 3], -matrices[0, :, 1, 3]))
    elevations = torch.rad2deg(torch.asin(matrices[0, :, 2, 3]))
    torch.testing.assert_close(orbit_camera_to_world(azimuths, elevations, 1.0), matrices[0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(azimuths.diff().remainder(360), torch.tensor(90.0), atol=0.1)


# As a person types it


def test_the_command_line_chooses_the_guidance(stored_prior: Path, tmp_path: Path) -> None:
    words = [
        sys.executable, "-m", "nerfstudio.scripts.train", "ge3d", "--prompt", PROMPT, "--output-dir", tmp_path,
        "--timestamp", "t", "--machine.device-type", "cpu", "--pipeline.prior", stored_prior, "--pipeline.steps", 2,
        "--pipeline.start.views", 4, "--pipeline.start.splats", 30, "--pipeline.start.fit-steps", 2,
        "pipeline.guidance:ism", "--pipeline.guidance.interval", "0.1",
    ]  # fmt: skip
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "a-red-cube" / "ge3d" / "t"
    assert json.loads((folder / "metrics.json").read_text())["guidance"] == "ism"
    assert "ism 2" in done.stdout and "Next:" in done.stdout
    evaluated = subprocess.run(
        [sys.executable, "-m", "nerfstudio.scripts.eval", "--load-config", str(folder / "config.yml"), "--output-path",
         str(tmp_path / "eval.json")], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert evaluated.returncode != 0 and "made from words: there are no images" in evaluated.stderr
    rendered = subprocess.run(
        [sys.executable, "-m", "nerfstudio.scripts.render", "camera-path", "--load-config", str(folder / "config.yml"),
         "--camera-path-filename", str(folder / "camera_path.json"), "--output-path", str(tmp_path / "turn"),
         "--output-format", "images"], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert rendered.returncode == 0 and len(list((tmp_path / "turn").iterdir())) > 10, rendered.stderr[-2000:]
