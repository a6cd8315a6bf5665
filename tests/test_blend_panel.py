"""The Blend tab: sliders, the triangle of three objects, and anchors of a hybrid."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO as RATIO
from viser_stage import Server

from invert3d_ns.live.panels.blend_panel import BlendPanel
from invert3d_ns.live.panels.blend_triangle import corners, weights_at
from invert3d_ns.scenes.blending import Blend
from invert3d_ns.scenes.hybrids import Hybrid, read_anchors


class Host:
    """Objects that are shown to nobody."""

    def __init__(self, *prompts: str, folder: Path | None = None) -> None:
        self.prompts, self.output_folder = prompts, folder
        self.model = SimpleNamespace(follows_time=True)
        self.shown: list[Blend] = []

    def show_blend(self, blend: Blend) -> None:
        self.shown.append(blend)

    @property
    def weights(self) -> list[float]:
        uniform = self.shown[-1].uniform()
        assert uniform is not None
        return [round(value, 3) for value in uniform.tolist()]


def _panel(host: Host) -> tuple[BlendPanel, Server]:
    panel, server = BlendPanel(host, queue=None), Server()  # type: ignore[arg-type]
    panel._create_gui_handle(server)  # type: ignore[arg-type]
    return panel, server


def test_one_slider_leads_from_one_object_to_the_other() -> None:
    host = Host("a red chair", "a blue table")
    _, server = _panel(host)
    server.set(Blend=0.25)
    assert host.weights == [0.75, 0.25] and len(host.shown) == 1
    server.by_label["Only"].person_sets("2")
    assert host.weights == [0.0, 1.0] and server.by_label["Blend"].value == 1.0
    assert len(host.shown) == 2  # what the button sets is not taken for what a person slides


def test_prompts_mean_nothing_to_the_page_and_have_the_numbers_of_buttons() -> None:
    _, server = _panel(Host("a {red} chair", "a <blue> table"))
    assert server.markdowns[0].content == "1: a \\{red\\} chair\\, at 0  \n2: a \\<blue\\> table\\, at 1"


def test_handles_are_seen_within_and_behind_the_object(tmp_path: Path) -> None:
    panel, server = _panel(Host("a", "b", "c", folder=tmp_path))
    assert panel.anchors is not None
    panel.anchors.add(0)
    for name in ("/blend/handle", "/anchors/0"):
        assert server.nodes[name].options["depth_test"] is False


def test_of_many_sliders_the_shares_count() -> None:
    host = Host("a", "b", "c", "d")
    panel, server = _panel(host)
    assert panel.triangle is None
    server.set(b=1.0)
    assert host.weights == [0.5, 0.5, 0.0, 0.0]
    server.set(a=0.0)
    server.set(b=0.0)
    assert host.weights == [1.0, 0.0, 0.0, 0.0]  # of nothing at all, the first


def test_the_handle_in_the_triangle_and_the_sliders_agree() -> None:
    host = Host("a", "b", "c")
    _, server = _panel(host)
    handle = server.nodes["/blend/handle"]
    np.testing.assert_allclose(handle.position, corners()[0] * RATIO, atol=1e-6)
    middle = corners()[1:].mean(0)
    handle.person_drags(tuple(middle * RATIO))
    assert host.weights == [0.0, 0.5, 0.5] and server.by_label["b"].value == 0.5
    server.by_label["Only"].person_sets("3")
    np.testing.assert_allclose(handle.position, corners()[2] * RATIO, atol=1e-6)
    count = len(host.shown)
    server.set(a=1.0)
    assert len(host.shown) == count + 1 and host.weights == [0.5, 0.0, 0.5]
    np.testing.assert_allclose(handle.position, corners()[[0, 2]].mean(0) * RATIO, atol=1e-6)


def test_outside_of_the_triangle_the_nearest_weights_are_taken() -> None:
    for index in range(3):
        assert weights_at(corners()[index] * 3)[index] == pytest.approx(1.0)
    torch.testing.assert_close(weights_at((0.0, 0.0, 5.0)), torch.full((3,), 1 / 3))


def test_anchors_make_a_hybrid_that_is_saved_and_goes_away(tmp_path: Path) -> None:
    host = Host("a red chair", "a blue table", folder=tmp_path)
    _, server = _panel(host)
    server.press("Add anchor")
    assert not host.shown and "give two or more" in server.markdowns[-1].content
    server.set(Object="2: a blue table")
    server.press("Add anchor")
    assert isinstance(host.shown[-1], Hybrid) and not server.markdowns[-1].content
    assert [anchor.weights for anchor in host.shown[-1].anchors] == [(1.0, 0.0), (0.0, 1.0)]
    server.nodes["/anchors/1"].person_drags((0.1 * RATIO, 0.0, 99.0))
    assert host.shown[-1].anchors[1].position == (0.1, 0.0, 1.0)  # no farther than the box
    server.set(Between_anchors="ramp")
    assert host.shown[-1].kind == "ramp"
    server.press("Save anchors")
    assert read_anchors(tmp_path / "anchors.json", host.prompts) == host.shown[-1]
    assert json.loads((tmp_path / "anchors.json").read_text())["kind"] == "ramp"
    server.press("Remove anchors")
    assert host.weights == [1.0, 0.0] and not server.nodes["/anchors/1"].visible
