"""Actions on a scene that people watch: they wait in a queue, one worker runs them, everybody sees one state.

Whoever clicks only adds to the queue and goes on. While a scene trains, the trainer runs what may run between two of
its steps (:meth:`ActionQueue.run_pending`), and everything else waits for the end of the training; then a thread of the
queue's own runs it all. Nothing here knows what the actions do, nor what the scene is made of.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from invert3d_ns.live.host import Host

Training = Literal["training", "paused", "completed"]
"""What the training of a scene is doing; a scene that nobody trains is "completed"."""

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """What an action came to."""

    message: str = ""
    """One line; the line that is shown stays if empty."""
    picture: UInt8[np.ndarray, "H W 3"] | None = None
    """RGB; the picture that is shown stays if None."""
    caption: str = ""
    """What the picture shows."""
    outdates_picture: bool = False
    """Whether the picture that is shown is of another scene now, and goes unless there is a new one."""


@dataclass(frozen=True, eq=False)
class Action:
    """Something to do to or with a scene.

    Raises:
        ValueError: it would change the scene during training.
    """

    label: str
    """What a person calls it, such as "Apply"."""
    run: Callable[[Progress, ShouldStop], Outcome | None]
    """Does it, in one thread, while no other action runs. InputError becomes a line; ``Cancelled`` says that it gave up
    because ``should_stop`` said so."""
    task: str = ""
    """What is shown while it runs, such as "Applying 'red -> blue'"; nothing if empty."""
    changes_scene: bool = True
    """Whether it changes the scene. If it fails or is stopped, the scene is restored to what it was before."""
    during_training: bool = False
    """Whether it may run between two steps of a training."""
    instant: bool = False
    """Whether it takes no time and cannot fail halfway: it need not wait for an action that changes nothing, and the
    scene is not copied before."""
    kind: str = ""
    """Only the newest action of a kind is wanted: others of it are given up, waiting or running. Empty: none are."""

    def __post_init__(self) -> None:
        if self.during_training and self.changes_scene:
            raise ValueError(f"{self.label} changes the scene, so it cannot run during training")


@dataclass(frozen=True)
class LiveState:
    """What everybody who watches sees."""

    message: str = ""
    """One line on what happens, or on what the latest action came to."""
    error: str = ""
    """One line on what went wrong with the latest action; empty if nothing did."""
    task: str = ""
    """What is being done; empty if nothing is."""
    progress: float = 0.0
    """Share of the task that is done, 0 to 1."""
    waiting: int = 0
    """Actions in the queue."""
    picture: UInt8[np.ndarray, "H W 3"] | None = None
    """The latest picture, RGB."""
    caption: str = ""
    """What the picture shows."""


class ActionQueue:
    """Runs actions on one scene in the order in which they were asked for.

    Every public method may be called from any thread and returns at once, but :meth:`run_pending` and :meth:`close`.

    Args:
        host: has the scene.

    Attributes:
        state: the latest; replaced, never changed.
        training: says whether somebody else is changing the scene.
        ending: says whether that training is asked to stop, and what runs between two of its steps with it.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.state = LiveState()
        self.training: Callable[[], Training] = lambda: "completed"
        self.ending: Callable[[], bool] = lambda: False
        self._listeners: list[Callable[[], None]] = []
        self._queue: deque[Action] = deque()
        self._changed = threading.Condition()
        self._running: Action | None = None
        self._stop = False
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    # What people ask for

    def ask(self, action: Action | Callable[[], Action], *, quietly: bool = False) -> None:
        """Add an action to the queue, and clear the error of the one before.

        Args:
            action: or what makes it; an InputError from that is shown, and nothing is added.
            quietly: nobody has asked for it, so nothing that is shown changes before it is done.
        """
        if not isinstance(action, Action):
            try:
                action = action()
            except InputError as error:
                self._publish(error=one_line(error))
                return
        with self._changed:
            if action.kind:
                self._queue = deque(other for other in self._queue if other.kind != action.kind)
            self._queue.append(action)
            self._changed.notify_all()
        if quietly:
            return
        changes: dict[str, Any] = {"error": ""}
        if not action.during_training and self.training() != "completed":
            changes["message"] = f"{action.label} waits until the training is done."
        self._publish(**changes)

    def ask_when_idle(self, action: Action) -> bool:
        """Add an action, unless another one waits or runs or the scene is trained; returns whether it was added."""
        with self._changed:
            if self._queue or self._running is not None or self.training() != "completed":
                return False
            self._queue.append(action)
            self._changed.notify_all()
        return True

    def stop(self) -> None:
        """Give up what is being done, before its next step, and whatever waits; the scene is as before it."""
        with self._changed:
            dropped, running = len(self._queue), self._running is not None
            self._queue.clear()
            self._stop = running
        nothing = "There is nothing to stop."
        self._publish(message="Stopping ..." if running else f"Dropped {dropped} waiting." if dropped else nothing)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._changed:
            return not self._queue and self._running is None

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, from any thread, whenever :attr:`state` is another."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` no more; nothing happens if nobody did."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def _publish(self, **changes: Any) -> None:
        with self._changed:
            self.state = replace(self.state, waiting=len(self._queue), **changes)
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:  # whose fault it is, the others and the queue's thread go on
                traceback.print_exc()

    # Who runs it

    def run_pending(self, limit: int = 1) -> int:
        """Run what may run now; in a training, at a moment when its trainer, who calls, lets nobody change the scene.

        Returns at once when there is none, or while another thread runs an action. Everything else stays in the queue.
        The caller must not hold the host's lock: actions take it to copy the scene.

        Args:
            limit: the most actions that are run.

        Returns:
            How many were.
        """
        done = 0
        while done < limit and self._queue and self._working.acquire(blocking=False):
            try:
                in_training = self.training() != "completed"
                action = self._next(in_training)
                if action is None:
                    break
                self._carry_out(action, in_training)
                done += 1
            finally:
                self._working.release()
        return done

    def start(self) -> None:
        """Start the queue's own thread, which ends with the process; a second call does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="live actions", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the end of the queue's own thread; listeners hear nothing of it, nor anything after."""
        self._listeners.clear()
        self.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._may_work():
                    # Nobody says when a training ends, so whoever waits for that has to look.
                    self._changed.wait(_POLL_SECONDS if self._queue else None)
                if self._closed:
                    return
            with self._working:
                in_training = self.training() != "completed"
                action = self._next(in_training)
                if action is not None:
                    self._carry_out(action, in_training)

    def _may_work(self) -> bool:
        training = self.training()
        if training == "completed":
            return bool(self._queue)
        return training == "paused" and any(action.during_training for action in self._queue)

    def _next(self, in_training: bool) -> Action | None:
        """Take the first action that may run now out of the queue."""
        with self._changed:
            for action in self._queue:
                if action.during_training or not in_training:
                    self._queue.remove(action)
                    self._running, self._stop = action, False
                    return action
        return None

    def _carry_out(self, action: Action, in_training: bool) -> None:
        changes: dict[str, Any] = {}
        if action.task:
            self._publish(task=action.task, progress=0.0)
        try:
            changes = self._attempt(action, lambda: self._should_stop(action, in_training))
        finally:
            with self._changed:
                self._running = None
            self._publish(task="", progress=0.0, **changes)

    def _attempt(self, action: Action, should_stop: ShouldStop) -> dict[str, Any]:
        """What becomes of :attr:`state` when the action is run; whatever goes wrong becomes one line."""
        earlier = self.state.error
        try:
            outcome = self._run(action, should_stop)
        except Cancelled:
            given_up_for_another = action.kind and not self._stop
            return {} if given_up_for_another else {"message": f"{action.label} stopped; the scene is as before."}
        except InputError as error:
            return {"error": one_line(error)}
        except Exception as error:
            traceback.print_exc()
            line = f"{type(error).__name__}: {one_line(error)[:200]}"
            return {"error": f"{action.label} failed; see the terminal. {line}"}
        changes: dict[str, Any] = {}
        if outcome is not None and outcome.message:
            changes["message"] = outcome.message
            if self.state.error == earlier:  # else something that was done meanwhile went wrong
                changes["error"] = ""
        if outcome is not None and (outcome.picture is not None or outcome.outdates_picture):
            changes |= {"picture": outcome.picture, "caption": outcome.caption}
        return changes

    def _run(self, action: Action, should_stop: ShouldStop) -> Outcome | None:
        """Run the action; if it ends early for whatever reason, the scene is what it was."""
        if action.instant or not action.changes_scene:
            return action.run(self._report_progress, should_stop)
        before = self.host.snapshot()
        try:
            return action.run(self._report_progress, should_stop)
        except BaseException:
            self.host.restore(before)
            raise

    def _report_progress(self, done: int, total: int) -> None:
        self._publish(progress=done / max(total, 1))

    def _should_stop(self, action: Action, in_training: bool) -> bool:
        """Between two steps of an action: do what takes no time, unless it changes the scene; say whether to stop."""
        while not (self._stop or in_training or action.changes_scene):
            with self._changed:
                if not self._queue or not self._queue[0].instant:
                    break
                instant = self._queue.popleft()
            self._publish(**self._attempt(instant, lambda: False))
        if in_training and self.ending():
            return True
        if self._stop or not action.kind:
            return self._stop
        with self._changed:
            return any(other.kind == action.kind for other in self._queue)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
