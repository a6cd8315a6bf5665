"""Styles that are asked for while one watches: further ones, words and weights that change, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from style_stage import Scene

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.live.host import HasStyles
from invert3d_ns.methods.live_styles import _LiveRun
from invert3d_ns.methods.stylize_phase import StylizePhase
from invert3d_ns.runs.checkpoints import FORMAT_VERSION, checkpoint_path, read_checkpoint, write_checkpoint
from invert3d_ns.scenes.blending import SameEverywhere, vertex
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.scenes.runs import OWN, read_run_objects, read_run_record


def _make(scene: Scene, prompt: str = "in van gogh style", stop_after: int = 99, **strengths: float) -> list[int]:
    """Have a style made; the steps that were told of."""
    told: list[int] = []
    scene.make_style(prompt, "", strengths, lambda done, total: told.append(done), lambda: len(told) > stop_after)
    return told


def _groups(scene: Scene) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in scene.model.gauss_params.items()}


def test_a_further_style_is_made_beside_those_that_there_are() -> None:
    scene = Scene("at night")
    assert isinstance(scene, HasStyles)
    before, modes = _groups(scene), {name: p.requires_grad for name, p in scene.model.gauss_params.items()}
    scene.eval()
    assert _make(scene, directional=2.0) == [0, 1, 2, 3]
    assert scene.prompts == ("original", "at night", "in van gogh style") and scene.strengths["directional"] == 2.0
    assert scene.shown.uniform().tolist() == [0.0, 0.0, 1.0]  # type: ignore[union-attr]
    for name, values in before.items():
        now = scene.model.gauss_params[name]
        assert torch.equal(now[:, :2] if name.endswith(OWN) else now, values), name
    assert (scene.colors(2) - scene.colors(0)).abs().max() > 0.02
    assert torch.equal(scene.object_at(2).means, scene.object_at(0).means)
    assert {name: p.requires_grad for name, p in scene.model.gauss_params.items()} == modes
    assert not scene.training and scene.current is None and scene.style_in_the_making is None


@pytest.mark.parametrize("ends", ["stopped", "broken"])
def test_of_a_style_that_comes_to_nothing_nothing_is_left(ends: str) -> None:
    scene = Scene("at night")
    scene.show_blend(SameEverywhere((0.3, 0.7)))
    before, strengths = _groups(scene), scene.strengths
    scene.towers[0].broken = ends == "broken"
    with pytest.raises(Cancelled if ends == "stopped" else InputError):
        _make(scene, stop_after=2, patch=0.5)
    assert scene.prompts == ("original", "at night") and scene.strengths == strengths
    assert scene.model.objects == 2 and scene.shown == SameEverywhere((0.3, 0.7))
    assert all(torch.equal(scene.model.gauss_params[name], values) for name, values in before.items())
    assert scene.current is None and not scene._made_live


def test_names_that_exist_and_words_that_say_nothing_are_refused() -> None:
    scene = Scene("at night")
    for prompt, why in (("At  Night", "there is a style 'at night' already"), ("original", "already"), (" ", "empty")):
        with pytest.raises(InputError, match=why):
            _make(scene, prompt)
    scene.model.anchored = False
    with pytest.raises(InputError, match="what this scene was is not beside its style"):
        _make(scene)
    assert len(scene.prompts) == scene.model.objects == 2


def test_what_is_shown_is_not_what_is_trained() -> None:
    scene = Scene("at night", "on fire")
    phase = StylizePhase(scene, 2, 3)
    phase.begin(_LiveRun(scene.lock), None)  # type: ignore[arg-type]
    scene.model.train_only("features_dc" + OWN)
    looked_at = SameEverywhere.of(vertex(1, 3))
    scene.show_blend(looked_at)
    torch.stack(list(phase.losses(0)[0].values())).sum().backward()
    found = scene.model.gauss_params["features_dc" + OWN].grad
    assert found is not None and bool(found[:, 2].any()) and not found[:, :2].any()
    assert scene.shown is looked_at
    scene.show_blend(SameEverywhere((1.0, 0.0)))  # of fewer objects than there are
    assert scene.shown is looked_at


def test_words_and_weights_change_while_a_style_is_made() -> None:
    scene = Scene("at night")
    with pytest.raises(InputError, match="no style is being made"):
        scene.follow_style("on fire", "", {})
    asked: list[tuple[str, dict[str, float]]] = []

    def told(done: int, total: int) -> None:
        if done == 1:
            assert scene.style_in_the_making == "in van gogh style"
            with pytest.raises(InputError, match="'at night' already"):
                scene.follow_style("at night", "", {"clip": 9.0})
            with pytest.raises(InputError, match="is what the scene is already"):
                scene.follow_style("a photo of a chair", "", {"clip": 9.0})
            assert scene.words == ("in van gogh style", "") and scene.strengths["clip"] == 0.0
            scene.follow_style("on fire", "blue", {"clip": 1.5, "color": 4.0})
        if done >= 2:
            current: Any = scene.current
            asked.append((str(current.loss.words), scene.strengths))

    scene.make_style("in van gogh style", "", {}, told, lambda: False)
    assert scene.prompts[-1] == "on fire" and scene.negative_prompt == "blue"
    words, strengths = asked[0]
    assert "fire" in words and strengths["clip"] == 1.5 and scene.config.keep.color == 4.0


@pytest.mark.parametrize(
    ("strengths", "why"),
    [
        ({"clip": -1.0}, "'clip' is none; give numbers from 0 up"),
        ({"color": float("nan")}, "'color' is none"),
        ({"luck": 1.0}, "luck"),
        ({"directional": 0.0, "patch": 0.0}, "nothing pulls towards the words"),
    ],
)
def test_weights_that_make_no_sense_are_refused(strengths: dict[str, float], why: str) -> None:
    scene = Scene("at night")
    before = scene.strengths
    with pytest.raises(InputError, match=why):
        scene.change_strengths(strengths)
    assert scene.strengths == before


def test_a_resumed_run_goes_on_with_the_weights_that_were_changed() -> None:
    scene, resumed = Scene("at night"), Scene("at night")
    phase, again = StylizePhase(scene, 1, 3), StylizePhase(resumed, 1, 3)
    scene.change_strengths({"reach": 0.25, "color": 2.0})
    assert phase.settings_key() == again.settings_key()  # what was asked for when the run began
    again.begin(_LiveRun(resumed.lock), phase.state_dict())  # type: ignore[arg-type]
    assert resumed.strengths == scene.strengths and resumed.config.style.reach == 0.25
    assert phase.settings_key() == again.settings_key()


def _checkpoint(scene: Scene, folder: Path) -> Path:
    """What a run that made the first style leaves."""
    path = checkpoint_path(folder / "nerfstudio_models", 2)
    group = scene.model.gauss_params["features_dc" + OWN]
    memory = {"step": torch.tensor(3.0), "exp_avg": torch.ones_like(group), "exp_avg_sq": torch.ones_like(group)}
    write_checkpoint(
        {
            "step": 2,
            "pipeline": scene.state_dict(),
            "optimizers": {"features_dc" + OWN: {"state": {0: memory}, "param_groups": []}},
            "run": {"version": FORMAT_VERSION, "phase": "style1", "done": 3, "finished": True},
        },
        path,
    )
    return path


def test_styles_are_saved_as_files_and_in_the_run(tmp_path: Path) -> None:
    scene = Scene("at night", folder=tmp_path)
    path = _checkpoint(scene, tmp_path)
    old = path.read_bytes()
    assert "2 files" in scene.save_styles() and path.read_bytes() == old
    _make(scene)
    message = scene.save_styles()
    assert "3 files" in message and f"ns-train clip-splat --data {tmp_path}" in message
    third = tmp_path / "styles" / "3-in-van-gogh-style.ply"
    torch.testing.assert_close(read_splats(third).features_dc, scene.colors(2), atol=1e-5, rtol=0)
    assert read_run_record(tmp_path).prompts == scene.prompts
    torch.testing.assert_close(read_run_objects(tmp_path)[2].features_dc, scene.colors(2))
    state = read_checkpoint(path)
    remembered = state["optimizers"]["features_dc" + OWN]["state"][0]["exp_avg"]
    assert remembered.shape[1] == 3 and bool((remembered[:, :2] == 1).all()) and not remembered[:, 2].any()
    opened = Scene("at night")
    opened.load_pipeline(state["pipeline"], 2)
    assert opened.prompts == scene.prompts and opened.shown.objects == 3
    assert torch.equal(opened.colors(2), scene.colors(2))
    new = path.read_bytes()
    assert scene.save_styles() == message.split(";")[0] + "." and path.read_bytes() == new  # nothing new


def test_without_a_run_or_a_checkpoint_styles_have_no_place_there(tmp_path: Path) -> None:
    scene = Scene("at night")
    _make(scene)
    with pytest.raises(InputError, match="belongs to no run"):
        scene.save_styles()
    scene.output_folder = tmp_path
    assert "ns-train clip-splat --data FILE" in scene.save_styles() and scene._made_live
