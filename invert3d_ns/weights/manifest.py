"""Sizes and sha256 of what lies in a folder of weights: damage and exchanged files are found before they are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.inputs import read_json

MANIFEST = "manifest.json"
_FORMAT_VERSION = 1


class FileRecord(TypedDict):
    """A file as it was written or downloaded."""

    sha256: str
    size: int


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    return _digest_of(path, lambda size: hashlib.sha256())


def git_blob_sha1(path: Path) -> str:
    """The name that git gives a file's content, 40 hexadecimal digits: what the hub states of small files.

    Raises:
        InputError: the file cannot be read.
    """
    return _digest_of(path, lambda size: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _digest_of(path: Path, begin: Callable[[int], Any]) -> str:
    """The digest of a file's content in hexadecimal digits, read block by block into what ``begin(size)`` makes."""
    try:
        digest = begin(path.stat().st_size)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    return digest.hexdigest()


def record_files(root: Path, files: Iterable[Path]) -> dict[str, FileRecord]:
    """Size and sha256 of each file, by its path relative to ``root``."""
    return {
        file.relative_to(root).as_posix(): {"sha256": sha256_of(file), "size": file.stat().st_size}
        for file in sorted(files)
    }


def write_manifest(folder: Path | str) -> Path:
    """Write ``manifest.json``: size and sha256 of every other file in the folder; the path of the manifest.

    Raises:
        InputError: the folder cannot be read or written.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file() and file != path and not _is_litter(file.relative_to(folder))
    ]
    document = {"format_version": _FORMAT_VERSION, "files": record_files(folder, files)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def read_manifest(folder: Path) -> dict[str, FileRecord] | None:
    """What ``manifest.json`` says; None for folders from before there were manifests.

    Raises:
        InputError: the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    document = read_json(path, "convert or download the folder again")
    try:
        files = document["files"]
        return {name: {"sha256": entry["sha256"].lower(), "size": int(entry["size"])} for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({error!r}); convert or download the folder again") from error


def check_sizes(folder: Path) -> None:
    """Hold the sizes of the weight files against the manifest, if there is one: quick enough for every load.

    Texts are left to :func:`check_hashes`: a description that was edited by hand may still be loaded.

    Raises:
        InputError: a weight file is missing, truncated, of another size, or one that the manifest does not know.
    """
    entries = read_manifest(folder)
    for name, entry in (entries or {}).items():
        if name.endswith(".safetensors"):
            _check_size(folder, name, entry)
    if entries is not None:
        _refuse_strangers(folder, entries)


def check_hashes(folder: Path) -> int | None:
    """Hold every file against the manifest; how many were compared, None without a manifest.

    Raises:
        InputError: a file is missing, of another size or content, or a weight file that the manifest does not know.
    """
    entries = read_manifest(folder)
    if entries is None:
        return None
    for name, entry in entries.items():
        _check_size(folder, name, entry)
        require_sha256(folder / name, entry["sha256"], sha256_of(folder / name), "its manifest says")
    _refuse_strangers(folder, entries)
    return len(entries)


def require_sha256(path: Path, expected: str, found: str, authority: str) -> None:
    """Compare two hashes; ``authority`` is who expects the first, as the message puts it.

    Raises:
        InputError: they differ.
    """
    if expected.lower() != found:
        raise InputError(
            f"{path} has the wrong sha256: {found[:16]}..., but {authority} {expected.lower()[:16]}...; "
            "it is damaged or another file, download or convert it again"
        )


def _check_size(folder: Path, name: str, entry: FileRecord) -> None:
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder} is damaged: {name} is missing; convert or download it again")
    size = path.stat().st_size
    if size != entry["size"]:
        kind = "truncated" if size < entry["size"] else "not the file that was written"
        raise InputError(f"{path} is {kind}: {size} bytes instead of {entry['size']}; convert or download it again")


def _refuse_strangers(folder: Path, entries: Mapping[str, FileRecord]) -> None:
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")}
    if strangers := sorted(present - entries.keys()):
        raise InputError(
            f"{folder / strangers[0]} is not in {MANIFEST}; remove it, or convert or download the folder again"
        )


def _is_litter(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
