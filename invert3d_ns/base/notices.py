"""What a program says aloud about its input: one line on the console, as it stands."""

from __future__ import annotations


def warn(text: str) -> None:
    """Print a warning in yellow, on one line however long, with square brackets in names left as they are."""
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(f"Warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def counted(count: int, total: int, noun: str) -> str:
    """``3 of 8 images``; ``all 8 images`` where it is every one."""
    return f"all {total} {noun}" if count == total else f"{count} of {total} {noun}"
