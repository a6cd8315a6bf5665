"""Going back and forth between the versions of a scene: undo, redo and compare, whatever the scene is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from invert3d_ns.base.errors import InputError
from invert3d_ns.live.history import History, Version
from invert3d_ns.live.host import KeepsRuns
from invert3d_ns.live.queue import Action, Outcome

if TYPE_CHECKING:
    from invert3d_ns.live.host import HasEdits


class SceneVersions:
    """The versions that a host's scene has been in, and the actions that go between them.

    Everybody who edits one scene shares one of these. All but :attr:`labels` and :attr:`comparing` is for running
    actions; the methods that return an :class:`Action` may be called from any thread.

    Args:
        host: has the scene; its snapshot is taken when versions are first needed.

    Attributes:
        comparing: whether the scene is shown as it was before all edits.
    """

    def __init__(self, host: HasEdits) -> None:
        self.host = host
        self.comparing = False
        self._history: History | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the edits that the scene is under, oldest first."""
        if self._history is None:
            return tuple(edit.label for edit in self.host.edits)
        return self._history.current.labels

    @property
    def begun(self) -> bool:
        """Whether anybody has asked for a version yet."""
        return self._history is not None

    @property
    def history(self) -> History:
        """The versions, from the scene as it was found on."""
        if self._history is None:
            self._history = self._find()
        return self._history

    @property
    def current(self) -> Version:
        """The version that the scene is in, also while it is shown as it was."""
        return self.history.current

    def _find(self) -> History:
        """The scene as it is; and, where its run says so, what it was before the edits of that run."""
        host, edits = self.host, tuple(self.host.edits)
        found = Version(host.snapshot(), edits, source=host.output_folder)
        if edits and isinstance(host, KeepsRuns) and host.output_folder is not None:
            with suppress(InputError):
                known = host.open_run(host.output_folder)
                if known.base is not None and known.edits == edits:
                    history = History(known.base)
                    history.push(replace(known, snapshot=found.snapshot))
                    return history
        return History(found)

    def add(self, version: Version) -> None:
        """Put the scene into a new version, after the current one."""
        self._enter(version)
        self.history.push(version)

    def undo(self) -> Action:
        """The action that goes back to the version before."""
        return Action("Undo", lambda *_: self._undo(), instant=True)

    def redo(self) -> Action:
        """The action that goes forth to the version that was undone."""
        return Action("Redo", lambda *_: self._redo(), instant=True)

    def compare(self) -> Action:
        """The action that shows the scene as it was before all edits, or, if it is shown so, as it is."""
        return Action("Compare", lambda *_: self._compare(), instant=True)

    def _undo(self) -> Outcome:
        started, gone = time.perf_counter(), self.current
        self._enter(self.history.undo())
        return _entered(f"Undid {gone.name!r} in {time.perf_counter() - started:.2f} s.")

    def _redo(self) -> Outcome:
        started = time.perf_counter()
        self._enter(self.history.redo())
        return _entered(f"Redid {self.current.name!r} in {time.perf_counter() - started:.2f} s.")

    def _compare(self) -> Outcome:
        history = self.history
        if self.comparing:
            self._enter(history.current)
            return Outcome("The scene now.")
        if history.current is history.first:
            raise InputError("there is nothing to compare yet; apply an edit first")
        self.host.restore(history.first.snapshot)
        self.comparing = True
        return Outcome("The scene before all edits; Compare brings them back.")

    @contextmanager
    def shown_as_it_is(self) -> Iterator[None]:
        """End a comparison for the length of a block, and go on comparing if the block fails."""
        compared, self.comparing = self.comparing, False
        try:
            if compared:
                self.host.restore(self.current.snapshot)
            yield
        except BaseException:
            self.comparing = compared
            raise

    def _enter(self, version: Version) -> None:
        self.host.restore(version.snapshot)
        self.host.edits = list(version.edits)
        self.comparing = False


def _entered(message: str) -> Outcome:
    return Outcome(message, outdates_picture=True)
