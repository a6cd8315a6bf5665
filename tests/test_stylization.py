"""``ns-train clip-splat``: styles of a scene, end to end with the bundled towers; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_cuda import pretend_cuda
from runs import go_on, train
from stylization_configs import PROMPT, STEPS, configured
from synthetic import make_cloud
from text_configs import checkpoint

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.methods.stylization_report import GEOMETRY, same_geometry
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.runs import read_run, read_run_objects, read_run_record


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "knob.ply"
    write_splats(path, make_cloud(60, sh_degree=1))
    return path


@pytest.fixture(scope="module")
def finished(scene: Path, tmp_path_factory) -> Path:
    """A run of two styles. Read-only."""
    outputs = tmp_path_factory.mktemp("outputs")
    return train(configured(scene, outputs, prompt=None, prompts=(PROMPT, "at night")))


def _same(one: Path, other: Path) -> None:
    for a, b in zip(read_run_objects(one), read_run_objects(other), strict=True):
        for name in a.tensors():
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)


def test_a_run_leaves_every_style_side_by_side(finished: Path, scene: Path, capfd) -> None:
    assert finished.parts[-3:] == ("knob", "clip-splat", "run")
    names = {path.name for path in finished.iterdir() if not path.name.startswith("events.out")}
    assert {"config.yml", "views.png", "metrics.json", "styles", "nerfstudio_models", "camera_path.json"} <= names
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["prompts"] == [PROMPT, "at night"] and figures["splats"] == 60
    assert figures["steps"] == {"style1": STEPS, "style2": STEPS, "report": 0}
    assert all(style["geometry_unchanged"] for style in figures["styles"].values())
    objects = read_run_objects(finished)
    files = sorted((finished / "styles").iterdir())
    assert [path.name for path in files] == ["1-original.ply", "2-in-van-gogh-style.ply", "3-at-night.ply"]
    for cloud, path in zip(objects, files, strict=True):
        torch.testing.assert_close(read_splats(path).features_dc, cloud.features_dc)
    assert read_run_record(finished).prompts == ("original", PROMPT, "at night")
    assert torch.equal(read_run(finished).features_dc, objects[2].features_dc)
    assert "number 3, 'at night', is taken" in capfd.readouterr().err


def test_geometry_stays_to_the_bit_and_every_style_has_colors_of_its_own(finished: Path) -> None:
    original, one, two = read_run_objects(finished)
    assert same_geometry(original, one) and same_geometry(original, two)
    for a, b in ((original, one), (original, two), (one, two)):
        assert (a.features_dc - b.features_dc).abs().max() > 1e-3
        assert (a.features_rest - b.features_rest).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["opacities", "scales", "means", "quats"])
def test_what_is_set_free_moves_and_the_rest_stays(name: str, scene: Path, tmp_path: Path) -> None:
    original, style = read_run_objects(train(configured(scene, tmp_path, pipeline__free=(name,))))
    moved = {part for part in GEOMETRY if not torch.equal(getattr(original, part), getattr(style, part))}
    assert moved == {name}


def test_a_style_is_lowered_towards_its_words(scene: Path, tmp_path: Path) -> None:
    figures = [
        json.loads((train(configured(scene, tmp_path / str(n), pipeline__steps=n)) / "metrics.json").read_text())
        for n in (1, 20)
    ]
    before, after = (one["styles"][PROMPT]["clip_similarity"] for one in figures)
    assert after > before + 0.02


@pytest.mark.parametrize("limit", [2, STEPS + 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    limit: int, scene: Path, finished: Path, tmp_path: Path
) -> None:
    part = configured(scene, tmp_path, prompt=None, prompts=(PROMPT, "at night"))
    part.max_num_iterations = limit
    stopped = train(part)
    assert checkpoint(stopped)["step"] == limit - 1 and not (stopped / "metrics.json").exists()
    go_on(stopped)
    _same(finished, stopped)


def test_another_style_stands_beside_those_of_a_run(finished: Path, scene: Path, tmp_path: Path) -> None:
    more = train(configured(finished, tmp_path, prompt="in sepia"))
    before, after = read_run_objects(finished), read_run_objects(more)
    assert read_run_record(more).prompts == ("original", PROMPT, "at night", "in sepia")
    for a, b in zip(before, after, strict=False):
        for name in a.tensors():
            assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert same_geometry(after[0], after[3]) and not torch.equal(after[0].features_dc, after[3].features_dc)
    with pytest.raises(InputError, match="has a style 'at night' already"):
        train(configured(finished, tmp_path / "again", prompt="at night"))
    anew = train(configured(finished, tmp_path / "anew", prompt="at night", pipeline__replace=True))
    assert read_run_record(anew).prompts == ("original", PROMPT, "at night")
    assert torch.equal(read_run_objects(anew)[1].features_dc, before[1].features_dc)


def test_styles_are_exported_and_mixed(finished: Path, tmp_path: Path) -> None:
    assert run_command(ExportSplats(finished, objects=tmp_path / "all")) == 0
    assert len(list((tmp_path / "all").iterdir())) == 3
    assert run_command(ExportSplats(finished, blend=(0.5, 0.5, 0.0), out=tmp_path / "half.ply")) == 0
    objects, half = read_run_objects(finished), read_splats(tmp_path / "half.ply")
    torch.testing.assert_close(half.features_dc, (objects[0].features_dc + objects[1].features_dc) / 2)


def test_images_are_fitted_first(posed_knob: Path, tmp_path: Path) -> None:
    folder = train(configured(posed_knob, tmp_path))
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["steps"] == {"splats": 6, "style1": STEPS, "report": 0}
    original, style = read_run_objects(folder)
    assert same_geometry(original, style) and not torch.equal(original.features_dc, style.features_dc)


def test_a_box_holds_the_style(scene: Path, tmp_path: Path) -> None:
    folder = train(configured(scene, tmp_path, pipeline__region__box=(-1.0, -1.0, 0.0, 1.0, 1.0, 1.0)))
    original, style = read_run_objects(folder)
    changed = (original.features_dc != style.features_dc).any(-1)
    assert changed.any() and bool((original.means[changed][:, 2] >= 0).all())
    assert (original.means[~changed][:, 2] < 0).any()


def test_words_hold_the_style_to_what_they_are_about(scene: Path, tmp_path: Path) -> None:
    folder = train(configured(scene, tmp_path, pipeline__region__relevance="a green thing"))
    original, style = read_run_objects(folder)
    changed = (original.features_dc != style.features_dc).any(-1)
    assert 0 < int(changed.sum()) < len(original)


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline__style__reach": 0.0, "pipeline__style__same_crops": False},
        {"pipeline__keep__content": 1.0, "pipeline__keep__color": 1.0},
        {"pipeline__free": ("opacities",), "pipeline__keep__background": 1.0},
        {"pipeline__cameras__kind": "data"},
        {"prompt": "van gogh:0.7 + at night:0.3", "pipeline__negative_prompt": "in sepia:0.5"},
        {"pipeline__towers": ("bundled", "bundled")},
    ],
)
def test_other_ways_of_running(options: dict[str, Any], scene: Path, tmp_path: Path) -> None:
    for cloud in read_run_objects(train(configured(scene, tmp_path, **options))):
        assert all(bool(tensor.isfinite().all()) for tensor in cloud.tensors().values())


def test_other_words_are_refused_on_resuming(finished: Path) -> None:
    import yaml

    config = yaml.load((finished / "config.yml").read_text(), Loader=yaml.Loader)
    config.prompts = (PROMPT, "in sepia")
    with pytest.raises(InputError, match="the words of style 2 was"):
        train(config)


def test_a_run_on_a_pretended_gpu_is_stopped_and_goes_on(scene: Path, tmp_path: Path) -> None:
    with pretend_cuda():
        config = configured(scene, tmp_path, machine__device_type="cuda", pipeline__free=("opacities",))
        config.max_num_iterations = 2
        go_on(train(config))
    assert (config.get_base_dir() / "metrics.json").exists()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "there is no prompt; say how the scene shall look"),
        ({"prompt": " "}, "a prompt is empty|there is no prompt"),
        ({"prompt": None, "prompts": ("at night", "At  night")}, "two styles have the same words"),
        ({"prompt": "neon:-1"}, "the weight of 'neon' is -1; give more than 0"),
        ({"pipeline__towers": ("bundle",)}, "did you mean 'bundled'"),
        ({"pipeline__towers": ()}, "there are no towers to follow"),
        ({"pipeline__style__directional": 0.0, "pipeline__style__patch": 0.0}, "no loss is left"),
        ({"pipeline__style__patch": -1.0}, r"--pipeline.style.patch is -1"),
        ({"pipeline__cameras__elevations": (20.0, 10.0)}, r"--pipeline.cameras.elevations goes from 20 to 10"),
        ({"pipeline__region__box": (5.0, 5.0, 5.0, 6.0, 6.0, 6.0)}, "the region holds no splats"),
        ({"pipeline__splat_steps": 0, "data": "posed"}, "there is nothing to stylize"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(
    options: dict, message: str, scene: Path, posed_knob: Path, tmp_path: Path
) -> None:
    data = posed_knob if options.pop("data", None) == "posed" else scene
    with pytest.raises(InputError, match=message):
        train(configured(data, tmp_path / "outputs", **options))


def test_a_style_that_is_no_number_any_more_stops_and_keeps_the_last_checkpoint(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invert3d_ns.alignment import style_losses

    score = style_losses._Asked.direction
    monkeypatch.setattr(style_losses._Asked, "direction", lambda *a: score(*a) * torch.nan)
    with pytest.raises(InputError, match="the loss is not a number at step 1 of style 1"):
        train(configured(scene, tmp_path))
