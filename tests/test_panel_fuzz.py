"""Two people click on one scene in any order: nothing breaks, no scene is lost, nobody's form is another's.

All of it is drawn from a seed and runs in one thread: what people do while an action runs happens at its steps. In full
(``python tests/test_panel_fuzz.py 5000``) by hand.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_stage import Actions, Gate, SplatHost
from viser_stage import Browser, Server

from invert3d_ns.editing.change import EditChange
from invert3d_ns.live import edit_actions
from invert3d_ns.live.panels.edit_panel import EditPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.scenes.cloud import SplatCloud

SEQUENCES, EVENTS = 500, 30
WORDS = (
    *("blue", "green instead of blue", "red -> blue", "in van gogh style", "striped", "", "   ", "<object> {alert(1)}"),
    *(
        "a *bold* _move_ of <object>",
        "<script>x</script>",
        "import x from <object>",
        "replace red with {{blue}}",
        "--- # `x`",
    ),
)
FIELDS: dict[str, tuple[Any, ...]] = {
    "Words": WORDS,
    "From": ("", "red", "{red}"),
    "To": ("", "blue", "<b>"),
    "It is": ("", "red car"),
    "Amount": (1.0, 0.0, -2.0, 9.0),
    "Weights": ("", "blue=2", "nothing"),
    "Guidance": ("auto", "6", "{x}", "900"),
    "Seed": (0, 1, 2),
    "Change": ("colors", "geometry"),
    "Keep silhouette": (True, False),
    "Only": ("", "wheels"),
    "Only here": (True, False),
    "Center": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.5)),
    "Size": ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "Replace last": (True, False),
}
BUTTONS = ("Preview", "Apply", "Apply", "Apply", "Stop", "Undo", "Undo", "Redo", "Compare", "Save", "Open")


def bits(cloud: SplatCloud) -> list[torch.Tensor]:
    return list(cloud.tensors().values())


def same(one: SplatCloud, other: SplatCloud) -> bool:
    return all(map(torch.equal, bits(one), bits(other)))


class Play(Gate):
    """One sequence of what people do; at the moments of actions, which pass here, they do more."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.host = SplatHost(folder)
        self.original = replace(self.host.cloud)
        self.queue = ActionQueue(self.host)
        self.state = self.random.choice(["completed", "completed", "completed", "training"])
        self.queue.training = lambda: self.state  # type: ignore[assignment, return-value]
        self.actions = Actions(self.host, self.queue)
        self.actions.gate = self
        self.panel, self.server = EditPanel(self.actions), Server()
        self.panel.install(self.server)  # type: ignore[arg-type]
        self.people: list[Browser] = [self.server.connect(), self.server.connect()]
        self.typed: list[dict[str, Any]] = [{"Words": WORDS[0]}, {"Words": WORDS[3]}]
        for browser, typed in zip(self.people, self.typed, strict=True):
            browser.set(**typed)
        self.saved: dict[Path, SplatCloud] = {}
        self.left = EVENTS
        save_run = self.host.save_run

        def save(version, made, *, unasked=False):
            path = save_run(version, made, unasked=unasked)
            self.saved[path] = replace(version.snapshot)
            return path

        self.host.save_run = save  # type: ignore[method-assign]

    def passes(self, moment: str) -> None:
        while self.left and self.random.random() < 0.3:
            self.act()

    def run(self) -> None:
        while self.left:
            self.act()
            if self.random.random() < 0.5:
                self.work()
        self.state = "completed"
        while not self.queue.idle:
            self.work()
        self.check()

    def work(self) -> None:
        self.queue.run_pending(limit=self.random.choice([1, 3]))
        assert "see the terminal" not in self.queue.state.error, self.queue.state.error

    def act(self) -> None:
        self.left -= 1
        who = self.random.randrange(2)
        what, browser = self.random.random(), self.people[who]
        if what < 0.4:
            label = self.random.choice([*FIELDS, "Words", "Words"])
            # Mostly what can be carried out, which stands first.
            value = FIELDS[label][0] if self.random.random() < 0.6 else self.random.choice(FIELDS[label])
            value = self.random.choice(WORDS[:5]) if label == "Words" and self.random.random() < 0.6 else value
            browser.by_label[label].person_sets(value)
            self.typed[who][label] = value
        elif what < 0.9:
            browser.press(self.random.choice(BUTTONS))
        elif what < 0.93:
            self.host.has_words = not self.host.has_words
        elif what < 0.95:
            self.state = "completed"
        elif browser.by_label["Saved"].visible:
            browser.set(Saved=self.random.choice(list(browser.by_label["Saved"].options)))
        else:  # a page that is loaded anew
            self.server.disconnect(browser)
            self.people[who] = self.server.connect()

    def check(self) -> None:
        for browser, typed in zip(self.people, self.typed, strict=True):
            for label, value in typed.items():
                assert browser.by_label[label].value == value, label
            ours = r'<span style=\{\{(color: "#ff6b6b", )?overflowWrap: "anywhere"\}\}>|</span>'
            plain = re.sub(ours, "", browser.status)
            assert not re.search(r"(?<!\\)[<{`]", plain), plain
        versions = self.actions.versions
        current = versions.current
        if versions.comparing:
            assert same(self.host.cloud, versions.history.first.snapshot)
        else:
            assert same(self.host.cloud, current.snapshot) and tuple(self.host.edits) == current.edits
        for folder, cloud in self.saved.items():
            self.queue.ask(self.actions.open(folder))
            self.queue.run_pending()
            assert same(self.host.cloud, cloud) and not versions.comparing
        self.queue.ask(versions.undo)
        while self.queue.run_pending() and not self.queue.state.error:
            self.queue.ask(versions.undo)
        assert self.queue.state.error == "there is nothing to undo"
        assert same(self.host.cloud, self.original) and not self.host.edits and self.queue.idle


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    make_quick(monkeypatch.setattr)


def make_quick(put) -> None:
    put(edit_actions, "measure_change", lambda before, after: EditChange(41.2, 0.98))
    put(edit_actions, "render_sides", lambda splats, size: (torch.zeros(1, 4, 3, 16, 16), None))
    put(edit_actions, "before_and_after", lambda before, after: np.zeros((2, 2, 3), np.uint8))


def play(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Play(seed, Path(folder)).run()


@pytest.mark.parametrize("first", range(0, SEQUENCES, 100))
def test_any_order_of_clicks_is_survived(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            play(seed)
        except Exception as error:
            raise AssertionError(f"sequence {seed}") from error


def test_the_play_does_all_of_it() -> None:
    """What is never done is not tested."""
    done: set[str] = set()
    for seed in range(40):
        with tempfile.TemporaryDirectory() as folder:
            game = Play(seed, Path(folder))
            game.queue.subscribe(lambda game=game: done.add(re.split(r" '| /|$", game.queue.state.message)[0]))
            game.run()
    assert done >= {"Preview of", "Applied", "Undid", "Redid", "Saved as the run", "Opened", "Stopping ..."}
    assert done >= {"The scene now.", "The scene before all edits; Compare brings them back."}


if __name__ == "__main__":
    make_quick(setattr)
    for number in range(int(sys.argv[1])):
        play(number)
