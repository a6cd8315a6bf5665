"""``ns-train a3d``: aligned objects from several prompts, end to end with tiny priors; what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aligned_configs import FIT, PROMPTS, STEPS, configured
from pretend_cuda import pretend_cuda
from runs import go_on, train
from single_view import write_sd_folder
from synthetic import make_cloud
from text_configs import checkpoint

from invert3d_ns.base.errors import InputError
from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.multiview import MultiViewPrior
from invert3d_ns.scenes.assets import object_splats
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.runs import read_run, read_run_objects, read_run_record


@pytest.fixture(scope="module")
def finished(stored_prior: Path, tmp_path_factory) -> Path:
    """A whole run. Read-only."""
    return train(configured(stored_prior, tmp_path_factory.mktemp("outputs")))


def _same(one: Path, other: Path) -> None:
    for a, b in zip(read_run_objects(one), read_run_objects(other), strict=True):
        for name in a.tensors():
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)


def test_a_run_leaves_a_file_for_each_object_pictures_and_figures(finished: Path) -> None:
    assert finished.parts[-3:] == ("a-red-cube-and-a-blue-ball", "a3d", "run")
    names = {path.name for path in finished.iterdir() if not path.name.startswith("events.out")}
    assert {"config.yml", "views.png", "metrics.json", "objects", "nerfstudio_models"} <= names
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["prompts"] == list(PROMPTS) and figures["splats"] == 40 and figures["guidance"] == "sds"
    assert figures["steps"] == {"start": 1, "distill": STEPS, "reconstruct": FIT, "report": 0}
    assert len(figures["clip_similarity"]) == 2 and 0 <= figures["silhouette_iou"]["1-2"] <= 1
    objects = read_run_objects(finished)
    files = sorted((finished / "objects").iterdir())
    assert [path.name for path in files] == ["1-a-red-cube.ply", "2-a-blue-ball.ply"]
    for cloud, path in zip(objects, files, strict=True):
        torch.testing.assert_close(read_splats(path).means, cloud.means)
    assert (objects[0].features_dc - objects[1].features_dc).abs().max() > 1e-3
    assert read_run_record(finished).prompts == PROMPTS


def test_of_several_objects_the_first_is_read_and_said(finished: Path, capfd) -> None:
    assert torch.equal(read_run(finished).means, read_run_objects(finished)[0].means)
    assert "holds 2 objects, of which number 1" in capfd.readouterr().err


def test_every_phase_moves_every_object(stored_prior: Path, tmp_path: Path) -> None:
    found = []
    for steps, fit in ((0, 0), (STEPS, 0), (STEPS, FIT)):
        options: dict[str, Any] = {"pipeline__steps": steps, "pipeline__reconstruct__steps": fit}
        found.append(read_run_objects(train(configured(stored_prior, tmp_path / f"{steps}-{fit}", **options))))
    for before, after in ((0, 1), (1, 2)):
        for index in range(2):
            for name in ("means", "features_dc", "opacities", "scales", "quats"):
                moved = (getattr(found[before][index], name) - getattr(found[after][index], name)).abs().max()
                assert moved > 1e-6, f"{name} of object {index} stayed from {before} to {after}"


@pytest.mark.parametrize("limit", [3, STEPS + 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(limit: int, stored_prior: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "pipeline__densify": True,
        "pipeline__model__refine_every": 2,
        "pipeline__model__warmup_length": 1,
    }
    unbroken = train(configured(stored_prior, tmp_path / "whole", **options))
    part = configured(stored_prior, tmp_path / "part", **options)
    part.max_num_iterations = limit
    stopped = train(part)
    assert checkpoint(stopped)["step"] == limit - 1 and not (stopped / "metrics.json").exists()
    go_on(stopped)
    _same(unbroken, stopped)


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": ("a red cube", "a blue ball", "a green cone"), "pipeline__interior": 0.5},
        {"pipeline__edge": 0.0, "pipeline__start__align": 0.0},
        {"pipeline__start__kind": "blob", "pipeline__cameras__background": 1.0},
        {"pipeline__guidance": copy.deepcopy(GUIDANCE_CONFIGS["ism"])},
    ],
)
def test_other_ways_of_running(options: dict[str, Any], stored_prior: Path, tmp_path: Path) -> None:
    config = configured(stored_prior, tmp_path, **options)
    objects = read_run_objects(train(config))
    assert len(objects) == len(config.prompts)
    assert all(bool(tensor.isfinite().all()) for cloud in objects for tensor in cloud.tensors().values())


def test_without_edges_nothing_between_is_sampled(stored_prior: Path, tmp_path: Path) -> None:
    config = configured(stored_prior, tmp_path)
    config.pipeline.prompts = ("a", "b", "c")
    middles = [row for row in config.pipeline.blends() if max(row) < 1]
    assert middles == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    config.pipeline.edge = 0.0
    assert config.pipeline.blends() == torch.eye(3).tolist()


class _Reads:
    """A prior, as far as alignment asks it, that makes drafts or not."""

    def __init__(self, drafts: bool) -> None:
        self.ray_reader = object() if drafts else None


def test_words_are_drawn_together_where_no_drafts_are(stored_prior: Path, tmp_path: Path) -> None:
    from invert3d_ns.methods.aligned import AlignedPipeline

    config = configured(stored_prior, tmp_path)

    def drawn(drafts: bool, done: float) -> float:
        holder: Any = SimpleNamespace(config=config.pipeline)
        return AlignedPipeline.drawn_together(holder, _Reads(drafts), done)  # type: ignore[arg-type]

    assert [drawn(True, done) for done in (0.0, 0.5)] == [0.0, 0.0]
    assert [drawn(False, done) for done in (0.0, 0.25, 0.5, 0.9)] == [1.0, 0.5, 0.0, 0.0]
    config.pipeline.start.align = 0.0
    assert drawn(False, 0.0) == 0.0


def test_objects_are_drawn_to_one_draft(stored_prior: Path, tmp_path: Path, monkeypatch) -> None:
    """What the prior drafts for every object is the same with full alignment, and each one's own without."""
    found: dict[float, torch.Tensor] = {}
    predict = Conditions.predict
    for align in (0.0, 0.5, 1.0):

        def note(self, prior, noisy, t, cameras, align=align):
            if align not in found and len(noisy) == 3:
                found[align] = self.drafted
            return predict(self, prior, noisy, t, cameras)

        monkeypatch.setattr(Conditions, "predict", note)
        options: dict[str, Any] = {
            "pipeline__start__align": align,
            "pipeline__steps": 0,
            "pipeline__reconstruct__steps": 0,
        }
        train(configured(stored_prior, tmp_path / str(align), **options))
    assert torch.equal(found[1.0][0], found[1.0][1])
    assert not torch.allclose(found[0.0][0], found[0.0][1])
    torch.testing.assert_close(found[0.5], (found[0.0] + found[1.0]) / 2)


def test_words_are_encoded_once_for_each_strength_of_guidance(stored_prior: Path, tmp_path: Path, monkeypatch) -> None:
    read: list[str | tuple[str, ...]] = []
    encode = MultiViewPrior.encode_prompt

    def noted(self, prompts, *args, **kwargs):
        read.append(prompts if isinstance(prompts, str) else tuple(prompts))
        return encode(self, prompts, *args, **kwargs)

    monkeypatch.setattr(MultiViewPrior, "encode_prompt", noted)
    # Guidance and the last fit have the prior's own strength.
    train(configured(stored_prior, tmp_path, pipeline__negative_prompt="blue", pipeline__start__guidance_scale=2.0))
    assert read == [PROMPTS, "blue", "blue"]


def test_kept_conditions_are_those_that_are_made_anew(stored_prior: Path, tmp_path: Path) -> None:
    config = configured(stored_prior, tmp_path, pipeline__negative_prompt="blue")
    config.pipeline.prompts = PROMPTS
    pipeline, prior = config.pipeline.setup(device="cpu"), load_prior(str(stored_prior), "cpu")
    first = pipeline.conditions(prior, 3.0)
    for weights in ([[0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]):
        mixed = pipeline.mixed_context(prior, torch.tensor(weights))
        plain = Conditions.of_context(prior, mixed, negative_prompt="blue", guidance_scale=3.0)
        kept = pipeline.conditions(prior, 3.0, torch.tensor(weights))
        torch.testing.assert_close((kept.positive, kept.negative), (plain.positive, plain.negative), rtol=0, atol=0)
        assert (kept.guidance_scale, kept.guidance_rescale) == (3.0, plain.guidance_rescale)
    assert pipeline.conditions(prior).guidance_scale == prior.info.guidance_scale != 3.0
    torch.testing.assert_close(first.positive, pipeline.contexts(prior)[:1], rtol=0, atol=0)


def test_other_prompts_are_refused_on_resuming(finished: Path) -> None:
    import yaml

    config = yaml.load((finished / "config.yml").read_text(), Loader=yaml.Loader)
    config.prompts = ("a red cube", "a green ball")
    with pytest.raises(InputError, match="--prompts was"):
        train(config)


def test_a_run_on_a_pretended_gpu_is_stopped_and_goes_on(stored_prior: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"machine__device_type": "cuda", "pipeline__prior_options__precision": "fp32"}
    with pretend_cuda():
        config = configured(stored_prior, tmp_path, **options)
        config.max_num_iterations = 3
        go_on(train(config))
    assert (config.get_base_dir() / "metrics.json").exists()


# A given object


def test_a_given_object_stays_and_the_others_grow_from_it(stored_prior: Path, tmp_path: Path) -> None:
    write_splats(tmp_path / "ball.ply", make_cloud(30))
    config = configured(stored_prior, tmp_path / "outputs")
    config.data = config.pipeline.datamanager.data = tmp_path / "ball.ply"
    folder = train(config)
    given, grown = read_run_objects(folder)
    before = to_object_frame(make_cloud(30))[0]
    keep = object_splats(before)
    before = before if keep is None else before.select(keep)
    torch.testing.assert_close(given.means, before.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.features_dc, before.features_dc, atol=1e-5, rtol=0)
    assert len(grown) == len(given) and (grown.features_dc - given.features_dc).abs().max() > 1e-3


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": None}, "there are no prompts; give two or more"),
        ({"prompts": ("a red cube",)}, "one prompt alone is what ge3d makes"),
        ({"prompts": ("a red cube", "A red  cube")}, "two prompts are the same"),
        ({"prompts": ("a red cube", " ")}, "a prompt is empty"),
        ({"prompt": "a red cube"}, "takes several prompts"),
        ({"prompts": ("a red cube", "a ball", "pipeline.guidance:ism")}, "another flag between it and --prompts"),
        ({"pipeline__edge": 1.5}, r"--pipeline.edge is 1.5; give 0 to 1"),
        ({"prompts": ("a cube", "a cube " * 100)}, "77|tokens"),
        ({"pipeline__prior": "nonsense"}, "nonsense"),
    ],
)
def test_what_cannot_be_carried_out_leaves_no_folder(
    options: dict, message: str, stored_prior: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(configured(stored_prior, tmp_path / "outputs", **options))
    assert not list((tmp_path / "outputs").rglob("config.yml"))


def test_a_prior_without_cameras_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows no cameras"):
        train(configured(write_sd_folder(tmp_path / "sd"), tmp_path / "outputs"))


def test_unknown_words_of_any_prompt_are_said(tmp_path: Path, capfd) -> None:
    options: dict[str, Any] = {"pipeline__steps": 0, "pipeline__reconstruct__steps": 0, "pipeline__start__fit_steps": 1}
    train(configured("bundled", tmp_path, **options, prompts=("a red cube", "a red zeppelin")))
    assert "the prior 'bundled' never learned 'zeppelin'" in capfd.readouterr().err
