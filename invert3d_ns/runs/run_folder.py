"""Where a run lies: its folder is claimed before any work, and later is wherever its config.yml is found."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from invert3d_ns.base.errors import InputError
from invert3d_ns.runs.resume import flags_of

CONFIG = "config.yml"
"""What nerfstudio calls a run's settings."""
_OF_THIS_COMMAND = ("--load-config", "--data", "--pipeline.datamanager.data")
FOLDER, DATA = "_folder", "_data"
"""Attributes of a run's configuration that come from where its file lies and from the command line, not from itself."""


class RunConfigFile(type(Path())):
    """The ``config.yml`` of a run, or the run's folder, as nerfstudio reads it: what is read knows where it lies.

    nerfstudio's commands load the text of the file, and look for the run where it was started. The text that this path
    reads says where the file is now, and which --data was given beside --load-config, if any.
    """

    given: Any = None
    """The configuration that the command line gave beside it, if any."""

    def read_text(self, *args: Any, **kwargs: Any) -> str:
        """The run's settings, and what they do not know of themselves.

        Raises:
            InputError: there is no such file, or it is no run's.
        """
        path = Path(self)
        path = path / CONFIG if path.is_dir() else path
        try:
            text = path.read_text(encoding="utf-8")
            config = yaml.load(text, Loader=yaml.Loader)
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror or error}; give a run's folder or its {CONFIG} to --load-config"
            ) from error
        except Exception as error:  # whatever the classes that the file names raise when they are made
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{path} is no {CONFIG} of a run that this version can read ({reason}); give another one to "
                "--load-config, or start a new run"
            ) from error
        if not hasattr(config, "method_name"):
            raise InputError(f"{path} holds no settings of a run; give a run's folder or its {CONFIG} to --load-config")
        if not hasattr(type(config), FOLDER):  # of another method, which nerfstudio finds by itself
            return text
        known = {FOLDER: str(path.absolute().parent)}
        if self.given is not None:
            self._say_what_is_left_aside()
            data = self.given.pipeline.datamanager.data or self.given.data
            if data is not None:
                known[DATA] = str(Path(data).absolute())
        return f"{text.rstrip()}\n{yaml.dump(known, allow_unicode=True)}"

    def _say_what_is_left_aside(self) -> None:
        from nerfstudio.configs.method_configs import all_methods
        from nerfstudio.utils.rich_utils import CONSOLE

        method: Any = all_methods.get(self.given.method_name)
        if method is None:
            return
        usual, given = flags_of(method, "-"), flags_of(self.given, "-")  # "-.vis", "-.pipeline.steps"
        left = [name.replace("-.", "--", 1) for name, value in given.items() if value != usual.get(name)]
        if "--prompt" in left and "--pipeline.model.prompt" in left:  # nerfstudio sets both
            left.remove("--pipeline.model.prompt")
        flags = ", ".join(flag for flag in left if flag not in _OF_THIS_COMMAND)
        if flags:
            CONSOLE.print(
                f"Warning: with --load-config a run keeps its own settings; left aside: {flags}. To change settings, "
                "go on from its checkpoints with --load-dir",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def claim_folder(parent: Path, name: str) -> str:
    """Make a folder that nobody else has, even when several runs start in one moment.

    Returns:
        Its name in ``parent``: ``name``, or with -2, -3 and so on after it.

    Raises:
        InputError: it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            candidate = name if number == 1 else f"{name}-{number}"
            try:
                (parent / candidate).mkdir()
            except FileExistsError:
                continue
            return candidate
    except OSError as error:
        raise cannot_make(parent, error) from error
    raise AssertionError("numbers do not end")


def cannot_make(folder: Path, error: OSError) -> InputError:
    """The error for a run's folder that the operating system refuses."""
    return InputError(
        f"cannot write a run into {folder}: {error.strerror or error}; give a folder that can be written to as "
        "--output-dir, or free some space"
    )


class FolderLock:
    """Keeps a run's folder for this process; the system lets go of it when the process ends, however it ends.

    Where the system or the folder's disk knows no locks, nothing is kept.

    Raises:
        InputError: another process is at work there.
    """

    def __init__(self, folder: Path) -> None:
        self.release: Callable[[], Any] = lambda: None
        """Let go."""
        try:
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
        except (ImportError, OSError):
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"another process is at work on {folder}; wait until it ends or stop it, or start a new run"
            ) from error
        except OSError:
            os.close(descriptor)
            return
        self.release = weakref.finalize(self, os.close, descriptor)


def check_names(**names: Any) -> None:
    """Refuse names of which a run's folder is made that would lead out of --output-dir, or to no folder of their own.

    Args:
        names: by the name of the flag.

    Raises:
        InputError: a name is empty, a path, or leads upwards.
    """
    for flag, name in names.items():
        text = "" if name is None else str(name)
        if text.strip() in ("", ".", "..") or set(text) & set("/\\\0\n"):
            raise InputError(
                f"--{flag.replace('_', '-')} is {text!r}, which is no name of a folder; give a name without slashes"
            )


def check_within(**paths: Any) -> None:
    """Refuse paths that shall be within a run's folder and are not.

    Args:
        paths: by the name of the flag.

    Raises:
        InputError: a path is absolute or leads upwards.
    """
    for flag, path in paths.items():
        for pure in (PurePosixPath(str(path)), PureWindowsPath(str(path))):
            if pure.is_absolute() or ".." in pure.parts:
                raise InputError(
                    f"--{flag.replace('_', '-')} is {str(path)!r}, which leads out of the run's folder; give a "
                    "relative path within it"
                )


def make_paths_absolute(config: Any) -> None:
    """Make every path that was given in a configuration absolute, in place: files remember no current folder.

    Paths that have their default are left, and those within a run's folder ("relative ...").
    """
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            make_paths_absolute(value)
        elif isinstance(value, Path) and value != entry.default and not entry.name.startswith("relative_"):
            _set(config, entry.name, Path(value.absolute()))


def _set(config: Any, name: str, value: Any) -> None:
    object.__setattr__(config, name, value)  # also where it is frozen
