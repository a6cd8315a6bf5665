"""Every kind of guidance by name, as a choice on the command line.

Another kind is a file and another entry in :data:`GUIDANCE_CONFIGS`. Each is a nerfstudio-style subcommand, of which
the default need not be written (``pipeline.guidance:ism --pipeline.guidance.interval 0.1``).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from invert3d_ns.guidance.base import GuidanceConfig
from invert3d_ns.guidance.ge3d import EditingTrajectoriesConfig
from invert3d_ns.guidance.ism import IntervalScoreMatchingConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig

GUIDANCE_CONFIGS: dict[str, GuidanceConfig] = {
    "ge3d": EditingTrajectoriesConfig(),
    "ism": IntervalScoreMatchingConfig(),
    "sds": ScoreDistillationConfig(),
}
"""Kinds of guidance by the name that a user chooses them by."""


def guidance_union(configs: Mapping[str, GuidanceConfig]) -> Any:
    """A type for tyro that offers a choice between configs, of different classes, by name.

    Args:
        configs: two or more; a field of this type should have a default of its own.
    """
    entries: list[Any] = [
        Annotated[type(config), tyro.conf.subcommand(name, default=config)] for name, config in configs.items()
    ]
    return functools.reduce(operator.or_, entries)


if TYPE_CHECKING:
    AnyGuidanceConfig = GuidanceConfig
else:
    AnyGuidanceConfig = guidance_union(GUIDANCE_CONFIGS)


def guidance_name(config: GuidanceConfig) -> str:
    """The name that a kind of guidance is chosen by; that of its class for one of somebody else's."""
    names = [name for name, known in GUIDANCE_CONFIGS.items() if type(known) is type(config)]
    return names[0] if names else type(config).__name__
