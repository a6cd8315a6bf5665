"""Scenes that were edited in a browser become runs: the same that ns-train leaves, for every command and the panel."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from edit_runs import TOP, edit, make_material
from nerfstudio.utils.eval_utils import eval_setup
from runs import go_on, resume, train

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region, load_edits, parse_edit
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.methods import saved_edits
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.runs import read_run

RED, GREEN = (parse_edit(words, steps=2) for words in ("blue instead of red", "green instead of blue"))
PART = replace(parse_edit("in van gogh style", steps=2), region=Region(TOP))


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_material(folder, tiny_v_prior)
    return folder


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    """The methods under their names, also where the package is not installed."""
    from nerfstudio.configs.method_configs import all_methods

    from invert3d_ns.configs import invert3d, invert3d_edit

    monkeypatch.setitem(all_methods, "invert3d", invert3d.config)
    monkeypatch.setitem(all_methods, "invert3d-edit", invert3d_edit.config)


@pytest.fixture(scope="module")
def run(material: Path) -> Path:
    return material / "outputs" / "ball" / "invert3d" / "run"


def viewed(folder: Path) -> tuple[Any, EditActions]:
    """A run as ns-viewer has it, without a browser."""
    _config, pipeline, _checkpoint, _step = eval_setup(folder / "config.yml")
    host: Any = pipeline
    host.output_folder = folder
    actions = host.edit_panel.actions
    actions.look_for_runs()
    return host, actions


def do(action) -> str:
    outcome = action.run(lambda done, total: None, lambda: False)
    return outcome.message


def saved_by(actions: EditActions, *edits: Edit) -> Path:
    for each in edits:
        do(actions.apply_edit(each))
    message = do(actions.save())
    assert message.startswith("Saved as the run ")
    return Path(message.removeprefix("Saved as the run "))


def same(one: SplatCloud, other: SplatCloud) -> bool:
    return all(torch.equal(values, other.tensors()[name]) for name, values in one.tensors().items())


def names(folder: Path) -> set[str]:
    return {path.name.split(".tfevents")[0] for path in folder.iterdir()} - {"events.out"}


def test_a_saved_run_is_what_ns_train_leaves_and_every_command_takes_it(run: Path, material: Path) -> None:
    host, actions = viewed(run)
    original = host.splats()
    folder = saved_by(actions, RED, GREEN, PART)
    assert folder.parent == run.parents[1] / "invert3d-edit"
    shown = host.splats()
    assert same(read_run(folder), shown) and not same(shown, original)
    assert load_edits(folder / "edits.json") == [RED, GREEN, PART]

    trained = train(edit(run, material / "again", pipeline__edit_options__edits=folder / "edits.json"))
    assert same(read_run(trained), shown) and names(trained) == names(folder)

    words = (folder / "embedding.safetensors").read_bytes()
    go_on(folder)  # a finished run ends at once, and writes the same
    assert same(read_run(folder), shown) and load_edits(folder / "edits.json") == [RED, GREEN, PART]
    assert (folder / "embedding.safetensors").read_bytes() == words

    later, other = viewed(folder)
    assert same(later.splats(), shown) and later.edits == [RED, GREEN, PART]
    assert other.keep_unsaved() is None, "nothing is new"
    do(other.versions.undo())
    assert same(later.splats(), original) and later.edits == [], "what was before its edits is known"
    do(other.versions.redo())
    do(other.apply_edit(replace(GREEN, source="green", target="yellow"), replace_last=True))
    assert [each.label for each in later.edits] == ["red -> blue", "blue -> green", "green -> yellow"]
    assert same(other.versions.current.origin.snapshot, original)

    elsewhere, third = viewed(run)
    assert [saved.folder for saved in third.runs] == [folder]
    do(third.open(folder))
    assert same(elsewhere.splats(), shown) and elsewhere.edits == [RED, GREEN, PART]
    assert third.versions.current.origin is third.versions.history.first


def test_edits_on_top_of_an_edited_run_are_saved_on_top_of_it(run: Path) -> None:
    host, actions = viewed(run)
    host.edits = [RED]  # as if the run had been made with it: what it was before is not known
    folder = saved_by(actions, PART)
    assert load_edits(folder / "edits.json") == [RED, PART] and load_edits(folder / "new_edits.json") == [PART]
    go_on(folder)
    assert same(read_run(folder), host.splats())
    assert load_edits(folder / "edits.json") == [RED, PART]


def test_what_is_compared_or_undone_is_saved_as_it_is(run: Path) -> None:
    host, actions = viewed(run)
    do(actions.apply_edit(RED))
    red = host.splats()
    do(actions.apply_edit(PART))
    do(actions.versions.undo())
    do(actions.versions.compare())
    shown = host.splats()
    folder = saved_by(actions)
    assert same(read_run(folder), red) and same(host.splats(), shown) and actions.versions.comparing
    assert load_edits(folder / "edits.json") == [RED]


def test_a_saved_run_that_was_moved_goes_on_where_it_lies(run: Path, tmp_path: Path) -> None:
    host, actions = viewed(run)
    moved = saved_by(actions, RED).rename(tmp_path / "moved")
    assert resume(moved, "invert3d-edit") == moved
    assert same(read_run(moved), host.splats())
    written = yaml.load((moved / "config.yml").read_text(), Loader=yaml.Loader)
    assert written.pipeline.edit_options.edits == moved / "edits.json"


@pytest.mark.parametrize("above", ["/", "a file"])
def test_a_run_is_saved_within_one_that_nothing_can_be_made_beside(run: Path, tmp_path, monkeypatch, above) -> None:
    """At the top of a disk, or where others' folders are."""
    own, beside = tmp_path / "run", Path("/") if above == "/" else tmp_path / "run" / "config.yml"
    shutil.copytree(run, own)
    monkeypatch.setattr(saved_edits, "_experiment", lambda run: beside)
    host, actions = viewed(own)
    folder = saved_by(actions, RED)
    assert folder.parent == own / "invert3d-edit" and same(read_run(folder), host.splats())
    assert [saved.folder for saved in actions.runs] == [folder]


def test_what_cannot_be_written_leaves_nothing_behind(run: Path, monkeypatch) -> None:
    host, actions = viewed(run)
    do(actions.apply_edit(RED))
    there = set(run.parents[1].rglob("*"))

    def full(*given, **named):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("invert3d_ns.methods.saved_edits.write_checkpoint", full)
        with pytest.raises(InputError, match=r"cannot write .*No space left on device; free some space"):
            do(actions.save())
    assert set(run.parents[1].rglob("*")) == there
    host.output_folder = run / "nowhere"
    with pytest.raises(InputError, match="belongs to no run"):
        do(actions.save())


def test_what_is_not_of_this_scene_is_not_opened(run: Path, tmp_path: Path) -> None:
    host, actions = viewed(run)
    with pytest.raises(InputError, match="has no checkpoint"):
        do(actions.open(tmp_path))
    host.words.data += 1
    with pytest.raises(InputError, match="has other words than this scene; open it by itself"):
        do(actions.open(run))
