"""Every kind of guidance by name, as a choice on the command line.

Another kind is another entry in :data:`GUIDANCE_CONFIGS`. While there is one, its settings are plain flags
(``--pipeline.edit.sds.t-max 0.5``); from two on they are nerfstudio-style subcommands, of which the default need not be
written (``pipeline.edit.sds:ism --pipeline.edit.sds.t-max 0.5``).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from invert3d_ns.guidance.base import GuidanceConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig

GUIDANCE_CONFIGS: dict[str, GuidanceConfig] = {"sds": ScoreDistillationConfig()}
"""Kinds of guidance by the name that a user chooses them by."""


def guidance_union(configs: Mapping[str, GuidanceConfig]) -> Any:
    """A type for tyro that offers a choice between configs, of different classes, by name.

    :func:`tyro.extras.subcommand_type_from_defaults` turns a single entry into a subcommand too, which would have to be
    written before its flags; here a single entry is the type of its config.

    Args:
        configs: one or more; a field of this type should have a default of its own.
    """
    if len(configs) == 1:
        return type(next(iter(configs.values())))
    entries: list[Any] = [
        Annotated[type(config), tyro.conf.subcommand(name, default=config)] for name, config in configs.items()
    ]
    return functools.reduce(operator.or_, entries)


if TYPE_CHECKING:
    AnyGuidanceConfig = GuidanceConfig
else:
    AnyGuidanceConfig = guidance_union(GUIDANCE_CONFIGS)
