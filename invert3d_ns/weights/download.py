"""Weights brought to this machine: from the hub, a mirror of it, or a folder.

Every file's size and sha256 are held against what the hub states, and an interrupted download goes on where it ended.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import os
import re
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path, cannot_write, shortened
from invert3d_ns.base.inputs import user_path
from invert3d_ns.weights.hub import (
    RECORD,
    HubReference,
    RepositoryKind,
    download_folder,
    find_in_folder,
    find_local,
    require_inside,
    select_files,
)
from invert3d_ns.weights.manifest import FileRecord, git_blob_sha1, require_sha256, sha256_of

MIRROR_VARIABLE = "INVERT3D_MIRROR"
PLAIN_HTTP_VARIABLE = "INVERT3D_ALLOW_HTTP"
"""Set to 1, it allows addresses whose traffic anybody on the way can read and exchange."""
_DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
)


def fetch_weights(
    reference: HubReference,
    kind: RepositoryKind,
    label: str | None = None,
    *,
    mirror: str | None = None,
    sha256: str | None = None,
) -> Path:
    """The file or folder on this machine, downloaded if it is not there; an interrupted download goes on.

    Sizes and hashes are held against those that the hub states.

    Args:
        reference: repository or file.
        kind: which of the repository's files are fetched.
        label: what messages call it.
        mirror: ``https://`` address of a hub that speaks the same protocol (``http://`` only of this machine, or with
            ``$INVERT3D_ALLOW_HTTP`` set to 1); or a folder or ``file://`` address, in
            which repositories are folders ``org/name`` (used in place). If None, that of ``$INVERT3D_MIRROR``, else
            ``$HF_ENDPOINT``, else the hub.
        sha256: expected hash, for a single file.

    Raises:
        InputError: not here and not to be had: offline, unreachable, no such repository or file (then, where one was
            reached, :class:`~invert3d_ns.weights.hub.NotInRepositoryError`), no space, wrong hash.
    """
    label = label or str(reference)
    mirror = mirror or os.environ.get(MIRROR_VARIABLE) or None
    folder = _mirror_folder(mirror)
    if folder is not None:
        path = find_in_folder(reference, kind, folder)
    else:
        path = find_local(reference, kind) or _download(reference, kind, label, mirror)
    if sha256 is not None:
        require_file_sha256(path, sha256)
    return path


def require_file_sha256(path: Path, expected: str) -> None:
    """Hold a single file against a hash that was asked for.

    Raises:
        InputError: the hash is another one, is no sha256, or the path is a folder.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise InputError(f"{expected!r} is not a sha256; give 64 hexadecimal digits")
    if path.is_dir():
        raise InputError(f"a sha256 is of a single file, but {path} is a folder; leave it out, or name a file")
    require_sha256(path, expected, sha256_of(path), "what was asked for is")


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids to use the network."""
    from huggingface_hub import constants

    values = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return constants.HF_HUB_OFFLINE or any(value in ("1", "ON", "YES", "TRUE") for value in values)


def _download(reference: HubReference, kind: RepositoryKind, label: str, mirror: str | None) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    folder = download_folder(reference, kind)
    advice = f"{kind.by_hand(reference)}, name a mirror in {MIRROR_VARIABLE}, or use the {kind.noun} 'bundled'"
    if is_offline():
        present = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        state = f"only half-downloaded ({present / 1e6:.0f} MB are here)" if present else "not on this machine"
        raise InputError(f"{kind.noun} {label!r} is {state} and HF_HUB_OFFLINE is set; unset it, or {advice}")
    endpoint = (mirror or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    _require_encryption(endpoint)
    # A token for the hub is nobody else's business; who sets HF_ENDPOINT says that it is the hub.
    token = False if mirror else None
    headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
    with _download_errors(folder, f"cannot fetch {kind.noun} {label!r} from {_host(endpoint)}", advice):
        if not _resolves(endpoint):
            raise OSError("its name does not resolve")
        info = HfApi(endpoint=endpoint, token=token).model_info(
            reference.repository, revision=reference.revision, files_metadata=True
        )
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        # Our own record of a download, where a folder that it lies in was uploaded as it was.
        selected = [name for name in select_files(list(siblings), reference, kind) if name != RECORD]
        if not selected:
            raise InputError(f"{reference} is a record of a download and holds no weights; name another file")
        for name in selected:
            require_inside(name)
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{folder / name} leads out of the folder of downloads by a link; remove the link")
        _check_space(folder, sum(siblings[name].size or 0 for name in selected if not (folder / name).is_file()))
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, FileRecord] = {}
        with WeakFileLock(folder / ".lock"):
            for name in selected:
                url = hf_hub_url(reference.repository, name, revision=info.sha, endpoint=endpoint)
                files[name] = _download_file(url, headers, folder / name, siblings[name])
        entry = selected[0] if reference.filename or len(selected) == 1 else "."
        document = {"repository": reference.repository, "commit": info.sha, "entry": entry, "files": files}
        with atomic_path(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return folder / entry


def _download_file(url: str, headers: dict[str, str], target: Path, sibling: Any) -> FileRecord:
    # hf_hub_download starts a file afresh after an interruption; its http_get can go on where it ended.
    from huggingface_hub.file_download import http_get

    size: int | None = sibling.size
    # Of big files the hub states the sha256, of small ones, which git keeps itself, the name that git gives them.
    sha256, sha1 = _hash(sibling.lfs and sibling.lfs.sha256, 64), _hash(sibling.blob_id, 40)
    stated = sha256 or sha1
    if target.is_file() and size == target.stat().st_size:
        found = sha256_of(target)
        if stated in (None, found) or (sha256 is None and stated in _git_names(target, found)):
            return {"sha256": found, "size": target.stat().st_size}
    # Named by content, so that a file that changed upstream is not appended to.
    partial = target.with_name(f"{shortened(target.name, 200)}.{(stated or 'unknown')[:16]}.incomplete")
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("r+b" if partial.is_file() else "w+b") as file:
        present = file.seek(0, os.SEEK_END)
        if size is None or present > size:
            present = file.seek(0)
            file.truncate()
        if present != size:
            http_get(
                url, file, resume_size=present, headers=headers, expected_size=size, displayed_filename=target.name
            )
    found = sha256_of(partial)
    names: tuple[str, ...] = (found,) if sha256 else _git_names(partial, found)
    if stated is not None and stated not in names:
        partial.unlink()
        raise InputError(
            f"{target} has the wrong {'sha256' if sha256 else 'sha1'}: {names[0][:16]}..., but the hub says "
            f"{stated[:16]}...; it is damaged or another file, download it again"
        )
    os.replace(partial, target)
    return {"sha256": found, "size": target.stat().st_size}


def _hash(stated: Any, digits: int) -> str | None:
    """A hash as the hub states it; None for what a mirror puts in its place, which says nothing of the content."""
    is_hash = isinstance(stated, str) and re.fullmatch(r"[0-9a-fA-F]+", stated) and len(stated) == digits
    return stated.lower() if is_hash else None


def _git_names(path: Path, sha256: str) -> tuple[str, str]:
    """The names that git gives a file's content, and the pointer that it keeps in the place of a big file."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {path.stat().st_size}\n".encode()
    return git_blob_sha1(path), hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()


@contextmanager
def _download_errors(folder: Path, what: str, advice: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(f"{what}: access is granted by its authors; ask them, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{what}: no such repository, or a private one; check its name, or {advice}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{what}: no such revision; check what follows the @") from error
    except Exception as error:  # huggingface_hub raises its own, requests' or httpx' errors, by version
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise cannot_write(f"downloads to {folder}", error, "set XDG_CACHE_HOME to a folder elsewhere") from error
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        partial = any(folder.rglob("*.incomplete")) if folder.is_dir() else False
        kept = "run the same again to go on where it ended, or " if partial else ""
        raise InputError(f"{what} ({reason}); {kept}{advice}") from error


def _check_space(folder: Path, needed: int) -> None:
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"the download needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {existing}; free some "
            "space, or set XDG_CACHE_HOME to a folder elsewhere"
        )


def _mirror_folder(mirror: str | None) -> Path | None:
    if mirror is None or mirror.startswith(("http://", "https://")):
        return None
    if mirror.startswith("file://"):
        mirror = urllib.request.url2pathname(urllib.parse.urlparse(mirror).path)
    folder = user_path(mirror)
    if not folder.is_dir():
        raise InputError(f"the mirror {mirror} is neither a folder nor an http(s):// address; check it")
    return folder


def _require_encryption(endpoint: str) -> None:
    """Refuse a plain http:// address of another machine, unless the user allows it."""
    try:
        parts = urllib.parse.urlsplit(endpoint)
    except ValueError as error:
        raise InputError(f"{endpoint} is no address of a hub ({error}); check the mirror, or HF_ENDPOINT") from error
    if parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
        return
    if parts.scheme != "http":
        raise InputError(f"{_host(endpoint)} is no https:// address of a hub; check the mirror, or HF_ENDPOINT")
    if os.environ.get(PLAIN_HTTP_VARIABLE) != "1":
        raise InputError(
            f"http://{_host(endpoint)} is not encrypted, so that anybody on the way could exchange the weights; give "
            f"an https:// address, or set {PLAIN_HTTP_VARIABLE}=1 if you trust the network"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(endpoint: str) -> str:
    # Without the user and password that an address may have in it.
    host = urllib.parse.urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint
    return "the Hugging Face hub" if host == "huggingface.co" else host


def _resolves(endpoint: str) -> bool:
    # huggingface_hub retries for half a minute before it gives up; a name that does not resolve is known at once.
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlparse(endpoint).hostname, None)
    except OSError:
        return False
    return True
