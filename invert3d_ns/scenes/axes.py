"""Names of axes, apart from everything that needs torch, so that command lines parse quickly."""

from typing import Literal

UpAxis = Literal["x", "-x", "y", "-y", "z", "-z"]
"""The axis of a file that points up."""
