"""Write files and folders so that nothing half-written is ever left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invert3d_ns.base.errors import InputError

_FULL = "free some space or {elsewhere}"
_FORBIDDEN = "change its permissions or {elsewhere}"
_IN_THE_WAY = "a file is in the way, {elsewhere}"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "your quota is used up, free some space or {elsewhere}",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), free some space or {elsewhere}",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "{elsewhere}",
    errno.ENOENT: "its folder is gone, make it again or {elsewhere}",
    errno.EISDIR: "there is a folder of this name, {elsewhere}",
    errno.ENOTEMPTY: "there is a folder of this name, {elsewhere}",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "shorten the name or {elsewhere}",
    errno.EIO: "check the disk or {elsewhere}",
}
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a write to a file that is open already may fail with; such errors name no file."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it becomes ``path`` if the block ends well, and vanishes if it does not.

    The block may create a file or a folder at the yielded path, which keeps the suffix of ``path``. An existing file is
    replaced; an existing folder is replaced only when the block made a folder. Errors of the block that are not about
    what it writes here pass unchanged.

    Raises:
        InputError: the operating system refused; the message says what to do about it (see :func:`cannot_write`).
    """
    path = Path(path)
    if "\0" in str(path) or path.name in ("", ".."):
        raise InputError(f"{str(path)!r} is no name for a file or folder to write; choose another one")
    holder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not the whole name, which may be as long as a name can be.
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = holder / path.name
    try:
        yield temporary
    except Exception as error:
        refused = _refusal(error, holder)
        if refused is None:
            raise
        raise cannot_write(path, refused) from error
    else:
        try:
            _put(temporary, path, holder)
        except OSError as error:
            raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def cannot_write(path: Path | str, error: OSError, elsewhere: str = "choose another place") -> InputError:
    """The error, in one line, for a file or folder that the operating system does not let us write.

    Args:
        path: what was to be written.
        error: why it could not be; its number decides what is advised.
        elsewhere: how another place is chosen, as an imperative.
    """
    reason = " ".join(str(error.strerror or error).split())[:120]
    advice = _ADVICE.get(error.errno or 0, "{elsewhere}").format(elsewhere=elsewhere)
    return InputError(f"cannot write {path}: {reason}; {advice}")


def _put(temporary: Path, path: Path, holder: Path) -> None:
    """Move what was written to its place; a folder that was there is gone only when its successor is in place."""
    if not (path.is_dir() and temporary.is_dir()):
        os.replace(temporary, path)
        return
    before = holder / "before"
    if before == temporary:
        before = holder / "until now"
    os.replace(path, before)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(before, path)
        raise


def shortened(name: str, size: int) -> str:
    """The start of a file's name that takes so many bytes at most: file systems count bytes, not letters."""
    return name.encode(errors="replace")[:size].decode(errors="ignore")


def _refusal(error: Exception, holder: Path) -> OSError | None:
    """The operating system's refusal to write in ``holder`` that an error of the block stands for, if it does."""
    if isinstance(error, InputError):
        return None
    if not isinstance(error, OSError):
        # Libraries written in Rust (safetensors, tokenizers) have errors of their own kinds, with the number in text.
        number = re.search(r"os error (\d+)|Os \{ code: (\d+)", str(error))
        code = int(number[1] or number[2]) if number else 0
        return OSError(code, os.strerror(code)) if code in _OF_THE_DISK else None
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    if names:
        return error if any(Path(name).absolute().is_relative_to(holder.absolute()) for name in names) else None
    return error if error.errno in _OF_THE_DISK else None
