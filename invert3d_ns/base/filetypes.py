"""What a file is by its first bytes, whatever it is called: for messages about files that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

LFS_POINTER = "a Git LFS pointer, not the file itself"
"""What :func:`describe_file` calls the small text that git leaves where a large file was not fetched."""
_HEAD = 1 << 16

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\x76\x2f\x31\x01", "an EXR image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a WAV sound"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (0, b"glTF", "a binary glTF model (.glb)"),
    (0, b"Kaydara FBX Binary", "an FBX model"),
    (0, b"BLENDER", "a Blender file"),
    (0, b"PXR-USDC", "a USD scene"),
    (0, b"#usda", "a USD scene"),
    (0, b"DRACO", "a Draco mesh"),
    (0, b"solid ", "an STL mesh"),
    (0, b"LASF", "a LAS point cloud"),
    (0, b"ASTM-E57", "an E57 point cloud"),
    (0, b"# .PCD", "a PCD point cloud"),
    (0, b"VERSION .7", "a PCD point cloud"),
    (0, b"NGSP", "splats in an .spz file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"%PDF", "a PDF document"),
    (0, b"version https://git-lfs", LFS_POINTER),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x28\xb5\x2f\xfd", "a file packed with zstd"),
    (0, b"BZh", "a file packed with bzip2"),
    (0, b"\xfd7zXZ\0", "a file packed with xz"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
)


def describe_file(path: Path | str) -> str:
    """What a file is, as a noun with its article: "a JPEG image", "a .ply mesh", "a web page (HTML)".

    Decided by content alone; the name is not looked at. Never raises: what cannot be opened is said to be that.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return "a folder"
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return "a missing file"
    except OSError:
        return "a file that cannot be opened"
    if not head:
        return "an empty file"
    for start, signature, name in _SIGNATURES:
        if head.startswith(signature, start):
            return name
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "a BMP image"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path, head)
    if head.startswith(b"\x1f\x8b"):
        return _describe_gzip(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and b"." in head:
        return "a Python pickle (perhaps an old torch checkpoint)"
    if re.match(rb"\{\s*[\"}]", head[8:]) and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    return _describe_text(head)


def _describe_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    start = text[:64].lower()
    if start.startswith(b"ply") and text[3:4] in (b"\n", b"\r", b" "):
        return _describe_ply(text)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a text file"
    if b"\0" in head:
        return "a binary file of unknown kind"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML)"
    if start.startswith(b"<"):
        return "an XML file"
    if re.match(rb"[{\[]\s*[\"{\[\]}0-9-]", text):
        return "a glTF model" if b'"asset"' in text and b'"meshes"' in text else "a JSON file"
    if re.search(rb"^(mtllib |v -?[0-9.]+ -?[0-9.]+ )", text, re.MULTILINE):
        return "an OBJ mesh"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "a binary file of unknown kind"
    return "a text file"


def _describe_ply(text: bytes) -> str:
    """What a .ply holds, by its header."""
    header = text.partition(b"end_header")[0]
    if b" packed_position" in header:
        return "a compressed splat .ply"
    if b" scale_0" in header or b" scaling_0" in header:
        return "a .ply of Gaussian splats"
    faces = re.search(rb"element\s+face\s+([0-9]+)", header)
    return "a .ply mesh" if faces and int(faces[1]) else "a .ply point cloud"


def _describe_zip(path: Path, head: bytes) -> str:
    """What a zip archive is for, by the names in it."""
    import struct
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (LookupError, NotImplementedError, OSError, ValueError, struct.error, zipfile.BadZipFile):
        names = []
    names = names or [head[30:94].decode("ascii", "replace")]
    if any(name.endswith("data.pkl") for name in names) or "data.pkl" in names[0]:
        return "a torch checkpoint"
    if any(Path(name).name == "meta.json" for name in names) and any(name.endswith(".webp") for name in names):
        return "splats in a .sog file"
    if all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)"
    if any(name.lower().endswith((".usd", ".usda", ".usdc")) for name in names):
        return "a USD scene (.usdz)"
    return "a zip archive"


def _describe_gzip(path: Path) -> str:
    import gzip
    import zlib

    try:
        with gzip.open(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        start = b""
    return "splats in an .spz file" if start == b"NGSP" else "a file packed with gzip"
