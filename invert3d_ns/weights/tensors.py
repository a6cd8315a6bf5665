"""Reading weight files: tensors only. A pickle that holds anything else is refused, never run."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.weights.formats import WEIGHT_SUFFIXES

_PICKLES = ("a torch checkpoint", "a Python pickle (perhaps an old torch checkpoint)", "a zip archive")
UNFINISHED_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
"""What browsers and download programs append to a file's name until it is whole."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: the file is missing, truncated or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    _check_exists(path)
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        _refuse_other_kinds(path, ("a safetensors file",))
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is truncated or not a safetensors file ({detail}); download it again") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The flat state dict of a ``.safetensors``, ``.pt`` or ``.ckpt`` file, on the CPU.

    A ``state_dict`` inside a checkpoint, as Lightning writes it, is unwrapped.

    Raises:
        InputError: the file is missing, damaged, of another kind, or a pickle with more than tensors in it.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    _check_exists(path)
    if path.suffix not in WEIGHT_SUFFIXES:
        raise InputError(
            f"{path} is {describe_file(path)}, not a weights file; give a .pt, .ckpt or .safetensors file, or a folder"
        )
    _refuse_other_kinds(path, _PICKLES)
    try:
        content = _load_pickle(path)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error) or "Ran out of input" in str(error):
            raise InputError(f"{path} is truncated or damaged; download it again") from error
        raise InputError(
            f"{path} was refused: it holds pickled code or objects, not only tensors; "
            "give the weights as .safetensors or as a plain state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is truncated or damaged; download it again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict of tensors; give a .pt, .ckpt or .safetensors file of weights")
    return content


def read_shards(files: Iterable[Path]) -> dict[str, Tensor]:
    """The weights of a network that lies in several files, as :func:`read_weights` reads each.

    Raises:
        InputError: as there; or two files have the same weight: only one of them is the network's.
    """
    state: dict[str, Tensor] = {}
    owner: dict[str, Path] = {}
    for file in files:
        weights = read_weights(file)
        if twice := sorted(weights.keys() & state.keys()):
            raise InputError(
                f"{file} and {owner[twice[0]].name} beside it both have the weight {twice[0]!r:.80}; remove the file "
                "that is of another network or format"
            )
        state |= weights
        owner |= dict.fromkeys(weights, file)
    return state


def _refuse_other_kinds(path: Path, kinds: tuple[str, ...]) -> None:
    """Name a file that is of another kind than it is called, such as a web page or a pointer of Git LFS."""
    kind = describe_file(path)
    if kind in kinds or kind == "a binary file of unknown kind":
        return
    advice = "run `git lfs pull`" if kind == LFS_POINTER else "download it again, or give a file of weights"
    raise InputError(f"{path} is {kind}, not weights; {advice}")


def _load_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # Files in PyTorch's format from before 1.6 cannot be mapped into memory.
        return torch.load(path, map_location="cpu", weights_only=True)


def check_finished(path: Path) -> None:
    """Refuse what download programs leave when they were interrupted.

    Raises:
        InputError: the path has the suffix of an unfinished download, or is missing while such a file lies beside it.
    """
    if path.suffix in UNFINISHED_SUFFIXES:
        raise InputError(f"{path} is a half-downloaded file; finish the download and give the finished file")
    for suffix in UNFINISHED_SUFFIXES if not path.exists() else ():
        partial = path.with_name(path.name + suffix)
        if partial.is_file():
            raise InputError(f"{path} is only half-downloaded, as {partial.name}; finish the download first")


def _check_exists(path: Path) -> None:
    check_finished(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; download it again")
