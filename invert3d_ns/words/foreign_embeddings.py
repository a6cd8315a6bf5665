"""Textual inversions of other programs: told from ours and named for what they are.

They are words of a text-to-image model (Stable Diffusion), and look like an object's words: one or a few vectors under
a placeholder. No camera ever stood behind them, so they are refused, whatever their width.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.weights.tensors import read_safetensors

_SPACES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}
_LARGEST = 64 << 20
"""Bytes; no textual inversion is larger, and what is gets no further look."""


def not_an_embedding(path: Path) -> InputError:
    """The error, in one line, for a file that was given as an object's words and is something else."""
    named = describe_inversion(path)
    if named is not None:
        return InputError(
            f"{path} is {named}: words of a text-to-image model, which knows no cameras; find the object's words with "
            "ns-train invert3d, or from a photograph with invert3d image"
        )
    kind = describe_file(path)
    advice = "run `git lfs pull`" if kind == LFS_POINTER else "give the embedding.safetensors of an inversion"
    return InputError(f"{path} is {kind}, not an object embedding; {advice}")


def describe_inversion(path: Path) -> str | None:
    """What a textual inversion of another program is, with its article; None for any other file."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        content = _read(path)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        return None
    program, vectors = _vectors(content)
    vectors = {name: value for name, value in vectors.items() if _are_words(value)}
    if not vectors:
        return None
    names = ", ".join(repr(str(name)[:40]) for name in list(vectors)[:3])
    count = sum(value.shape[0] if value.ndim == 2 else 1 for value in vectors.values())
    widths = sorted({value.shape[-1] for value in vectors.values()})
    wide = " and ".join(map(str, widths))
    model = f" for {_SPACES[widths[-1]]}" if widths[-1] in _SPACES else ""
    return f"{program}{model} ({names}, {count} vector{'s' if count > 1 else ''}, {wide} wide)"


def _read(path: Path) -> Any:
    kind = describe_file(path)
    if kind == "a safetensors file":
        return read_safetensors(path)[0]
    if kind not in ("a torch checkpoint", "a Python pickle (perhaps an old torch checkpoint)"):
        return None
    # What Gal et al.'s program saves holds a ParameterDict, whose classes do nothing when they are made.
    parameters = torch.serialization.safe_globals([torch.nn.ParameterDict, torch.nn.Parameter])
    with parameters, path.open("rb") as file:  # by its content: torch goes by names otherwise
        return torch.load(file, map_location="cpu", weights_only=True)


def _vectors(content: Any) -> tuple[str, dict[Any, Any]]:
    """Which program wrote it, and its vectors by name."""
    if not isinstance(content, Mapping):
        return "", {}
    parameters = content.get("string_to_param")
    if isinstance(parameters, torch.nn.ParameterDict):
        return "a textual inversion of Gal et al.'s program", dict(vars(parameters).get("_parameters") or {})
    if isinstance(parameters, Mapping):
        name = content.get("name")
        named = {name if isinstance(name, str) and name else key: value for key, value in parameters.items()}
        return "a textual inversion of AUTOMATIC1111's web UI", named
    if set(content) <= {"emb_params", "clip_l", "clip_g"}:
        return "a textual inversion of AUTOMATIC1111's web UI", dict(content)
    if len(content) <= 8 and all(_are_words(value) for value in content.values()):
        return "a textual inversion of diffusers", dict(content)
    return "", {}


def _are_words(value: Any) -> bool:
    """Whether it may be vectors of a text encoder: one, or up to as many as a prompt takes, of a width of models."""
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.is_floating_point():
        return False
    return 64 <= value.shape[-1] <= 8192 and (value.ndim == 1 or 1 <= value.shape[0] <= 75)
