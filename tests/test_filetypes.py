from __future__ import annotations

import gzip
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from safetensors.torch import save_file
from synthetic import make_cloud

from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.scenes.ply import write_splats


def write_ply(path, faces):
    points = np.zeros(3, dtype=[(axis, "f4") for axis in "xyz"])
    elements = [PlyElement.describe(points, "vertex")]
    if faces:
        table = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
        elements.append(PlyElement.describe(table, "face"))
    PlyData(elements).write(str(path))


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")


def archive_of_version(path, version):
    archive(path, "a.txt")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 6] = version
    path.write_bytes(content)


MADE = {
    "a PNG image": lambda path: Image.new("RGB", (2, 2)).save(path, format="PNG"),
    "a JPEG image": lambda path: Image.new("RGB", (2, 2)).save(path, format="JPEG"),
    "a WebP image": lambda path: Image.new("RGB", (2, 2)).save(path, format="WEBP"),
    "a torch checkpoint": lambda path: torch.save({"a": torch.zeros(2)}, path),
    "a Python pickle (perhaps an old torch checkpoint)": lambda path: torch.save(
        {"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False
    ),
    "a safetensors file": lambda path: save_file({"a": torch.zeros(2)}, path),
    "NumPy arrays (.npz)": lambda path: np.savez(path.open("wb"), a=np.zeros(2)),
    "a NumPy array": lambda path: np.save(path.open("wb"), np.zeros(2)),
    "a zip archive": lambda path: archive(path, "a.txt"),
    "splats in a .sog file": lambda path: archive(path, "meta.json", "means_l.webp"),
    "a USD scene (.usdz)": lambda path: archive(path, "scene.usdc"),
    "a file packed with gzip": lambda path: path.write_bytes(gzip.compress(b"hello")),
    "splats in an .spz file": lambda path: path.write_bytes(gzip.compress(b"NGSP" + bytes(12))),
    "a .ply of Gaussian splats": lambda path: write_splats(path, make_cloud(3)),
    "a .ply point cloud": lambda path: write_ply(path, faces=False),
    "a .ply mesh": lambda path: write_ply(path, faces=True),
    "a web page (HTML)": lambda path: path.write_text("\n<!DOCTYPE html><html>not found</html>"),
    "an XML file": lambda path: path.write_text('<?xml version="1.0"?><Error/>'),
    LFS_POINTER: lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "a JSON file": lambda path: path.write_text('{"frames": []}'),
    "an OBJ mesh": lambda path: path.write_text("# made by hand\nv 0.0 1.0 0.5\n"),
    "a binary glTF model (.glb)": lambda path: path.write_bytes(b"glTF\x02\0\0\0" + bytes(8)),
    "a PDF document": lambda path: path.write_bytes(b"%PDF-1.7\n"),
    "an MP4 video": lambda path: path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(16)),
    "a text file": lambda path: path.write_text("f\u00fcr alle", encoding="utf-8"),
    "a binary file of unknown kind": lambda path: path.write_bytes(bytes(range(256))),
    "a binary file of unknown kind ": lambda path: path.write_bytes(b"\0\0\0\1\0\0\0\0{\x14\xae\x3d" + bytes(20)),
    "a zip archive ": lambda path: path.write_bytes(b"PK\3\4" + bytes(60) + b"PK\5\6" + bytes(18)),
    "a zip archive  ": lambda path: archive_of_version(path, 99),
    "an empty file": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a missing file": lambda path: None,
}


@pytest.mark.parametrize("name", MADE)
def test_files_are_named_by_their_content_whatever_they_are_called(tmp_path, name):
    path = tmp_path / "cat.ply"
    MADE[name](path)
    assert describe_file(path) == name.rstrip()


def test_a_damaged_archive_is_still_named(tmp_path):
    path = tmp_path / "cat.pt"
    torch.save({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:300])
    assert describe_file(path) == "a torch checkpoint"
