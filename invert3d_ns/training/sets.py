"""The training sets of a prior, which travel together: objects with names, assemblies without, and changes of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from invert3d_ns.world.data import WorldViews


@dataclass(frozen=True)
class TrainingSets:
    """What a prior is trained on."""

    named: WorldViews
    """Objects that have names."""
    assemblies: WorldViews | None = None
    """Random assemblies, which have none."""
    changes: WorldViews | None = None
    """Objects that words have changed, and what they were."""

    def __iter__(self) -> Iterator[WorldViews]:
        return (one for one in (self.named, self.assemblies, self.changes) if one is not None)

    def fingerprint(self) -> str:
        """What tells one choice of training sets from another."""
        return " and ".join(one.fingerprint() for one in self)

    def caption_words(self) -> tuple[str, ...]:
        """Every word of the captions and changes, in alphabetical order."""
        texts = [text for data in self for wordings in data.captions for text in wordings]
        texts += [text.format("") for data in self for text in data.changes or ()]
        return tuple(sorted({word.strip(",.") for text in texts for word in text.split()} - {""}))
