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
from invert3d_ns.editing.composition import composed
from invert3d_ns.editing.edit import Edit
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.history import Version
from invert3d_ns.live.host import SavedRun
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
        words = ()

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
        self.runs: dict[Path, tuple[Version, bool]] = {}

    def save_run(self, version: Version, made: Any, *, unasked: bool = False) -> Path:
        if self.output_folder is None:
            raise InputError("this scene belongs to no run")
        folder = self.output_folder / f"saved-{len(self.runs) + 1}"
        folder.mkdir()
        self.runs[folder] = version, unasked
        return folder

    def saved_runs(self) -> list[SavedRun]:
        latest = reversed(self.runs.items())
        return [SavedRun(folder, version.labels, unasked) for folder, (version, unasked) in latest]

    def open_run(self, folder: Path) -> Version:
        if folder not in self.runs:
            raise InputError(f"{folder} has no checkpoint")
        version, _ = self.runs[folder]
        base = Version(replace(version.origin.snapshot), version.origin.edits)
        return Version(replace(version.snapshot), version.edits, base, source=folder)

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
    """Lifts splats by 1 for each edit in four steps, each of which waits until the test lets it go."""

    total_steps = 4

    def __init__(self, actions: Actions, cloud, edits) -> None:
        self.actions, self.start, self.done, self.height = actions, cloud, 0, len(composed(edits))

    def skip(self, passes: int, cloud) -> None:
        self.actions.skipped.append(passes)

    def advance(self) -> bool:
        return False

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
        lifted = self.start.means + torch.tensor([0.0, 0.0, self.height * self.done / self.total_steps])
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
        self.skipped: list[int] = []

    def make_views(self, now, edits, prior, embedding, progress, should_stop):
        self.asked.append([edit.label for edit in (*now.origin.edits, *edits)])
        self.threads.append(threading.current_thread().name)
        for step in range(3):
            self.gate.passes("preview")
            assert self.host.prior.users == 1, "the prior is used by nobody else meanwhile"
            progress(step + 1, 3)
            if should_stop():
                raise Cancelled
        return torch.zeros(1, 4, 3, 16, 16), torch.ones(1, 4, 3, 16, 16)

    def make_sequence(self, origin, edits, prior, embedding) -> Any:
        self.asked.append([edit.label for edit in (*origin.edits, *edits)])
        return Editor(self, origin.snapshot, edits)


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
        self.queue.ask(lambda: self.actions.preview_edit(form.edit(), replace_last=form.replace_last))

    def apply(self, form: EditForm) -> None:
        self.queue.ask(lambda: self.actions.apply_edit(form.edit(), replace_last=form.replace_last))

    def ask(self, *actions: Callable[[], Action]) -> None:
        for action in actions:
            self.queue.ask(action)

    def until_labels(self, *labels: str) -> None:
        self.watcher.until(lambda state: self.versions.labels == labels and self.queue.idle)
