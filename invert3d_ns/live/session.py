"""Editing a scene while people watch it: requests wait in a queue, one worker carries them out, all see one state.

Whoever clicks only adds to the queue and goes on. While a scene trains, the trainer carries out previews between two of
its steps (:meth:`EditSession.run_pending`) and everything that changes splats waits for the end of the training; else a
thread of the session's own does it all.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.scene import EditHost, LiveScene

Kind = Literal["preview", "apply", "undo", "redo", "compare", "save", "warm up"]
Training = Literal["training", "paused", "completed"]

_INSTANT = frozenset({"undo", "redo", "compare"})
_WAITING_POLL = 0.2


@dataclass(frozen=True)
class SessionState:
    """What everybody who watches sees."""

    message: str = "Say what shall change, then press Preview."
    """One line on what happens, or on what the latest request came to."""
    error: str = ""
    """One line on what went wrong with the latest request; empty if nothing did."""
    task: str = ""
    """What is being done; empty if nothing is."""
    progress: float = 0.0
    """Share of the task that is done, 0 to 1."""
    waiting: int = 0
    """Requests in the queue."""
    picture: UInt8[np.ndarray, "H W 3"] | None = None
    """Views before, above views after, of the latest preview or edit."""
    caption: str = ""
    """What the picture shows."""
    edits: tuple[str, ...] = ()
    """Labels of the edits that the scene is under."""
    comparing: bool = False
    """Whether the scene is shown as it was before all edits."""


@dataclass(frozen=True, eq=False)
class _Request:
    kind: Kind
    form: EditForm | None = None
    edit: Edit | None = None


class EditSession:
    """Previews, applies, undoes, compares and saves edits of one scene, in the order in which they were asked for.

    Every public method may be called from any thread and returns at once, but :meth:`run_pending`.

    Args:
        host: the scene.
        scene: the same, for tests that put something else in its place.
    """

    def __init__(self, host: EditHost, scene: LiveScene | None = None) -> None:
        self.scene = LiveScene(host) if scene is None else scene
        self.state = SessionState()
        self.training: Callable[[], Training] = lambda: "completed"
        """Whether somebody else is changing the scene."""
        self._listeners: list[Callable[[], None]] = []
        self._queue: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._running: _Request | None = None
        self._stop = False
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._warm = False

    # What people ask for

    def preview(self, form: EditForm) -> None:
        """Generate views of the edit. One that waits or runs already is given up for it."""
        self._ask("preview", form)

    def apply(self, form: EditForm) -> None:
        """Let the splats follow the edit, on top of the edits before."""
        self._ask("apply", form)

    def undo(self) -> None:
        """Go back to the version before."""
        self._ask("undo")

    def redo(self) -> None:
        """Go forth to the version that was undone."""
        self._ask("redo")

    def compare(self) -> None:
        """Show the scene as it was before all edits, or, if it is shown so, as it is."""
        self._ask("compare")

    def save(self) -> None:
        """Write the edits, the splats and a picture into a new folder."""
        self._ask("save")

    def warm_up(self) -> None:
        """Load the prior while somebody fills in the form; only the first call does something."""
        with self._changed:
            if self._warm or self._queue or self._running or self.training() != "completed":
                return
            self._warm = True
            self._queue.append(_Request("warm up"))
            self._changed.notify_all()

    def stop(self) -> None:
        """Give up what is being done, before its next step, and whatever waits; the scene is as before it."""
        with self._changed:
            dropped, running = len(self._queue), self._running is not None
            self._queue.clear()
            self._stop = running
        nothing = "There is nothing to stop."
        self._publish(message="Stopping ..." if running else f"Dropped {dropped} waiting." if dropped else nothing)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, from any thread, whenever :attr:`state` is another."""
        self._listeners.append(listener)

    def _ask(self, kind: Kind, form: EditForm | None = None) -> None:
        edit = None
        if form is not None:
            try:
                edit = form.edit()
            except InputError as error:
                self._publish(error=_one_line(error))
                return
        with self._changed:
            if kind == "preview":
                self._queue = deque(request for request in self._queue if request.kind != "preview")
            self._queue.append(_Request(kind, form, edit))
            self._changed.notify_all()
        changes: dict[str, Any] = {"error": ""}
        if kind != "preview" and self.training() != "completed":
            changes["message"] = f"{kind.capitalize()} waits until the training is done."
        self._publish(**changes)

    def _publish(self, **changes: Any) -> None:
        with self._changed:
            self.state = replace(self.state, waiting=len(self._queue), **changes)
        for listener in list(self._listeners):
            listener()

    # Who carries it out

    def run_pending(self, limit: int = 1) -> int:
        """Carry out previews, at a moment when the caller, who trains the scene, lets nobody else change it.

        Returns at once when nothing waits. Other requests stay in the queue.

        Args:
            limit: the most previews that are carried out.

        Returns:
            How many were.
        """
        done = 0
        while done < limit and self._queue and self._working.acquire(blocking=False):
            try:
                request = self._take(previews_only=True)
                if request is None:
                    break
                self._carry_out(request, in_training=True)
                done += 1
            finally:
                self._working.release()
        return done

    def start(self) -> None:
        """Start the session's own thread, which ends with the process; a second call does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._work, name="edit session", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and end the session's own thread."""
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
                    self._changed.wait(_WAITING_POLL if self._queue else None)
                if self._closed:
                    return
            with self._working:
                previews_only = self.training() != "completed"
                request = self._take(previews_only)
                if request is not None:
                    self._carry_out(request, in_training=previews_only)

    def _may_work(self) -> bool:
        training = self.training()
        if training == "completed":
            return bool(self._queue)
        return training == "paused" and any(request.kind == "preview" for request in self._queue)

    def _take(self, previews_only: bool) -> _Request | None:
        with self._changed:
            for request in self._queue:
                if not previews_only or request.kind == "preview":
                    self._queue.remove(request)
                    self._running, self._stop = request, False
                    return request
        return None

    def _carry_out(self, request: _Request, in_training: bool) -> None:
        """Do what is asked for; whatever goes wrong becomes one line."""
        changes: dict[str, Any] = {}
        try:
            changes = self._do(request, in_training)
        except Cancelled:
            if self._stop or request.kind != "preview":
                changes = {"message": f"{request.kind.capitalize()} stopped; the scene is as before."}
        except InputError as error:
            changes = {"error": _one_line(error)}
        except Exception as error:
            traceback.print_exc()
            changes = {
                "error": f"{request.kind.capitalize()} failed; see the terminal. {type(error).__name__}: "
                f"{_one_line(error)[:200]}"
            }
        finally:
            with self._changed:
                self._running = None
            self._publish(task="", progress=0.0, edits=self.scene.labels, comparing=self.scene.comparing, **changes)

    def _do(self, request: _Request, in_training: bool) -> dict[str, Any]:
        """What becomes of :attr:`state` when the request is carried out."""
        started = time.perf_counter()
        if request.kind == "warm up":
            self.scene.host.prior()
            return {}
        if request.kind == "save":
            return {"message": f"Saved to {self.scene.save()}"}
        if request.edit is None or request.form is None:
            return self._do_instantly(request.kind)
        label = request.edit.label
        if request.kind == "preview":
            self._publish(task=f"Preview of {label!r}", progress=0.0)
            picture = self.scene.preview(
                request.edit,
                request.form,
                self._progress,
                lambda: self._interrupted(in_training),
                in_training=in_training,
            )
            message, caption = f"Preview of {label!r}", f"Views now, above views {label}"
        else:
            self._publish(task=f"Applying {label!r}", progress=0.0)
            picture = self.scene.apply(request.edit, request.form, self._progress, lambda: self._stop)
            message, caption = f"Applied {label!r}", f"Splats before, above splats {label}"
        seconds = time.perf_counter() - started
        return {"message": f"{message} in {seconds:.1f} s.", "picture": picture, "caption": caption}

    def _do_instantly(self, kind: Kind) -> dict[str, Any]:
        started = time.perf_counter()
        if kind == "compare":
            before = self.scene.compare()
            return {"message": "The scene before all edits; Compare brings them back." if before else "The scene now."}
        label = self.scene.undo() if kind == "undo" else self.scene.redo()
        done = "Undid" if kind == "undo" else "Redid"
        return {"message": f"{done} {label!r} in {time.perf_counter() - started:.2f} s."}

    def _progress(self, done: int, total: int) -> None:
        self._publish(progress=done / max(total, 1))

    def _interrupted(self, in_training: bool) -> bool:
        """Between two steps of a preview: do what takes no time; give up for a newer preview."""
        while not (self._stop or in_training):
            with self._changed:
                if not self._queue or self._queue[0].kind not in _INSTANT:
                    break
                request = self._queue.popleft()
            try:
                changes = self._do_instantly(request.kind)
            except InputError as error:
                changes = {"error": _one_line(error)}
            self._publish(edits=self.scene.labels, comparing=self.scene.comparing, **changes)
        return self._stop or any(request.kind == "preview" for request in list(self._queue))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
