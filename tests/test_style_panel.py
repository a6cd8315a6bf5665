"""The Style tab: what its widgets ask a host for, and what they show of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from viser_stage import Server

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.live.host import HasStyles
from invert3d_ns.live.panels.style_panel import SLIDERS, StylePanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.hybrids import Anchor, Hybrid


class Host:
    """A scene and its styles, shown to nobody; making one takes two steps."""

    def __init__(self, *styles: str) -> None:
        self.prompts = ("original", *styles)
        self.model = SimpleNamespace(follows_time=True)
        self.strengths = {"clip": 0.0, "augmented": 0.0, "directional": 1.0, "patch": 1.0, "reach": 1.0, "color": 0.0}
        self.shown: Any = SameEverywhere((1.0, *[0.0] * len(styles)))
        self.words = (self.prompts[-1], "")
        self.style_in_the_making: str | None = None
        self.lock: Any = None
        self.rerender: Callable[[], None] = lambda: None
        self.output_folder: Path | None = None
        self.asked: list[Any] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def snapshot(self) -> None:
        raise AssertionError("nothing here needs a copy of the scene")

    restore = snapshot

    def show_blend(self, blend) -> None:
        self.shown = blend

    @property
    def weights(self) -> list[float]:
        return [round(value, 3) for value in self.shown.weights]

    def check_style(self, prompt: str, negative_prompt: str) -> None:
        if prompt in self.prompts:
            raise InputError(f"there is a style {prompt!r} already; say something else")

    def change_strengths(self, strengths) -> None:
        self.strengths = dict(strengths)

    def change_words(self, prompt: str, negative_prompt: str) -> str:
        self.prompts, self.words = (*self.prompts[:-1], prompt), (prompt, negative_prompt)
        return ""

    def follow_style(self, prompt: str, negative_prompt: str, strengths) -> None:
        if self.style_in_the_making is None:
            raise InputError("no style is being made")
        self.change_words(prompt, negative_prompt)
        self.change_strengths(strengths)
        self.style_in_the_making = prompt

    def make_style(self, prompt, negative_prompt, strengths, progress, should_stop):
        self.asked.append((prompt, negative_prompt, dict(strengths)))
        before = self.prompts
        self.prompts, self.style_in_the_making = (*before, prompt), prompt
        for step in range(2):
            self.meanwhile()
            if should_stop():
                self.prompts, self.style_in_the_making = before, None
                raise Cancelled
            progress(step + 1, 2)
        self.shown = SameEverywhere((*[0.0] * len(before), 1.0))
        self.style_in_the_making = None
        return np.zeros((4, 4, 3), np.uint8)

    def save_styles(self) -> str:
        return "2 files are in styles."


@pytest.fixture
def stage() -> tuple[Host, StylePanel, Server, ActionQueue]:
    host = Host("at night", "on fire")
    assert isinstance(host, HasStyles)
    queue, server = ActionQueue(host), Server()
    panel = StylePanel(host, queue)
    panel.install(server)  # type: ignore[arg-type]
    return host, panel, server, queue


def test_styles_are_shown_at_once_and_as_strongly_as_one_likes(stage) -> None:
    host, _, server, _ = stage
    assert server.by_label["Show"].options == ("original", "at night", "on fire")
    server.set(Show="on fire")
    assert host.weights == [0.0, 0.0, 1.0] and "**Shown:** on fire" in server.status
    server.set(Strength=1.5)
    assert host.weights == [-0.5, 0.0, 1.5] and "on fire × 1" in server.status
    server.set(Show="at night", Strength=0.25)
    assert host.weights == [0.75, 0.25, 0.0]
    server.set(Strength=0.0)
    assert host.weights == [1.0, 0.0, 0.0] and server.by_label["Show"].value == "at night"
    server.set(Show="original", Strength=0.5)
    assert host.weights == [1.0, 0.0, 0.0]


def test_a_click_shows_the_original_and_another_what_was_chosen(stage) -> None:
    host, panel, server, _ = stage
    server.set(Show="on fire", Strength=0.5)
    server.press("A/B")
    panel.refresh()
    assert host.weights == [1.0, 0.0, 0.0] and server.by_label["Show"].value == "on fire"
    server.press("A/B")
    assert host.weights == [0.5, 0.0, 0.5]
    server.press("A/B")
    server.set(Strength=1.0)  # whoever chooses wants to see it
    assert host.weights == [0.0, 0.0, 1.0]


def test_what_others_change_is_shown(stage) -> None:
    host, panel, server, _ = stage
    host.shown = SameEverywhere((0.2, 0.8, 0.0))  # a phase that begins
    host.change_strengths({**host.strengths, "clip": 2.0})
    panel.refresh()
    values = {label: server.by_label[label].value for label in ("Show", "Strength", "CLIP")}
    assert values == {"Show": "at night", "Strength": 0.8, "CLIP": 2.0}
    assert host.weights == [0.2, 0.8, 0.0]  # values that are set here are no person's
    server.set(Show="on fire")
    host.prompts = ("original", "at night", "in flames")
    server.connect()
    assert server.by_label["Show"].options == host.prompts and server.by_label["Show"].value == "in flames"
    host.shown = Hybrid((Anchor((0.0, 0.0, 0.1), (1.0, 0.0, 0.0)), Anchor((0.0, 0.0, 0.2), (0.0, 1.0, 0.0))))
    panel.refresh()
    assert server.by_label["Show"].value == "in flames"


def test_the_style_in_the_making_follows_words_and_strengths(stage) -> None:
    host, _, server, queue = stage
    server.set(Prompt="in flames", Avoid="smoke", Patches=0.5, Keep_colors=3.0)
    server.press("Follow")
    assert queue.run_pending() == 1 and "Error:** no style is being made" in server.status.replace("\\", "")
    host.style_in_the_making = "on fire"
    queue.training = lambda: "training"
    server.press("Follow")
    assert queue.run_pending() == 1 and host.words == ("in flames", "smoke")
    assert host.strengths["patch"] == 0.5 and host.strengths["color"] == 3.0 and host.strengths["directional"] == 1.0
    assert server.by_label["Show"].options[-1] == "in flames"
    assert "Following 'in flames'" in queue.state.message and "**Follows:** in flames" in server.status


def test_a_further_style_waits_for_the_end_of_a_training(stage) -> None:
    host, _, server, queue = stage
    queue.training = lambda: "training"
    server.set(Prompt="in van gogh style", Reach=2.0)
    server.press("Make style")
    assert queue.run_pending() == 0 and "waits until the training is done" in queue.state.message
    server.set(Prompt="something else")  # after the click
    queue.training = lambda: "completed"
    assert queue.run_pending() == 1
    ((prompt, negative, strengths),) = host.asked
    assert (prompt, negative, strengths["reach"]) == (
        "in van gogh style",
        "",
        2.0,
    ) and strengths.keys() == SLIDERS.keys()
    assert server.by_label["Show"].value == "in van gogh style" and host.weights == [0.0, 0.0, 0.0, 1.0]
    assert "Made 'in van gogh style'" in queue.state.message and queue.state.picture is not None


def test_a_further_style_follows_words_and_can_be_stopped(stage) -> None:
    host, _, server, queue = stage
    server.set(Prompt="in van gogh style")
    server.press("Make style")
    clicks = iter(["Follow", "Stop"])

    def meanwhile() -> None:
        click = next(clicks)
        if click == "Follow":
            server.set(Prompt="in monet style")
        else:
            assert host.style_in_the_making == "in monet style"
        server.press(click)

    host.meanwhile = meanwhile
    queue.run_pending()
    assert host.prompts == ("original", "at night", "on fire") and queue.state.message.startswith("Make style stopped")
    assert server.by_label["Show"].options == host.prompts


def test_a_name_that_exists_is_refused_in_one_line(stage) -> None:
    host, _, server, queue = stage
    server.set(Prompt="at night")
    server.press("Make style")
    assert queue.idle and not host.asked
    assert queue.state.error == "there is a style 'at night' already; say something else"


def test_styles_are_saved_during_a_training_too(stage) -> None:
    _, _, server, queue = stage
    queue.training = lambda: "training"
    server.press("Save styles")
    assert queue.run_pending() == 1 and queue.state.message == "2 files are in styles."


def test_a_run_is_finished_from_the_tab(stage, monkeypatch) -> None:
    host, panel, server, queue = stage
    joined: list[Any] = []
    monkeypatch.setattr("invert3d_ns.live.panels.style_panel.connect_viewer", lambda *given: joined.append(given))
    server.press("Finish now")  # before there is a viewer
    trainer = SimpleNamespace(stop_training=False)
    viewer: Any = SimpleNamespace(trainer=trainer, viser_server=server)
    panel._setup(viewer)
    assert joined == [(viewer, host, queue)] and not host.model.follows_time
    server.press("Finish now")
    assert trainer.stop_training and server.by_label["Finish now"].visible
    panel._setup(SimpleNamespace(trainer=None, viser_server=server))  # type: ignore[arg-type]
    assert not server.by_label["Finish now"].visible
