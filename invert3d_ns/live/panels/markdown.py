"""Text and pictures for viser's Markdown widget, which viser 0.2 has in the place of an image widget."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from jaxtyping import UInt8


def data_url(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """The picture as a PNG in a URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def escape_markdown(text: str) -> str:
    """Markdown that shows a text as it is, on one line.

    viser's Markdown is MDX: an unescaped ``<object>`` breaks the page of everybody who watches, and what stands in
    braces is run there. A backslash takes the meaning from any punctuation mark; at the start of a line, where
    ``import`` has a meaning too, the caller puts something else.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))
