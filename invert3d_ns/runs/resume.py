"""What a resumed run must share with the run that was started, compared by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import flag_names

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
    from torch import Tensor

Settings = Mapping[str, Mapping[str, Any]]
"""By phase ("run" for what is none's), then by the flag that sets them."""


def scene_fingerprint(outputs: DataparserOutputs) -> str:
    """Twelve hexadecimal digits that differ between scenes and stay when a scene's folder is moved.

    Splats count with every number, images with their cameras, names and sizes in bytes.
    """
    digest = hashlib.sha256()
    splats = outputs.metadata.get("splats")
    if splats is not None:
        for tensor in splats.tensors().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]
    cameras = outputs.cameras
    for values in (cameras.camera_to_worlds, cameras.fx, cameras.fy, cameras.cx, cameras.cy):
        digest.update(values.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    for path in map(Path, outputs.image_filenames):
        digest.update(f"{path.name} {path.stat().st_size if path.is_file() else 0}\n".encode())
    return digest.hexdigest()[:12]


def digest_of(tensor: Tensor) -> str:
    """Twelve hexadecimal digits that differ between tensors of different values, on whatever device."""
    values = tensor.detach().cpu().to(torch.float32).contiguous().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()[:12]


def flags_of(config: Any, prefix: str) -> dict[str, Any]:
    """The settings of a configuration, a dataclass, by the flag that sets them; those of nested ones as well.

    Args:
        prefix: of the flags, such as ``--pipeline.edit``.
    """
    flags, names = {}, flag_names(type(config))
    for entry in fields(config):
        value, flag = getattr(config, entry.name), ".".join(filter(None, [prefix, names[entry.name]]))
        if entry.name.startswith("_"):  # nerfstudio's _target is no setting
            continue
        flags |= flags_of(value, flag) if is_dataclass(value) else {flag: value}
    return flags


def require_plain(settings: Settings) -> Settings:
    """The settings as they are, if checkpoints can hold them: what else is in one makes it unreadable.

    Raises:
        TypeError: a value is neither text, number, None, nor a list or dictionary of such: a fault of the phase.
    """

    def is_plain(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(is_plain, value))
        if isinstance(value, dict):
            return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
        return value is None or type(value) in (str, bool, int, float)

    for phase, values in settings.items():
        for flag, value in values.items():
            if not is_plain(value):
                raise TypeError(f"setting {flag} of phase {phase!r} is a {type(value).__name__}, no plain data")
    return settings


def refuse_other_settings(saved: Settings, current: Settings, where: Path) -> None:
    """Refuse to go on under settings that differ from those that a run was started with.

    Args:
        saved: of the checkpoint: of the phases that it has reached.
        current: of this run; phases that the checkpoint has not reached may differ.
        where: the checkpoint, for the message.

    Raises:
        InputError: names each setting that differs, with both values.
    """
    different = []
    for phase, settings in saved.items():
        now = current.get(phase)
        if now is None:
            raise InputError(
                f"{where} belongs to a run with a phase {phase!r}, which this run has not; resume with the scene and "
                "the settings that the run was started with"
            )
        different += [
            f"{flag} was {_shown(settings[flag])} and is now {_shown(now[flag])}"
            for flag in settings
            if flag in now and _plain(settings[flag]) != _plain(now[flag])
        ]
    if different:
        raise InputError(
            f"{where} was made with other settings: {'; '.join(different)}; resume with those that the run was started "
            "with, or start a new run"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)
