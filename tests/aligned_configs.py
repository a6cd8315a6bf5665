"""``ns-train a3d`` with small numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_configs import small_config

STEPS, FIT = 4, 3
PROMPTS = ("a red cube", "a blue ball")


def configured(prior: Path | str, output_dir: Path, method: str = "a3d", **options: Any):
    """The method's own configuration with small numbers; ``options`` are dotted names with ``__`` for the dots."""
    own = {"prompts": PROMPTS, "pipeline__steps": STEPS, "pipeline__reconstruct__steps": FIT}
    return small_config(method, prior, output_dir, **{**own, **options})
