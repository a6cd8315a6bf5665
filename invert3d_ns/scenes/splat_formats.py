"""Splats in the files of other viewers: converted from and to .ply by GaussForge, in a process of its own.

GaussForge is compiled code that trusts what it reads and prints what it does: a damaged file may end its process, which
must not be this one.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.ply import comments_of, read_ply, write_splats

CONVERTED = (".compressed.ply", ".spz", ".splat", ".ksplat", ".sog")
"""Endings of the files that are converted. A compressed .ply may also just end in .ply when it is read."""
_CALL = (
    "import json, sys; *job, sys.path[:] = json.loads(sys.argv[1]); "
    "from invert3d_ns.scenes.conversion import convert; convert(*job)"
)
_PATIENCE = 10.0
"""Seconds for a MB of input (a million splats take one) after which it is taken to be damaged."""
_PALETTE = 65536
"""Number of splats from which on an .sog holds the nearest harmonics of a palette instead of each splat's own."""
_SPZ_FLAGS, _SPZ_ANTIALIASED = 14, 1
"""The byte of an .spz header that holds flags, and the one that says how splats are drawn."""


def read_converted(path: Path, ending: str) -> SplatCloud:
    """Read splats from a file of another viewer.

    Args:
        path: the file.
        ending: which of :data:`CONVERTED` it is, whatever it is called.

    Raises:
        InputError: it is damaged, or see :func:`~invert3d_ns.scenes.ply.read_splats`.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        patience = _PATIENCE * (1 + path.stat().st_size / 2**20)
        if not _convert(path, ending, plain, ".ply", patience):
            raise InputError(f"{path} is no {ending} file that can be read, or is damaged; copy or export it again")
        cloud, _ = read_ply(plain, name=path)
    antialiased = ending == ".spz" and _spz_flags(path) & _SPZ_ANTIALIASED
    return replace(cloud, rasterize_mode="antialiased") if antialiased else cloud


def write_converted(path: Path, cloud: SplatCloud, ending: str, up: UpAxis | None = None) -> None:
    """Write splats as another viewer's file, which appears under its name only when complete.

    Args:
        path: the file.
        cloud: the splats.
        ending: which of :data:`CONVERTED` to write.
        up: the axis of ``cloud`` that points up; only a compressed .ply notes it.

    Raises:
        InputError: the file cannot be written, or the splats lie too far from their origin for 32-bit positions.
    """
    if any(cloud.origin):
        raise InputError(
            f"{path} cannot hold positions as far from their origin as these, which need 64 bits; write a .ply, or "
            "write the splats centered"
        )
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "splats.ply"
        if ending == ".sog" and cloud.sh_degree and len(cloud) > _PALETTE:
            warn(f"{path} has a palette of harmonics, which {len(cloud)} splats make slow to find: minutes, or more")
        write_splats(plain, _channel_by_channel(cloud) if ending == ".compressed.ply" else cloud)
        if not _convert(plain, ".ply", temporary, ending):
            raise InputError(f"{path} cannot be written as {ending}; write a .ply")
        if ending == ".compressed.ply":
            _add_comments(temporary, comments_of(cloud, up))
        elif ending == ".spz" and cloud.rasterize_mode == "antialiased":
            content = bytearray(gzip.decompress(temporary.read_bytes()))
            content[_SPZ_FLAGS] |= _SPZ_ANTIALIASED
            temporary.write_bytes(gzip.compress(content))


def left_out(cloud: SplatCloud, ending: str, up: UpAxis | None = None) -> list[str]:
    """What a file of this kind cannot say of splats, as parts of a sentence.

    Args:
        cloud: the splats.
        ending: ".ply" or one of :data:`CONVERTED`.
        up: the axis of ``cloud`` that points up.
    """
    missing = []
    if ending == ".splat" and cloud.sh_degree:
        missing.append("how colors change with the direction")
    if ending in (".splat", ".ksplat", ".sog") and cloud.rasterize_mode == "antialiased":
        missing.append("that they are to be drawn anti-aliased")
    if ending not in (".ply", ".compressed.ply") and up not in (None, "y"):
        missing.append(f"that {up} points up (y is assumed)")
    return missing


def _convert(source: Path, source_ending: str, target: Path, target_ending: str, patience: float | None = None) -> bool:
    """Convert a file; whether that went well, within so many seconds."""
    path = [os.path.abspath(entry) for entry in sys.path]  # "" is the current folder
    job = [str(source), source_ending[1:], str(target), target_ending[1:], path]
    command = [sys.executable, "-I", "-c", _CALL, json.dumps(job)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=patience)
    except subprocess.TimeoutExpired:
        return False
    if b"No module named 'gaussforge'" in done.stderr:
        raise InputError("GaussForge, which reads and writes such files, is missing; run `pip install gaussforge`")
    if b"\nModuleNotFoundError: " in done.stderr:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]
        raise InputError(f"GaussForge, which reads and writes such files, cannot be run ({reason}); install it again")
    return done.returncode == 0 and target.is_file() and target.stat().st_size > 0


def _channel_by_channel(cloud: SplatCloud) -> SplatCloud:
    """Splats whose harmonics end up in the right order.

    GaussForge 0.6 writes those of compressed .ply files coefficient by coefficient, where its own reader, SuperSplat
    and gsply have them channel by channel; so they are handed to it in the order that comes out right.
    """
    return replace(cloud, features_rest=cloud.features_rest.transpose(1, 2).reshape(cloud.features_rest.shape))


def _add_comments(path: Path, comments: list[str]) -> None:
    content = path.read_bytes()
    first = content.index(b"element ")
    lines = "".join(f"comment {comment}\n" for comment in comments).encode()
    path.write_bytes(content[:first] + lines + content[first:])


def _spz_flags(path: Path) -> int:
    """The flags in the header of an .spz file, packed (versions 1 to 3) or not (version 4)."""
    with path.open("rb") as file:
        head = file.read(_SPZ_FLAGS + 2)
    if not head.startswith(b"NGSP"):
        with gzip.open(path) as packed:
            head = packed.read(_SPZ_FLAGS + 2)
    return head[_SPZ_FLAGS]
