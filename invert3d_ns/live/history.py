"""Versions of a scene that is being edited, to go back and forth between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError

_MADE_KEPT = 3
"""Latest versions that remember what made them, which takes several times the memory of a snapshot."""


@dataclass(frozen=True)
class Version:
    """A scene under some edits. Nobody changes its snapshot."""

    snapshot: Any
    """What :meth:`invert3d_ns.live.host.Host.snapshot` gave after the edits."""
    edits: tuple[Any, ...] = ()
    """Oldest first; each has a ``label``."""
    base: Version | None = None
    """The scene that its latest edits were all made on at once; None: it is as it was found."""
    made: Any = None
    """What made it from its base, for whoever writes that down; None where nobody knows any more."""
    source: Path | None = None
    """The run that holds the scene, where one does."""

    @property
    def origin(self) -> Version:
        """The version that edits of this one are made on: its base, or itself."""
        return self.base or self

    @property
    def own_edits(self) -> tuple[Any, ...]:
        """The edits that were made on its base."""
        return self.edits[len(self.origin.edits) :]

    def edits_with(self, edit: Any, *, replace_last: bool = False) -> tuple[Any, ...]:
        """Its own edits and one more, which may take the place of the last of them."""
        own = self.own_edits
        return (*(own[:-1] if replace_last else own), edit)

    def then(self, edit: Any, snapshot: Any) -> Version:
        """The version that one more edit leads to."""
        return self.remade((*self.own_edits, edit), snapshot)

    def remade(self, own_edits: Sequence[Any], snapshot: Any, made: Any = None) -> Version:
        """The version of the same origin under other edits of its own."""
        return Version(snapshot, (*self.origin.edits, *own_edits), self.origin, made)

    @property
    def name(self) -> str:
        """The label of its last edit."""
        return self.labels[-1] if self.edits else "the scene as it was"

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

    @property
    def versions(self) -> tuple[Version, ...]:
        """Every version that can be gone to, in the order in which they were made; the first one is never forgotten."""
        return tuple(self._versions)

    def push(self, version: Version) -> None:
        """Add a version after the current one; later ones are forgotten."""
        later = [*self._versions[1 : self._at + 1], version]
        kept = [self.first, *later[-self._limit :]]
        forgetful = [each if each.made is None else replace(each, made=None) for each in kept[:-_MADE_KEPT]]
        self._versions = [*forgetful, *kept[-_MADE_KEPT:]]
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
