"""``ns-train a3d`` with small numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from runs import _assign

from invert3d_ns import configs

STEPS, FIT = 4, 3
PROMPTS = ("a red cube", "a blue ball")


def configured(prior: Path | str, output_dir: Path, method: str = "a3d", **options: Any):
    """The method's own configuration with small numbers; ``options`` are dotted names with ``__`` for the dots."""
    config: Any = copy.deepcopy(getattr(configs, method).config)
    small = {
        "output_dir": output_dir,
        "timestamp": "run",
        "machine__device_type": "cpu",
        "logging__steps_per_log": 1,
        "prompts": PROMPTS,
        "pipeline__prior": str(prior),
        "pipeline__steps": STEPS,
        "pipeline__preview_every": 2,
        "pipeline__start__views": 4,
        "pipeline__start__sampling_steps": 2,
        "pipeline__start__splats": 40,
        "pipeline__start__fit_steps": 3,
        "pipeline__datamanager__dataparser__image_size": 32,
        "pipeline__model__num_random": 50,
        "pipeline__reconstruct__steps": FIT,
        "pipeline__reconstruct__views": 8,
        "pipeline__reconstruct__jumps": 2,
    }
    for name, value in {**small, **options}.items():
        _assign(config, name.split("__"), value)
    return config
