from __future__ import annotations

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from splat_tables import save, splat_table

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.ply import declared_up_axis, read_splats

ENCODINGS = [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}]


def same(tmp_path, path):
    a, b = read_splats(tmp_path / "table.ply"), read_splats(path)
    return len(a) == len(b) and all(
        torch.allclose(tensor, b.tensors()[name], atol=1e-5) for name, tensor in a.tensors().items()
    )


def header_changed(path, *changes, binary_from=b"end_header\n"):
    head, end, body = path.read_bytes().partition(binary_from)
    head += end
    for old, new in changes:
        assert old in head
        head = head.replace(old, new)
    path.write_bytes(head + body)
    return path


@pytest.mark.parametrize("options", ENCODINGS)
def test_other_elements_before_and_after_are_stepped_over(tmp_path, options):
    table = splat_table(tmp_path)
    camera = np.zeros(2, dtype=[("fx", "f4"), ("id", "u1")])
    faces = np.array([([0, 1, 2],), ([3, 4, 5],)], dtype=[("vertex_indices", "i4", (3,))])
    extra = np.zeros(1, dtype=[("time", "f8")])
    path = tmp_path / "a.ply"
    vertex = PlyElement.describe(table, "vertex")
    for elements in (
        [PlyElement.describe(camera, "camera"), vertex, PlyElement.describe(extra, "extra")],
        [vertex, PlyElement.describe(faces, "face")],
        [PlyElement.describe(faces, "face"), vertex],
    ):
        PlyData(elements, **options).write(str(path))
        assert same(tmp_path, path)


def test_properties_with_lists_are_left_out(tmp_path):
    table = splat_table(tmp_path, 5)
    names = table.dtype.names or ()
    wide = np.empty(5, dtype=[*((name, table.dtype[name]) for name in names), ("neighbors", "O")])
    for name in names:
        wide[name] = table[name]
    wide["neighbors"] = [np.arange(i, dtype="i4") for i in range(5)]
    path = save(tmp_path / "a.ply", wide)
    assert same(tmp_path, path)


@pytest.mark.parametrize("options", ENCODINGS)
@pytest.mark.parametrize(
    "comment",
    ["von J\u00fcrgen".encode("latin-1"), "\u4f5c\u8005".encode("gbk"), "\u4f5c\u8005".encode(), b"\xff\xfe\x00"],
)
def test_comments_may_be_in_any_encoding(tmp_path, options, comment):
    save(tmp_path / "a.ply", splat_table(tmp_path), comments=["made by X", "Vertical Axis: z"], **options)
    path = header_changed(tmp_path / "a.ply", (b"made by X", comment))
    assert same(tmp_path, path) and declared_up_axis(path) == "z"


@pytest.mark.parametrize("options", ENCODINGS)
@pytest.mark.parametrize(
    "changes",
    [
        [(b"ply\n", b"\xef\xbb\xbfply\n")],
        [(b"\n", b"\r\n")],
        [(b"\n", b"\r")],
        [(b"\n", b"\r\n"), (b"ply\r\n", b"ply\n")],
        [(b"end_header\n", b"end_header\r\n")],
        [(b"end_header\n", b"end_header  \n")],
        [(b"property float x\n", b"\nproperty  float32\tx \n"), (b"format", b"obj_info made at home\nformat")],
    ],
    ids=["byte-order mark", "CRLF", "CR", "first LF", "last CRLF", "blanks at the end", "blank lines and tabs"],
)
def test_headers_as_tools_write_them(tmp_path, options, changes):
    save(tmp_path / "a.ply", splat_table(tmp_path), **options)
    assert same(tmp_path, header_changed(tmp_path / "a.ply", *changes))


def test_a_whole_text_file_with_other_line_ends(tmp_path):
    path = save(tmp_path / "a.ply", splat_table(tmp_path), text=True)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert same(tmp_path, path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([(b"end_header\n", b"")], "its header does not end"),
        ([(b"property float opacity", b"property quad opacity")], "a property of type 'quad'"),
        ([(b"property float opacity", b"property float x")], "property 'x' twice"),
        ([(b"format binary_little_endian", b"format zipped")], "format 'zipped'"),
        ([(b"vertex 200", b"vertex many")], "not a readable .ply file"),
        ([(b"vertex 200", b"vertex -1")], "element 'vertex -1'"),
        ([(b"element vertex 200", b"elephant vertex 200")], "not a readable .ply file"),
        ([(b"vertex 200", b"vertex 201")], "truncated"),
        ([(b"vertex 200", b"vertex 0")], "0 splats"),
        ([(b"element vertex", b"element points")], "no vertex element"),
    ],
)
def test_damaged_headers_are_refused_in_one_line(tmp_path, changes, says):
    splat_table(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        read_splats(header_changed(tmp_path / "table.ply", *changes))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize("cut", [100, 5000])
def test_text_that_ends_early_or_holds_words_is_refused(tmp_path, cut):
    path = save(tmp_path / "a.ply", splat_table(tmp_path), text=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(InputError, match="truncated, or has something else than numbers"):
        read_splats(path)
    path.write_bytes(whole[:-cut] + b"nothing" + whole[-cut:])
    with pytest.raises(InputError, match="truncated, or has something else than numbers"):
        read_splats(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", r"a web page \(HTML\)"),
        (b"plywood is a material\n", "a text file"),
        (b"", "an empty file"),
        (b"ply\n", "header does not end"),
    ],
)
def test_other_things_under_this_name_are_named(tmp_path, content, says):
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_splats(path)


def test_text_is_parsed_as_a_whole_not_row_by_row(tmp_path, monkeypatch):
    """Row by row, 3,000 splats took a second."""
    path = save(tmp_path / "a.ply", splat_table(tmp_path, 50, 3), text=True)
    monkeypatch.setattr("plyfile.PlyData.read", None)
    calls = []
    parse = np.fromstring
    monkeypatch.setattr(np, "fromstring", lambda *args, **options: calls.append(1) or parse(*args, **options))
    assert len(read_splats(path)) == 50 and len(calls) == 1
