"""A prior as a repository: which of its files are fetched, and when a folder holds it whole."""

from __future__ import annotations

from collections.abc import Sequence

from invert3d_ns.base.errors import InputError
from invert3d_ns.weights.formats import WEIGHT_SUFFIXES, choose_weights
from invert3d_ns.weights.hub import HubReference, RepositoryKind, some_of

PARTS = ("unet", "vae", "text_encoder", "camera_proj")
"""Folders of a folder layout in which weights are looked for."""
CONFIG = "config.json"
"""What describes the network in each of these folders."""
SCHEDULER = "scheduler/scheduler_config.json"
"""What says, in a folder layout, whether noise or v is predicted."""
DESCRIPTION = "prior.json"
"""What a folder that this package wrote is told by."""


def select_prior_files(names: Sequence[str], reference: HubReference) -> list[str]:
    """Of a repository's files, those of a prior: no code, no copy in a second precision or format.

    Raises:
        InputError: there are no weights, or several checkpoints of which none was named.
    """
    if DESCRIPTION in names:
        return [name for name in names if name.endswith((".json", ".txt", ".safetensors"))]
    selected: list[str] = []
    for part in PARTS:
        inside = [name.removeprefix(part + "/") for name in names if name.startswith(part + "/")]
        weights = choose_weights([name for name in inside if "/" not in name], half=True)
        texts = [name for name in inside if name.endswith(".json") and "/" not in name] if weights else []
        selected += [f"{part}/{name}" for name in [*texts, *weights]]
    if selected:
        return selected + [name for name in names if name == SCHEDULER]
    single = [name for name in names if "/" not in name and name.endswith(WEIGHT_SUFFIXES)]
    if len(single) == 1:
        return single
    if single:
        raise InputError(
            f"{reference.repository} has several checkpoints; name one, for example "
            f"hf:{reference.repository}:{single[0]}"
        )
    raise InputError(f"{reference.repository} has no weights of a prior; it has {some_of(names)}")


def _is_whole(selected: Sequence[str]) -> bool:
    parts = {name.split("/")[0] for name in selected}
    complete = all(f"{part}/{CONFIG}" in selected for part in PARTS[:3]) and parts >= set(PARTS[:3])
    return complete or DESCRIPTION in selected or len(selected) == 1


def _by_hand(reference: HubReference) -> str:
    return (
        f"run `{reference.fetch_command}` on a connected machine and pass the path {reference.local_path} as the prior"
    )


PRIOR_REPOSITORY = RepositoryKind("prior", select_prior_files, _is_whole, _by_hand)
"""How priors are fetched."""
