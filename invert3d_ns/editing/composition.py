"""How several edits of one scene go together: which of them a region is under, and which are made in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from invert3d_ns.editing.edit import Edit, Region


def edits_within(region: Region, edits: Sequence[Edit]) -> list[Edit]:
    """The edits that all of a region is under, in their order: those whose own region covers it.

    They say what the region looks like now, so views of it are made under them. An edit of a smaller part, or of
    another one, says nothing of the region as a whole and would only pull all of it towards itself: what it did stays
    because views start from those of the scene.

    Example:
        >>> top = Region(box=(-1, -1, 0, 1, 1, 1))
        >>> blue, striped = Edit(target="blue"), Edit(target="striped", region=top)
        >>> [edit.target for edit in edits_within(top, [blue, striped])]
        ['blue', 'striped']
        >>> [edit.target for edit in edits_within(Region(), [blue, striped])]
        ['blue']
    """
    return [edit for edit in edits if edit.region.covers(region)]


def split_into_passes(edits: Sequence[Edit]) -> list[list[Edit]]:
    """Edits as runs of neighbors that change the same of the same region; each run can be made in one pass."""
    return [list(same) for _, same in groupby(edits, lambda edit: (edit.region, edit.change))]


def with_context(before: Sequence[Edit], new: Sequence[Edit]) -> tuple[list[Edit], int]:
    """The edits that views of one pass are made under, and how many of them, from the first, the scene shows already.

    Args:
        before: edits that the scene is under, oldest first.
        new: the edits of the pass; all of one region.
    """
    within = edits_within(new[-1].region if new else Region(), before)
    return [*within, *new], len(within)
