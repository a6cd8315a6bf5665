"""What has a scene that people act on, and what it may be capable of besides.

Actions and panels ask with ``isinstance`` for the capabilities that they need; a host has those that it has the
attributes of. New capabilities are protocols of their own, beside the actions that need them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from invert3d_ns.live.history import Version
    from invert3d_ns.prior.shared import SharedPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding


@runtime_checkable
class Host(Protocol):
    """Has a scene that can be copied and put back."""

    lock: AbstractContextManager[Any]
    """Held by whoever reads or replaces the scene, for as long as a copy takes, and by a training during a step."""
    rerender: Callable[[], None]
    """Has everybody who watches see the scene as it is now."""
    output_folder: Path | None
    """Where files go; None: nobody knows yet."""

    def snapshot(self) -> Any:
        """A copy of the scene, on the CPU, that nobody changes: splats, the weights of a field. Takes the lock."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Make the scene what it was at a snapshot, to the bit, and show it. Takes the lock."""
        ...


@runtime_checkable
class HasEdits(Host, Protocol):
    """Knows what its scene has been through."""

    edits: list[Any]
    """Oldest first; each has a ``label``, a few words for people."""


@runtime_checkable
class HasSplats(Host, Protocol):
    """Its scene are splats, and so are its snapshots. A region, being a box around splats, needs this."""

    def snapshot(self) -> SplatCloud:
        """A copy of the splats in the object frame. Takes the lock."""
        ...

    def restore(self, snapshot: SplatCloud) -> None:
        """Replace the splats by as many others and show them. Takes the lock."""
        ...

    def splats(self) -> SplatCloud:
        """A copy of the splats in the object frame, for callers that hold the lock or need none."""
        ...

    def set_splats(self, cloud: SplatCloud) -> None:
        """Replace the splats by as many others, for callers that hold the lock or need none."""
        ...


@runtime_checkable
class HasPrior(Protocol):
    """Has a multi-view diffusion model to ask."""

    prior: SharedPrior
    """Loaded when it is first used."""


@runtime_checkable
class HasWords(HasPrior, Protocol):
    """Its scene is an object that the prior has words for."""

    def embedding(self) -> ObjectEmbedding:
        """The words.

        Raises:
            InputError: there are none yet.
        """
        ...


@runtime_checkable
class FollowsPrompt(Host, Protocol):
    """Its scene follows words that may change while it does."""

    words: tuple[str, str]
    """Prompt and negative prompt."""

    def change_words(self, prompt: str, negative_prompt: str) -> str:
        """Let the steps from now on follow other words; returns a line about those that the prior does not know.

        Raises:
            InputError: the prompt is empty.
        """
        ...


@dataclass(frozen=True)
class SavedRun:
    """A run that holds the scene under some edits."""

    folder: Path
    """Its folder."""
    labels: tuple[str, ...] = ()
    """Labels of the edits, oldest first."""
    unasked: bool = False
    """Whether it was saved because the program ended, not because somebody asked for it."""

    @property
    def title(self) -> str:
        """One line to choose it by."""
        return f"{self.folder.name}: {'; '.join(self.labels)}"


@runtime_checkable
class KeepsRuns(Host, Protocol):
    """Its scene belongs to a run; it makes runs of its versions, and reads them back."""

    def save_run(self, version: Version, made: Any, *, unasked: bool = False) -> Path:
        """Make a finished run of a version, beside the run that the scene belongs to; returns its folder.

        Args:
            version: with edits of its own.
            made: what made it from its origin.
            unasked: see :attr:`SavedRun.unasked`.

        Raises:
            InputError: it cannot be written; nothing is left behind then.
        """
        ...

    def saved_runs(self) -> list[SavedRun]:
        """The edited runs of this scene that lie there, the latest first."""
        ...

    def open_run(self, folder: Path) -> Version:
        """The scene of such a run, to the bit, with a base that says what its edits were made on.

        Raises:
            InputError: it is none, is damaged, or is of another object.
        """
        ...


@runtime_checkable
class EditHost(HasWords, HasEdits, HasSplats, Protocol):
    """Splats that follow edits of their words."""
