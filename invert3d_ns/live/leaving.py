"""When the program ends, edits that are in no run are saved as one, and the last line says where."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import TYPE_CHECKING

from invert3d_ns.live.host import KeepsRuns

if TYPE_CHECKING:
    from invert3d_ns.live.edit_actions import EditActions


_hosted: weakref.WeakSet[EditActions] = weakref.WeakSet()
"""Whose edits are kept when the process ends."""
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def keep_when_the_program_ends(actions: EditActions) -> None:
    """Save what is in no run when this process ends, also by Ctrl-C, a scheduler's SIGTERM or a lost terminal.

    Ctrl-C is how a viewer is closed, so it ends the program well from now on, unless the scene is being trained:
    nerfstudio lets it end in a traceback. Does nothing where the scene belongs to no run.
    """
    if not isinstance(actions.host, KeepsRuns):
        return
    _hosted.add(actions)
    atexit.unregister(_keep_all)
    atexit.register(_keep_all)
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:  # by nohup
                signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and any(actions.queue.training() != "completed" for actions in _hosted):
        raise KeyboardInterrupt
    raise SystemExit(0 if number == signal.SIGINT else 128 + number)


def _keep_all() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:  # another one would end what keeps the edits
            signal.signal(number, signal.SIG_IGN)
    for actions in list(_hosted):
        keep(actions)


def keep(actions: EditActions) -> None:
    """Save what is in no run, and say where it is, or why it could not be saved."""
    from invert3d_ns.base.commandline import quoted_command
    from invert3d_ns.base.errors import InputError
    from invert3d_ns.live.queue import one_line

    try:
        folder = actions.keep_unsaved()
    except Exception as error:
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
        print(f"Error: the edits could not be saved: {what}", file=sys.stderr, flush=True)
        return
    if folder is not None:
        command = quoted_command("ns-viewer", "--load-config", folder / "config.yml")
        print(f"Your unsaved edits are a run now. To go on:\n  {command}", flush=True)
