"""The tables in .ply files, whatever wrote them: the header as tools write it, and the columns of the vertices."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 22
_ENDINGS = re.compile(rb"\r\n|\n|\r")


@dataclass
class PlyElement:
    """One table of a .ply, as its header declares it."""

    name: str
    count: int
    types: dict[str, str] = field(default_factory=dict)
    """Numpy type of each property with one number a row, such as "f4", in order."""
    lists: list[str] = field(default_factory=list)
    """Names of the properties that have several."""


@dataclass
class PlyHeader:
    """What a .ply says about itself."""

    encoding: str
    """"ascii", "binary_little_endian" or "binary_big_endian"."""
    elements: dict[str, PlyElement]
    """By name, in the order of the file."""
    comments: dict[str, str]
    """Comments of the form "name: value", names in lower case."""
    size: int
    """Bytes before the first row."""


def read_header(path: Path) -> PlyHeader:
    """Read what a .ply declares. Comments may have any encoding, lines any ending, and a byte-order mark may come
    first.

    Raises:
        InputError: the file is missing, a folder, something else under this name, or its header is cut off or damaged.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a file of Gaussian splats")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file of Gaussian splats")
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror or error}); check who may read it") from error
    start = len(head) - len(head.removeprefix(b"\xef\xbb\xbf"))
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head[start:])
    if first is None:
        kind = describe_file(path)
        advice = "run `git lfs pull`" if kind == LFS_POINTER else "copy or export the file again"
        raise InputError(f"{path} is not a .ply file but {kind}; {advice}")
    # Lines may end in several ways; a row may begin with a line feed, so the way of the line before counts first.
    end = re.search(rb"(\r\n|\n|\r)end_header[ \t]*(?:\1|\r\n|\n)", head)
    if end is None:
        raise InputError(f"{path} is truncated: its header does not end; copy or export the file again")
    lines = [_text(line).split() for line in _ENDINGS.split(head[start : end.start()])[1:]]
    try:
        return _parse([line for line in lines if line], end.end())
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path} is not a readable .ply file ({error}); export the file again") from error


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _parse(lines: list[list[str]], size: int) -> PlyHeader:
    encoding, elements, comments = "", {}, {}
    for keyword, *words in lines:
        if keyword in ("comment", "obj_info"):
            name, _, value = " ".join(words).lower().partition(":")
            comments[name.strip()] = value.strip()
        elif keyword == "format":
            encoding = words[0]
        elif keyword == "element":
            if words[0] in elements or int(words[1]) < 0:
                raise ValueError(f"element {' '.join(words)!r}")
            elements[words[0]] = PlyElement(words[0], int(words[1]))
        elif keyword == "property" and elements:
            _add_property(list(elements.values())[-1], words)
        else:
            raise ValueError(f"line {' '.join([keyword, *words])[:60]!r} in its header")
    if encoding not in _BYTE_ORDERS:
        raise ValueError(f"format {encoding!r}")
    return PlyHeader(encoding, elements, comments, size)


def _add_property(element: PlyElement, words: list[str]) -> None:
    name = words[-1]
    if name in element.types or name in element.lists:
        raise ValueError(f"property {name!r} twice")
    if words[0] == "list":
        element.lists.append(name)
    elif words[0] in _TYPES:
        element.types[name] = _TYPES[words[0]]
    else:
        raise ValueError(f"a property of type {words[0]!r}")


def read_columns(path: Path, header: PlyHeader, name: str = "vertex") -> dict[str, npt.NDArray]:
    """The columns of one element, each of the type that the header declares; properties with lists are left out.

    What comes after the element is not looked at.

    Args:
        path: the file.
        header: of this file.
        name: of the element.

    Raises:
        InputError: the file ends early, or has something else where numbers should be.
    """
    raw = path.read_bytes()
    names = list(header.elements)
    before = [header.elements[other] for other in names[: names.index(name)]]
    element = header.elements[name]
    if any(other.lists for other in [*before, element]):
        return _columns_beside_lists(path, raw, header, name)
    if header.encoding == "ascii":
        return _columns_of_text(path, raw[header.size :], before, element)
    order = _BYTE_ORDERS[header.encoding]
    start = header.size + sum(other.count * _row_type(other, order).itemsize for other in before)
    kind = _row_type(element, order)
    if len(raw) < start + element.count * kind.itemsize:
        raise _truncated(path)
    table = np.frombuffer(raw, kind, element.count, start)
    return {column: table[column] for column in element.types}


def white_of(colors: npt.NDArray, types: Sequence[np.dtype]) -> tuple[float, bool]:
    """What stands for white in plain colors, and whether that is a guess: what their type says if all are of 8 or 16
    bits without sign, else 65535 (some exceed 255), 255 (whole numbers, or some exceed 2) or 1.

    Args:
        colors: of any shape; those that are not finite do not count.
        types: of the columns that they were read from.
    """
    kinds = {kind.kind + str(kind.itemsize) for kind in types}
    if kinds in ({"u1"}, {"u2"}):
        return (255.0 if kinds == {"u1"} else 65535.0), False
    brightest = float(colors[np.isfinite(colors)].max(initial=0.0))
    whole = all(kind.kind in "iu" for kind in types)
    return (65535.0 if brightest > 255 else 255.0 if whole or brightest > 2 else 1.0), True


def _row_type(element: PlyElement, order: str) -> np.dtype:
    return np.dtype([(name, order + kind) for name, kind in element.types.items()])


def _columns_of_text(path: Path, text: bytes, before: list[PlyElement], element: PlyElement) -> dict[str, npt.NDArray]:
    skipped = sum(other.count * len(other.types) for other in before)
    width = len(element.types)
    wanted = skipped + element.count * width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what comes after the numbers; too few of them are found out below
        try:
            numbers = np.fromstring(text, dtype=np.float64, sep=" ")  # with a count it makes numbers up
        except ValueError:
            numbers = np.empty(0)
    if len(numbers) < wanted:
        raise InputError(
            f"{path} is truncated, or has something else than numbers in its rows; copy or export the file again"
        )
    table = numbers[skipped:wanted].reshape(element.count, width)
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(element.types.items())}


def _columns_beside_lists(path: Path, raw: bytes, header: PlyHeader, name: str) -> dict[str, npt.NDArray]:
    """The same by plyfile, row by row, for the rare file whose rows have no fixed length."""
    from plyfile import PlyData, PlyParseError

    lines = _ENDINGS.split(raw[: header.size].removeprefix(b"\xef\xbb\xbf"))
    kept = [line for line in lines if line.split()[:1] not in ([b"comment"], [b"obj_info"])]
    try:
        data = PlyData.read(io.BytesIO(b"\n".join(kept).rstrip() + b"\n" + raw[header.size :]))
    except (PlyParseError, ValueError, OSError) as error:
        if "early end" in str(error):
            raise _truncated(path) from error
        raise InputError(f"{path} is not a readable .ply file ({error}); export the file again") from error
    return {column: np.asarray(data[name][column]) for column in header.elements[name].types}


def _truncated(path: Path) -> InputError:
    return InputError(f"{path} is truncated: it ends before its last splat; copy or export the file again")
