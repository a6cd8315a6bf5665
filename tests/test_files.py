"""Files are whole or absent, and what the operating system refuses is said in one line with what to do about it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path, cannot_write
from invert3d_ns.base.inputs import read_json, user_path


def refused(path: Path | str, error: Exception | None = None) -> str:
    """The one line in which writing is refused."""
    with pytest.raises(InputError) as caught, atomic_path(path) as temporary:
        if error is not None:
            raise error
        temporary.write_text("new")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_and_folders_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "thing"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    folder = tmp_path / "before"  # also by the name that the old one has meanwhile
    for content in ("a", "b"):
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["before", "deep"]


def test_a_folder_that_cannot_be_replaced_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(target) == folder and (Path(source) / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(InputError, match="check the disk"), atomic_path(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert [file.name for file in folder.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", [".", "", "..", "sub/..", "a\0b"])
def test_what_is_no_name_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "kept").write_text("kept")
    monkeypatch.chdir(tmp_path / "sub")
    assert "no name for a file" in refused(name)
    assert (tmp_path / "sub" / "kept").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space left on device; free some space or choose another place"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "Read-only file system; choose another place"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_write_that_fails_says_why(tmp_path: Path, number: int, says: str) -> None:
    message = refused(tmp_path / "file", OSError(number, os.strerror(number)))
    assert says in message and str(tmp_path / "file") in message
    assert ("space" in message) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        'IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
    ],
)
def test_libraries_in_rust_have_a_full_disk_too(tmp_path: Path, text: str) -> None:
    assert "free some space" in refused(tmp_path / "file", Exception(text))
    with pytest.raises(Exception, match="os error 2"), atomic_path(tmp_path / "file"):
        raise RuntimeError("a vocabulary is missing (os error 2)")


def test_places_that_cannot_be_written_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    assert "a file is in the way" in refused(tmp_path / "file" / "name")
    assert "a file is in the way" in refused(tmp_path / "file" / "deeper" / "name")
    assert "there is a folder of this name" in refused(tmp_path / "folder")
    assert "shorten the name" in refused(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="a file is in the way"), atomic_path(tmp_path / "file") as temporary:
        temporary.mkdir()
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]
    for number in (errno.EACCES, errno.EPERM):
        message = str(cannot_write(tmp_path, OSError(number, os.strerror(number)), "set HOME"))
        assert message.endswith("change its permissions or set HOME")


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("x" * 255)) as temporary:
        temporary.write_text("new")
    assert [len(file.name) for file in tmp_path.iterdir()] == [255]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "elsewhere/input.json"),
        PermissionError(errno.EACCES, "Permission denied", "elsewhere/input.json"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError("cannot write mode F as PNG"),
        ValueError("something else"),
        KeyboardInterrupt(),
    ],
)
def test_errors_that_are_not_about_the_file_pass_unchanged(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error and list(tmp_path.iterdir()) == []


def test_errors_about_what_is_written_are_told_from_others_by_their_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"), atomic_path(tmp_path / "folder") as temporary:
        (temporary / "absent" / "file").write_text("new")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "folder"):
        (tmp_path / "absent" / "file").read_text()


def test_home_folders_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/a") == Path("/somewhere/a") and user_path("a/~b") == Path("a/~b")
    with pytest.raises(InputError, match="no home folder"):
        user_path("~nobody-of-this-name/a")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[1]", "no names and values"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": "\xff"}', "damaged"),
        (None, "missing"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path, "download it again")
    message = str(caught.value)
    assert says in message and message.endswith("; download it again") and "\n" not in message


def test_json_with_a_mark_of_its_byte_order(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "config.json", "") == {"a": 1}


@pytest.mark.parametrize(
    "text", ["x" * 300, "ä" * 200, "a/" + "x" * 300, "a/" * 2500, "a\0b", "~a\0b", Path("x" * 256)]
)
def test_names_that_no_file_has(text: str) -> None:
    with pytest.raises(InputError, match="is no name that a file can have") as error:
        user_path(text)
    message = str(error.value)
    assert message.isprintable() and len(message) < 200 and "; " in message


def test_the_longest_names() -> None:
    assert user_path("a/" + "x" * 255).name == "x" * 255


@pytest.mark.parametrize("load", ["prior", "clip", "check"])
def test_a_prompt_in_the_place_of_a_model(load: str) -> None:
    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.prior.checkpoints import load_prior
    from invert3d_ns.prior.checks import check_prior

    for prompt in ("a chair " * 40, "a chair\0"):
        with pytest.raises(InputError, match="is no name that a file can have"):
            {"prior": load_prior, "clip": load_clip, "check": check_prior}[load](prompt)
