"""Repositories on the Hugging Face hub: how they are named, which of their files are wanted, where they lie here.

Only weights, configs and vocabularies are wanted; a repository's code is neither fetched nor read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.layouts import PARTS, WEIGHT_SUFFIXES, choose_weights

RECORD = "download.json"
"""Written beside a finished download: commit, files, their sizes and sha256."""
_REFERENCE = re.compile(
    r"(?P<prefix>hf:)?(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<filename>[\w./ +-]+))?"
)


@dataclass(frozen=True)
class HubReference:
    """A repository, or one file in it."""

    repository: str
    """``organization/name``."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    filename: str | None = None
    """A checkpoint in the repository; None for the repository as a folder, or its only checkpoint."""

    def __str__(self) -> str:
        """The text that :func:`parse_reference` reads."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{revision}" + (f":{self.filename}" if self.filename else "")

    @property
    def folder_name(self) -> str:
        """A name for folders that is this reference's alone."""
        return re.sub(r"[^\w.=+-]", "--", str(self))

    @property
    def fetch_command(self) -> str:
        """What to run on a connected machine to have the weights as a local file or folder."""
        files = f" {self.filename}" if self.filename else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repository}{files}{revision} --local-dir {self._local_name}"

    @property
    def local_path(self) -> str:
        """What to pass as the prior after :attr:`fetch_command`."""
        return f"{self._local_name}/{self.filename}" if self.filename else self._local_name

    @property
    def _local_name(self) -> str:
        return self.repository.split("/")[-1].lower()


def parse_reference(text: str) -> HubReference | None:
    """Read ``hf:org/name[@revision][:file]``, of which ``hf:`` may be left out; None for anything else.

    Without ``hf:``, what ends like a weight file is taken for a path.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text:
        return None
    if not match["prefix"] and not match["filename"] and text.endswith(WEIGHT_SUFFIXES):
        return None
    return HubReference(match["repository"], match["revision"], match["filename"])


def cache_root() -> Path:
    """Where downloads and converted priors are kept: ``$XDG_CACHE_HOME`` or ``~/.cache``, in a folder of our own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invert3d_ns"


def find_local(reference: HubReference) -> Path | None:
    """The file or folder if it is whole on this machine: fetched by us, or in the hub's own cache."""
    folder = download_folder(reference)
    record = _read_record(folder)
    if record is not None:
        path = folder / record["entry"]
        if all((folder / name).is_file() for name in record["files"]):
            return path
    return _find_in_hub_cache(reference)


def recorded_hashes(path: Path) -> dict[str, str]:
    """sha256 of a source's files as they were stated where it came from, by path relative to the file's folder or the
    folder; only of files of which it is known.
    """
    folder = path if path.is_dir() else path.parent
    record = _read_record(folder)
    known = {name: entry["sha256"] for name, entry in record["files"].items()} if record else {}
    for file in folder.rglob("*") if path.is_dir() else [path]:
        # The hub's cache names its big files by their sha256.
        blob = file.resolve()
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            known[file.relative_to(folder).as_posix()] = blob.name
    return known


def wanted_files(names: Sequence[str], reference: HubReference) -> list[str]:
    """Of a repository's files, those to fetch: no code, no copy in a second precision or format.

    Raises:
        InputError: there are no weights, or several checkpoints of which none was named.
    """
    if reference.filename is not None:
        if reference.filename not in names:
            raise InputError(f"{reference.repository} has no file {reference.filename}; it has {_some(names)}")
        return [reference.filename]
    if "prior.json" in names:
        return [name for name in names if name.endswith((".json", ".txt", ".safetensors"))]
    wanted: list[str] = []
    for part in PARTS:
        inside = [name.removeprefix(part + "/") for name in names if name.startswith(part + "/")]
        weights = choose_weights([name for name in inside if "/" not in name], half=True)
        texts = [name for name in inside if name.endswith(".json") and "/" not in name] if weights else []
        wanted += [f"{part}/{name}" for name in [*texts, *weights]]
    if wanted:
        return wanted
    single = [name for name in names if "/" not in name and name.endswith(WEIGHT_SUFFIXES)]
    if len(single) == 1:
        return single
    if single:
        raise InputError(
            f"{reference.repository} has several checkpoints; name one, for example "
            f"hf:{reference.repository}:{single[0]}"
        )
    raise InputError(f"{reference.repository} has no weights of a prior; it has {_some(names)}")


def download_folder(reference: HubReference) -> Path:
    """Where this package downloads a repository or file to."""
    return cache_root() / "downloads" / reference.folder_name


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if record["entry"] and record["files"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _find_in_hub_cache(reference: HubReference, cache: Path | None = None) -> Path | None:
    import huggingface_hub

    where = {"revision": reference.revision, "cache_dir": cache, "local_files_only": True}
    try:
        if reference.filename is not None:
            return Path(huggingface_hub.hf_hub_download(reference.repository, reference.filename, **where))  # type: ignore[arg-type]
        folder = Path(huggingface_hub.snapshot_download(reference.repository, **where))  # type: ignore[arg-type]
    except Exception:  # not in the cache, in whatever way this version of huggingface_hub says so
        return None
    return _entry(folder, reference)


def find_in_folder(reference: HubReference, mirror: Path) -> Path:
    """The file or folder in a mirror that is a folder: at ``org/name``, or as the hub's cache keeps it.

    Raises:
        InputError: it is not there, or not whole.
    """
    folder = mirror / reference.repository
    path = folder / reference.filename if reference.filename else folder
    found = path if reference.filename and path.is_file() else None
    if found is None and reference.filename is None and path.is_dir():
        found = _entry(path, reference)
    found = found or _find_in_hub_cache(reference, mirror)
    if found is None:
        raise InputError(f"the mirror {mirror} has no {reference}; expected it whole at {path}")
    return found


def _entry(folder: Path, reference: HubReference) -> Path | None:
    # A folder counts as whole when each part has its config and weights, and every shard that an index names.
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    try:
        wanted = wanted_files(names, reference)
    except InputError:
        return None
    if "prior.json" in names:
        return folder
    if len(wanted) == 1:
        return folder / wanted[0]
    parts = {name.split("/")[0] for name in wanted}
    complete = all(f"{part}/config.json" in wanted for part in PARTS[:3]) and parts >= set(PARTS[:3])
    return folder if complete else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "") or "none"
