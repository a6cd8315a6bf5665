"""When the program ends, edits that are in no run are saved as one, and the last line says where."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invert3d_ns.live.edit_actions import EditActions


def keep_when_the_program_ends(actions: EditActions) -> None:
    """Save what is in no run when this process ends, also by Ctrl-C or a scheduler's SIGTERM.

    Ctrl-C is how a viewer is closed, so it ends the program well from now on, unless the scene is being trained:
    nerfstudio lets it end in a traceback.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and actions.queue.training() != "completed":
            raise KeyboardInterrupt
        raise SystemExit(0 if number == signal.SIGINT else 128 + number)

    atexit.register(keep, actions)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGTERM, leave)


def keep(actions: EditActions) -> None:
    """Save what is in no run, and say where it is, or why it could not be saved."""
    from invert3d_ns.base.commandline import quoted_command
    from invert3d_ns.base.errors import InputError
    from invert3d_ns.live.queue import one_line

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would end what keeps the edits
    try:
        folder = actions.keep_unsaved()
    except Exception as error:
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
        print(f"Error: the edits could not be saved: {what}", file=sys.stderr, flush=True)
        return
    if folder is not None:
        command = quoted_command("ns-viewer", "--load-config", folder / "config.yml")
        print(f"Your unsaved edits are a run now. To go on:\n  {command}", flush=True)
