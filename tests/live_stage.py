"""Stand-ins for what is slow about editing a live scene, whose moments a test holds up, and somebody who watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from synthetic import make_cloud

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.queue import Action, ActionQueue, LiveState
from invert3d_ns.words.embedding import ObjectEmbedding

PATIENCE = 20.0
BLUE = EditForm(words="blue instead of red")
STYLE = EditForm(words="in van gogh style")


class Gate:
    """Moments at which a thread waits for the test; ``holds`` names them."""

    def __init__(self) -> None:
        self.holds: set[str] = set()
        self._reached, self._go = threading.Semaphore(0), threading.Semaphore(0)

    def passes(self, moment: str) -> None:
        if moment in self.holds:
            self._reached.release()
            assert self._go.acquire(timeout=PATIENCE)

    def wait(self) -> None:
        """Until a thread has come to a moment that is held."""
        assert self._reached.acquire(timeout=PATIENCE)

    def let_go(self) -> None:
        """On to the next moment that is held."""
        self._go.release()

    def open(self) -> None:
        """On, and nothing is held any more."""
        self.holds = set()
        self.let_go()

    def abandon(self) -> None:
        self.holds = set()
        for _ in range(20):
            self._go.release()


class Watcher:
    """Keeps every state and waits for one."""

    def __init__(self, queue: ActionQueue) -> None:
        self.queue, self.states, self.news = queue, [], threading.Condition()
        queue.subscribe(self)

    def __call__(self) -> None:
        with self.news:
            self.states.append(self.queue.state)
            self.news.notify_all()

    def until(self, what: Callable[[LiveState], object]) -> None:
        with self.news:
            assert self.news.wait_for(lambda: what(self.queue.state), PATIENCE), self.queue.state

    def until_idle(self) -> None:
        self.until(lambda state: not state.task and self.queue.idle)


class StandInPrior:
    """Counts who uses it."""

    name, device = "stand-in", "cpu"

    def __init__(self) -> None:
        self.uses, self.users = 0, 0

    class info:
        image_size = 16

    @contextmanager
    def use(self) -> Iterator[Any]:
        self.uses += 1
        self.users += 1
        try:
            yield self
        finally:
            self.users -= 1


class SplatHost:
    """A scene of a few splats, and everything that was ever shown of it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.lock: AbstractContextManager[Any] = nullcontext()
        self.rerender: Callable[[], None] = lambda: None
        self.edits: list[Edit] = []
        self.output_folder = folder
        self.prior: Any = StandInPrior()
        self.cloud = make_cloud(20)
        self.shown: list[float] = []
        self.has_words = True

    def embedding(self) -> ObjectEmbedding:
        if not self.has_words:
            raise InputError("there are no words of this scene yet")
        return ObjectEmbedding(torch.zeros(2, 4), prior="stand-in", fingerprint="0")

    def snapshot(self):
        with self.lock:
            return self.splats()

    def restore(self, snapshot) -> None:
        with self.lock:
            self.set_splats(snapshot)
        self.rerender()

    def splats(self):
        return self.cloud.to("cpu")

    def set_splats(self, cloud) -> None:
        self.cloud = cloud.to("cpu")
        self.shown.append(self.height())

    def height(self) -> float:
        """Stands for how the scene looks: every edit lifts it."""
        return round(float(self.cloud.means[:, 2].mean() - make_cloud(20).means[:, 2].mean()), 3)


class Editor:
    """Lifts splats by 1 in four steps, each of which waits until the test lets it go."""

    total_steps = 4

    def __init__(self, actions: Actions, cloud) -> None:
        self.actions, self.start, self.done = actions, cloud, 0

    def prepare(self, progress=None, should_stop=None) -> None:
        self.actions.gate.passes("prepare")
        if should_stop is not None and should_stop():
            raise Cancelled

    def step(self) -> dict[str, float]:
        self.actions.gate.passes("step")
        assert self.actions.host.prior.users == 1, "the prior is used by nobody else meanwhile"
        self.done += 1
        if self.actions.broken:
            raise RuntimeError("no such {luck}\nat all")
        return {}

    def cloud(self):
        lifted = self.start.means + torch.tensor([0.0, 0.0, self.done / self.total_steps])
        return replace(self.start, means=lifted)


class Actions(EditActions):
    """Actions whose views and editor are stand-ins."""

    host: Any

    def __init__(self, host: Any, queue: ActionQueue) -> None:
        super().__init__(host, queue)
        self.gate = Gate()
        self.asked: list[list[str]] = []
        self.threads: list[str] = []
        self.broken = False

    def make_views(self, splats, prior, embedding, edits, config, progress, should_stop):
        self.asked.append([edit.label for edit in edits])
        self.threads.append(threading.current_thread().name)
        for step in range(3):
            self.gate.passes("preview")
            assert self.host.prior.users == 1, "the prior is used by nobody else meanwhile"
            progress(step + 1, 3)
            if should_stop():
                raise Cancelled
        return torch.zeros(1, 4, 3, 16, 16), torch.ones(1, 4, 3, 16, 16)

    def make_editor(self, splats, prior, embedding, edits, config) -> Any:
        self.asked.append([edit.label for edit in edits])
        return Editor(self, splats)


class Stage:
    """A host, its actions, their queue with a running thread, and a watcher; asks as the panel does."""

    def __init__(self, folder: Path) -> None:
        self.host = SplatHost(folder)
        self.queue = ActionQueue(self.host)
        self.actions = Actions(self.host, self.queue)
        self.versions, self.gate = self.actions.versions, self.actions.gate
        self.watcher = Watcher(self.queue)
        self.queue.start()

    def close(self) -> None:
        self.gate.abandon()
        self.queue.close()

    def preview(self, form: EditForm) -> None:
        self.queue.ask(lambda: self.actions.preview_edit(form.edit()))

    def apply(self, form: EditForm) -> None:
        self.queue.ask(lambda: self.actions.apply_edit(form.edit()))

    def ask(self, *actions: Callable[[], Action]) -> None:
        for action in actions:
            self.queue.ask(action)

    def until_labels(self, *labels: str) -> None:
        self.watcher.until(lambda state: self.versions.labels == labels and self.queue.idle)
