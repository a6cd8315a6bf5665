"""``ns-train clip-splat`` and ``clip-splat-joint`` with small numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from runs import _assign

from invert3d_ns import configs

STEPS = 4
PROMPT = "in van gogh style"


def configured(data: Path, output_dir: Path, *, method: str = "clip_splat", **options: Any):
    """A method's own configuration with small numbers; ``options`` are dotted names with ``__`` for the dots."""
    config: Any = copy.deepcopy(getattr(configs, method).config)
    small: dict[str, Any] = {
        "data": data,
        "output_dir": output_dir,
        "timestamp": "run",
        "prompt": PROMPT,
        "machine__device_type": "cpu",
        "logging__steps_per_log": 1,
        "steps_per_eval_image": 100,
        "pipeline__steps": STEPS,
        "pipeline__splat_steps": 6,
        "pipeline__preview_every": 2,
        "pipeline__towers": ("bundled",),
        "pipeline__style__crops": 1,
        "pipeline__cameras__count": 6,
        "pipeline__cameras__views": 2,
        "pipeline__cameras__size": 32,
        "pipeline__datamanager__dataparser__image_size": 32,
        "pipeline__model__num_random": 200,
        "pipeline__model__warmup_length": 2,
        "pipeline__model__refine_every": 2,
    }
    for name, value in {**small, **options}.items():
        _assign(config, name.split("__"), value)
    return config
