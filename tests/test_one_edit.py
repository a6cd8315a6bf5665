"""The same edit gives the same splats to everybody: ns-train, the browser, and who carries a saved file out again."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from runs import QuietRun
from test_composition import BOTTOM, TOP, same
from test_scene_editor import drawn, scene, words

from invert3d_ns.base.metrics import psnr
from invert3d_ns.editing.edit import Edit, load_edits, save_edits
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.methods.edit_phase import EditPhase
from invert3d_ns.scenes.cloud import SplatCloud

FORM = EditForm(words="blue instead of red", box=TOP.box, seed=7)


class Host:
    """A scene of a few splats with the words of a tiny prior."""

    output_folder: Path | None = None

    def __init__(self, prior, edits: list[Edit] | None = None, cloud: SplatCloud | None = None) -> None:
        self._prior, self.edits, self._cloud = prior, edits or [], scene(80) if cloud is None else cloud

    @property
    def prior(self) -> Any:
        return self

    def use(self) -> Any:
        return nullcontext(self._prior)

    def embedding(self):
        return words(self._prior)

    def splats(self) -> SplatCloud:
        return replace(self._cloud)

    def set_splats(self, cloud: SplatCloud) -> None:
        self._cloud = cloud

    snapshot = splats
    restore = set_splats
    lock, rerender = nullcontext(), staticmethod(lambda: None)

    # What a phase asks of its pipeline

    config = SimpleNamespace(edit=SceneEditConfig(), prior_options=None)

    def freeze_for_editing(self) -> Any:
        return self._prior

    def check_words_describe_splats(self, region) -> None: ...


def trained(host: Host, edits: list[Edit]) -> SplatCloud:
    """What ns-train makes of edits."""
    phase, run = EditPhase(cast(Any, host), edits), cast(Any, QuietRun())
    phase.begin(run, None)
    for index in range(phase.steps):
        phase.step(run, index)
    return host.splats()


def applied(host: Host, form: EditForm) -> SplatCloud:
    """What a browser makes of an edit."""
    actions = EditActions(cast(Any, host), ActionQueue(cast(Any, host)))
    apply_in_browser(actions, form)
    return host.splats()


def apply_in_browser(actions: EditActions, form: EditForm) -> None:
    actions.apply_edit(quick(form.edit())).run(lambda done, total: None, lambda: False)


def quick(edit: Edit) -> Edit:
    return replace(edit, steps=2)


@pytest.mark.parametrize("change", ["colors", "geometry"])
def test_a_browser_and_ns_train_give_the_same_splats(tiny_v_prior, change) -> None:
    form = replace(FORM, change=change)
    browser, command = Host(tiny_v_prior), Host(tiny_v_prior)
    live = applied(browser, form)
    assert not same(live, scene(80))
    assert same(live, trained(command, [quick(form.edit())]))
    assert browser.edits == command.edits == [quick(form.edit())]


def test_a_saved_part_edit_changes_the_same_part_when_it_is_carried_out_again(tiny_v_prior, tmp_path) -> None:
    host = Host(tiny_v_prior)
    before, first = host.splats(), applied(host, FORM)
    save_edits(host.edits, tmp_path / "edits.json", host.embedding())
    assert load_edits(tmp_path / "edits.json", host.embedding()) == host.edits
    edits = EditOptions(edits=tmp_path / "edits.json").requested_edits(None, host.embedding())
    again = trained(Host(tiny_v_prior), edits)
    assert same(again, first)
    changed = (again.features_dc != before.features_dc).any(dim=1)
    assert changed.any() and (before.means[changed, 2] >= 0.2).all()


def test_a_second_edit_of_the_whole_scene_keeps_what_the_first_did_to_a_part(tiny_v_prior) -> None:
    part = replace(quick(FORM.edit()), region=TOP)
    host = Host(tiny_v_prior)
    untouched, first = host.splats(), trained(host, [part])
    whole = Edit(source="red", target="cat", steps=2)
    second = trained(host, [whole])
    assert host.edits == [part, whole]
    # The words of the part say nothing of the whole: the result is that of an unrecorded repaint and the whole edit.
    assert same(second, trained(Host(tiny_v_prior, cloud=first), [whole]))
    assert not same(second, trained(Host(tiny_v_prior), [whole]))
    # An edit that moves nothing leaves the part as it was made.
    still = trained(Host(tiny_v_prior, [part], first), [replace(whole, amount=1e-6)])
    assert psnr(drawn(still), drawn(first)) > psnr(drawn(untouched), drawn(first)) + 10
    upper = first.means[:, 2] >= 0.2
    moved, kept = first.features_dc - untouched.features_dc, still.features_dc - first.features_dc
    assert kept[upper].abs().mean() < 0.2 * moved[upper].abs().mean()


def test_edits_of_several_parts_are_carried_out_again_one_after_another(tiny_v_prior) -> None:
    """A file that a browser saved after two edits, of the top and of the bottom."""
    top, bottom = (replace(FORM, box=region.box) for region in (TOP, BOTTOM))
    host = Host(tiny_v_prior)
    actions = EditActions(cast(Any, host), ActionQueue(cast(Any, host)))
    for form in (top, bottom):
        apply_in_browser(actions, form)
    again = Host(tiny_v_prior)
    assert same(trained(again, list(host.edits)), host.splats())
    middle = scene(80).means[:, 2].abs() < 0.2
    assert middle.any() and torch.equal(again.splats().features_dc[middle], scene(80).features_dc[middle])
    assert again.edits == host.edits


def test_a_color_after_a_color_is_the_last_one_in_the_browser_and_in_ns_train(tiny_v_prior) -> None:
    host = Host(tiny_v_prior)
    actions = EditActions(cast(Any, host), ActionQueue(cast(Any, host)))
    for text in ("blue instead of red", "mug instead of blue", "cat instead of mug"):
        apply_in_browser(actions, replace(FORM, words=text))
    assert same(trained(Host(tiny_v_prior), list(host.edits)), host.splats())
    alone = quick(replace(FORM, words="cat instead of red").edit())
    assert same(trained(Host(tiny_v_prior), [alone]), host.splats())
