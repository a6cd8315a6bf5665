"""The noise schedule of a prior in diffusers' folder form, from the few entries of its config that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PredictionType
from invert3d_ns.weights.network_config import check_network_config

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

STABLE_DIFFUSION: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
}
"""Stable Diffusion's schedule and sampler settings, which MVDream kept; nothing else of a config is heard."""
_ADVICE = "give a Stable Diffusion or MVDream model"


def build_scheduler(config: Mapping[str, Any] | None = None, path: Path | None = None) -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with the changes to it that a ``scheduler_config.json`` asks for.

    Which sampler the file names does not matter: all of diffusers' share these entries.

    Args:
        config: the file's entries; None for Stable Diffusion's own schedule.
        path: what messages call the file.

    Raises:
        InputError: it predicts neither noise nor v, or describes no schedule of alphas.
    """
    from diffusers import DDIMScheduler

    from invert3d_ns.prior.storage import quiet_libraries

    given = {name: value for name, value in (config or {}).items() if value is not None}
    chosen = STABLE_DIFFUSION | {name: value for name, value in given.items() if name in STABLE_DIFFUSION}
    path = path or Path("scheduler_config.json")
    if "Flow" in str(given.get("_class_name")):
        raise InputError(f"{path} is of a flow ({given['_class_name']!r:.60}), not of a diffusion; {_ADVICE}")
    if chosen["prediction_type"] not in get_args(PredictionType):
        raise InputError(f"{path}: the model predicts {chosen['prediction_type']!r:.40}, not noise or v; {_ADVICE}")
    if given.get("trained_betas") is not None:
        raise InputError(f"{path} has a schedule of its own (trained_betas); {_ADVICE}")
    check_network_config(chosen, 1, path)
    try:
        with quiet_libraries():
            scheduler = DDIMScheduler(**chosen, clip_sample=False)
    except Exception as error:  # by entry and version of the library
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"{path} describes no noise schedule ({detail}); download it again") from error
    return scheduler
