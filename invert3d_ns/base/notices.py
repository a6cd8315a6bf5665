"""Saying aloud what the program assumes about its input and what it left out: one line each, on stderr."""

import sys


def warn(message: str) -> None:
    """Print one line "Warning: ..." on stderr: what is assumed or left out, and what to do if that is wrong.

    Paths may hold any characters: nothing of the message is taken as markup, and no line is wrapped.
    """
    print(f"Warning: {' '.join(message.split())}", file=sys.stderr, flush=True)
