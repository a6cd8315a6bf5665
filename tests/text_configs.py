"""``ns-train ge3d``, and other methods that make scenes from words, with small numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from runs import _assign

from invert3d_ns import configs

STEPS, FIT = 5, 4
PROMPT = "a red cube"


def small_config(method: str, prior: Path | str, output_dir: Path, **options: Any):
    """The configuration of a method that makes scenes from words, with small numbers.

    ``options`` are dotted names with ``__`` for the dots.
    """
    config: Any = copy.deepcopy(getattr(configs, method).config)
    small = {
        "output_dir": output_dir,
        "timestamp": "run",
        "machine__device_type": "cpu",
        "logging__steps_per_log": 1,
        "pipeline__prior": str(prior),
        "pipeline__preview_every": 2,
        "pipeline__start__views": 4,
        "pipeline__start__sampling_steps": 2,
        "pipeline__start__splats": 40,
        "pipeline__start__fit_steps": 3,
        "pipeline__datamanager__dataparser__image_size": 32,
        "pipeline__model__num_random": 50,
        "pipeline__reconstruct__views": 8,
        "pipeline__reconstruct__jumps": 2,
    }
    for name, value in {**small, **options}.items():
        _assign(config, name.split("__"), value)
    return config


def configured(prior: Path | str, output_dir: Path, **options: Any):
    """``ge3d``'s own configuration with small numbers; see :func:`small_config`."""
    own = {"prompt": PROMPT, "pipeline__steps": STEPS, "pipeline__reconstruct__steps": FIT}
    return small_config("ge3d", prior, output_dir, **{**own, "pipeline__guidance__jumps": 2, **options})


def checkpoint(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "nerfstudio_models").iterdir()
    return torch.load(path, map_location="cpu")


def configured_with(prior: Path, output_dir: Path, options: dict[str, Any]):
    """:func:`configured`, and among ``options`` a guidance of another kind."""
    later = {name: value for name, value in options.items() if name != "pipeline__guidance"}
    config: Any = configured(prior, output_dir)
    config.pipeline.guidance = copy.deepcopy(options["pipeline__guidance"])
    for name, value in later.items():
        _assign(config, name.split("__"), value)
    return config
