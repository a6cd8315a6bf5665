"""Repositories on the Hugging Face hub: how they are named, which of their files are fetched, where they lie here.

What is in a repository is for the rooms above to know: they say so as a :class:`RepositoryKind`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import shortened
from invert3d_ns.base.inputs import read_json
from invert3d_ns.weights.formats import WEIGHT_SUFFIXES
from invert3d_ns.weights.manifest import require_sha256, sha256_of

RECORD = "download.json"
"""Written beside a finished download: commit, files, their sizes and sha256."""
_REFERENCE = re.compile(
    r"(?P<prefix>hf:)?(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?"
    r"(:(?P<filename>[\w+@(\[][\w./ +@=,&'()\[\]~-]*))?"
)
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
"""Bytes of a file's name and of its path, more than which no repository needs and few file systems take."""


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
        text = str(self)
        name = re.sub(r"[^\w.=+-]", "--", text)
        is_plain = self.revision is None and not re.search(r"--|[^\w.:/=+-]", text)
        if is_plain and len(name.encode()) <= _LONGEST_NAME:
            return name
        # Others could come to the same name: "a@b" and "a:b" do, "a b" and "a,b".
        return f"{shortened(name, 150)}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def fetch_command(self) -> str:
        """What to run on a connected machine to have the repository or file as a local one."""
        files = f" {shlex.quote(self.filename)}" if self.filename else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repository}{files}{revision} --local-dir {self._local_name}"

    @property
    def local_path(self) -> str:
        """Where it lies after :attr:`fetch_command`."""
        return f"{self._local_name}/{self.filename}" if self.filename else self._local_name

    @property
    def _local_name(self) -> str:
        return self.repository.split("/")[-1].lower()


@dataclass(frozen=True)
class RepositoryKind:
    """What kind of model a repository holds: which files make it up, and how messages speak of it.

    Only weights, configs and vocabularies should be selected: a repository's code is neither fetched nor read.
    """

    noun: str
    """What messages call it, such as "prior"; there is a model 'bundled' of each kind."""
    select: Callable[[Sequence[str], HubReference], list[str]]
    """Of all files of a repository, those to fetch; InputError if the model is not there."""
    is_whole: Callable[[Sequence[str]], bool]
    """Whether the files that were selected in a folder are all that it takes."""
    by_hand: Callable[[HubReference], str]
    """What to do where the hub cannot be reached, as an imperative."""
    cache: str = "downloads"
    """Folder in :func:`cache_root`: a repository may hold models of several kinds, each fetched on its own."""


class NotInRepositoryError(InputError):
    """A repository or mirror that can be read has no such file or repository."""


def parse_reference(text: str) -> HubReference | None:
    """Read ``hf:org/name[@revision][:file]``, of which ``hf:`` may be left out; None for anything else.

    Without ``hf:``, what ends like a weight file is taken for a path.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text or "//" in text or text.endswith("/"):
        return None
    if any(len(part) > _LONGEST_NAME for part in text.split("/")) or len(text) > _LONGEST_PATH:
        return None
    if not match["prefix"] and not match["filename"] and text.endswith(WEIGHT_SUFFIXES):
        return None
    return HubReference(match["repository"], match["revision"], match["filename"])


def cache_root() -> Path:
    """Where downloads and converted weights are kept: ``$XDG_CACHE_HOME`` or ``~/.cache``, in a folder of our own.

    Raises:
        InputError: there is no home folder, and no other one is named.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "invert3d_ns"
    try:
        return Path.home() / ".cache" / "invert3d_ns"
    except RuntimeError as error:
        raise InputError(
            "there is no home folder to keep downloads and converted weights in; set HOME, or "
            "XDG_CACHE_HOME to a folder"
        ) from error


def find_local(reference: HubReference, kind: RepositoryKind) -> Path | None:
    """The file or folder if it is whole on this machine: fetched by us, or in the hub's own cache."""
    folder = download_folder(reference, kind)
    record = _read_record(folder)
    if record is not None:
        path = folder / record["entry"]
        if all((folder / name).is_file() for name in record["files"]):
            return path
    return _find_in_hub_cache(reference, kind)


def recorded_hashes(path: Path) -> dict[str, str]:
    """sha256 of a source's files as they were stated where it came from, by path relative to the file's folder or the
    folder; only of files of which it is known.
    """
    folder = path if path.is_dir() else path.parent
    files, _ = _record_of(path)
    known = {file.relative_to(folder).as_posix(): sha256 for file, sha256 in files.items() if folder in file.parents}
    for file in folder.rglob("*") if path.is_dir() else [path]:
        # The hub's cache names its big files by their sha256.
        blob = file.resolve()
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            known[file.relative_to(folder).as_posix()] = blob.name
    return known


def recorded_commit(path: Path) -> str | None:
    """The commit that a file or folder was at when it was downloaded, by us or into the hub's own cache; else None."""
    folder = path if path.is_dir() else path.parent
    commits = [_record_of(path)[1], *(part.name for part in (folder, *folder.parents))]
    return next((commit for commit in commits if re.fullmatch(r"[0-9a-f]{40}", commit)), None)


def check_download(path: Path, files: Iterable[Path], hashes: Mapping[str, str] | None = None) -> None:
    """Hold files against the sha256 that were stated where they came from; those of which none is known pass.

    Args:
        path: the file or folder, as it was fetched.
        files: which of its files.
        hashes: of files by path relative to the folder, where they are computed already.

    Raises:
        InputError: a file was damaged or exchanged since it was downloaded.
    """
    root = path if path.is_dir() else path.parent
    names = {file.relative_to(root).as_posix() for file in files}
    for name, expected in recorded_hashes(path).items():
        if name in names:
            found = hashes[name] if hashes is not None else sha256_of(root / name)
            require_sha256(root / name, expected, found, "when it was downloaded it was")


def require_inside(name: str) -> None:
    """Refuse a file name of a listing that would lead out of the folder that the repository is fetched to.

    Raises:
        InputError: it is empty, absolute, has a drive, backslashes or control characters, goes up, or is too long.
    """
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or ":" in path.parts[0]
    too_long = len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in path.parts)
    if leads_out or too_long or not name.isprintable():
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        raise InputError(
            f"the repository lists a file {shown!r}, which would be written outside its folder or under a name that no "
            "file can have; refused"
        )


def select_files(names: Sequence[str], reference: HubReference, kind: RepositoryKind) -> list[str]:
    """Of a repository's files, those to fetch: the one that is named, or what its kind selects.

    Raises:
        InputError: there is no such file, or the kind finds no model.
    """
    if reference.filename is None:
        return kind.select(names, reference)
    if reference.filename not in names:
        raise NotInRepositoryError(f"{reference.repository} has no file {reference.filename}; it has {some_of(names)}")
    return [reference.filename]


def download_folder(reference: HubReference, kind: RepositoryKind) -> Path:
    """Where this package downloads a repository or file to."""
    return cache_root() / kind.cache / reference.folder_name


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = read_json(folder / RECORD, "download it again")
    except InputError:
        return None
    files = record.get("files")
    if not isinstance(record.get("entry"), str) or not isinstance(files, dict) or not record["entry"] or not files:
        return None
    return record if all(isinstance(entry, dict) and "sha256" in entry for entry in files.values()) else None


def _record_of(path: Path) -> tuple[dict[Path, str], str]:
    """The sha256 of each file and the commit of the download that a file or folder is of; nothing if it is of none.

    A file in a folder of its repository has the record further up.
    """
    for folder in (path, *path.parents):
        record = _read_record(folder)
        files = {folder / name: str(entry["sha256"]) for name, entry in record["files"].items()} if record else {}
        if record and any(path in (file, *file.parents) for file in files):
            return files, str(record.get("commit") or "")
    return {}, ""


def _find_in_hub_cache(reference: HubReference, kind: RepositoryKind, cache: Path | None = None) -> Path | None:
    import huggingface_hub

    where = {"revision": reference.revision, "cache_dir": cache, "local_files_only": True}
    try:
        if reference.filename is not None:
            return Path(huggingface_hub.hf_hub_download(reference.repository, reference.filename, **where))  # type: ignore[arg-type]
        folder = Path(huggingface_hub.snapshot_download(reference.repository, **where))  # type: ignore[arg-type]
    except Exception:  # not in the cache, in whatever way this version of huggingface_hub says so
        return None
    return _entry(folder, reference, kind)


def find_in_folder(reference: HubReference, kind: RepositoryKind, mirror: Path) -> Path:
    """The file or folder in a mirror that is a folder: at ``org/name``, or as the hub's cache keeps it.

    Raises:
        InputError: it is not there, or not whole.
    """
    folder = mirror / reference.repository
    path = folder / reference.filename if reference.filename else folder
    found = path if reference.filename and path.is_file() else None
    if found is None and reference.filename is None and path.is_dir():
        found = _entry(path, reference, kind)
    found = found or _find_in_hub_cache(reference, kind, mirror)
    if found is None:
        raise NotInRepositoryError(f"the mirror {mirror} has no {reference}; expected it whole at {path}")
    return found


def some_of(names: Sequence[str]) -> str:
    """A few of the names, for messages."""
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "") or "none"


def _entry(folder: Path, reference: HubReference, kind: RepositoryKind) -> Path | None:
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    try:
        selected = kind.select(names, reference)
    except InputError:
        return None
    if not kind.is_whole(selected):
        return None
    return folder / selected[0] if len(selected) == 1 else folder
