"""Versions of a scene that is being edited, to go back and forth between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from invert3d_ns.base.errors import InputError


@dataclass(frozen=True)
class Version:
    """A scene under some edits. Nobody changes its snapshot."""

    snapshot: Any
    """What :meth:`invert3d_ns.live.host.Host.snapshot` gave after the edits."""
    edits: tuple[Any, ...] = ()
    """Oldest first; each has a ``label``."""

    def then(self, edit: Any, snapshot: Any) -> Version:
        """The version that one more edit leads to."""
        return Version(snapshot, (*self.edits, edit))

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the edits, oldest first."""
        return tuple(edit.label for edit in self.edits)


class History:
    """A line of versions and a place in it.

    Args:
        first: the scene as it was found.
        limit: versions that are kept besides ``first``; each costs a snapshot (236 bytes a splat with harmonics of
            degree 3).
    """

    def __init__(self, first: Version, limit: int = 20) -> None:
        self.first = first
        self._limit = limit
        self._versions = [first]
        self._at = 0

    @property
    def current(self) -> Version:
        """The version that the scene is in."""
        return self._versions[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier version."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a later version."""
        return self._at + 1 < len(self._versions)

    def push(self, version: Version) -> None:
        """Add a version after the current one; later ones are forgotten."""
        self._versions = [*self._versions[: self._at + 1], version][-self._limit - 1 :]
        self._at = len(self._versions) - 1

    def undo(self) -> Version:
        """Go back by one.

        Raises:
            InputError: there is nothing to go back to.
        """
        if not self.can_undo:
            raise InputError("there is nothing to undo")
        self._at -= 1
        return self.current

    def redo(self) -> Version:
        """Go forth by one.

        Raises:
            InputError: nothing was undone.
        """
        if not self.can_redo:
            raise InputError("there is nothing to redo")
        self._at += 1
        return self.current
