"""What has a scene that people act on, and what it may be capable of besides.

Actions and panels ask with ``isinstance`` for the capabilities that they need; a host has those that it has the
attributes of. New capabilities are protocols of their own, beside the actions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from invert3d_ns.base.cancellation import Progress, ShouldStop
    from invert3d_ns.live.history import Version
    from invert3d_ns.prior.shared import SharedPrior
    from invert3d_ns.scenes.blending import Blend
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


@runtime_checkable
class HasStyles(FollowsPrompt, Protocol):
    """Its scene stands side by side with styles of it, and takes on further ones.

    Only what is said to be instant may be called at any time; the rest is for actions.
    """

    model: Any
    """Draws blends of them."""
    prompts: tuple[str, ...]
    """What each is called: the scene as it was first, then the styles."""
    strengths: Mapping[str, float]
    """By name, the weights in force of what pulls towards words (clip, augmented, directional, patch), the share of the
    way (reach), and the weight of what holds colors (color)."""
    shown: Blend
    """What everybody who watches sees."""
    style_in_the_making: str | None
    """The words of the style that follows words now, if one does."""

    def show_blend(self, blend: Blend) -> None:
        """Have everybody who watches see a blend. Instant; takes the lock."""
        ...

    def check_style(self, prompt: str, negative_prompt: str) -> None:
        """Refuse words that cannot be a further style's. Instant.

        Raises:
            InputError: they say nothing, or there is a style of that name.
        """
        ...

    def change_strengths(self, strengths: Mapping[str, float]) -> None:
        """Let the steps from now on count some of the terms otherwise. Takes the lock.

        Raises:
            InputError: a weight is below 0 or no number, or nothing is left that pulls.
        """
        ...

    def follow_style(self, prompt: str, negative_prompt: str, strengths: Mapping[str, float]) -> None:
        """Let the style in the making follow these words and weights from its next step on. Takes the lock.

        Raises:
            InputError: no style is in the making, or they make no sense; all stays as it is then.
        """
        ...

    def make_style(
        self,
        prompt: str,
        negative_prompt: str,
        strengths: Mapping[str, float],
        progress: Progress,
        should_stop: ShouldStop,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Make a further style and show it; returns a picture of it. Takes the lock, step by step.

        Raises:
            InputError: see :meth:`check_style` and :meth:`change_strengths`, or the style came to nothing.
            Cancelled: ``should_stop`` said so. Nothing is left of the style, whatever ended it.
        """
        ...

    def save_styles(self) -> str:
        """Write every style into the run's folder; returns a line about where. Takes the lock.

        Raises:
            InputError: there is no such folder, or a file cannot be written.
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
