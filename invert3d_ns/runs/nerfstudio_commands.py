"""nerfstudio's own commands on this package's runs: where a run is, how a mistake reads, how a command ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from invert3d_ns import compat
from invert3d_ns.base.commandline import stray_words_hint
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.run_folder import FOLDER, RunConfigFile

_COMMANDS = ("train", "eval", "render", "exporter", "viewer.run_viewer")
_BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)


def adopt_nerfstudio_commands() -> None:
    """Make nerfstudio's commands find runs that were moved, and end in one line; harmless if repeated.

    To be called while nerfstudio imports the plugin, before any of its commands is parsed.
    """
    compat.wrap_function("nerfstudio.utils.eval_utils", "eval_setup", _where_the_run_lies)
    for name in _COMMANDS:
        compat.wrap_function(f"nerfstudio.scripts.{name}", "entrypoint", _ending_in_one_line)


def _where_the_run_lies(eval_setup: Callable[..., Any]) -> Callable[..., Any]:
    """Nerfstudio's loading of a run, from where its ``config.yml`` lies, or the folder that is given."""

    def wrapped(
        config_path: Path,
        eval_num_rays_per_chunk: int | None = None,
        test_mode: Literal["test", "val", "inference"] = "test",
        update_config_callback: Callable[[Any], Any] | None = None,
    ) -> Any:
        def update(config: Any) -> Any:
            config = config if update_config_callback is None else update_config_callback(config)
            if hasattr(type(config), FOLDER):
                config.settle_for_looking()
            return config

        loaded = eval_setup(RunConfigFile(config_path), eval_num_rays_per_chunk, test_mode, update)
        if isinstance(loaded[1], PhasedPipeline):  # its checkpoint only knows where the run was
            loaded[1].output_folder = loaded[0].get_base_dir()
        return loaded

    return wrapped


def _ending_in_one_line(entrypoint: Callable[[], Any]) -> Callable[[], Any]:
    """A command that says what is wrong with unquoted words, and ends quietly when it is stopped or nobody reads."""

    def wrapped() -> Any:
        try:
            result = entrypoint()
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None
        except BrokenPipeError:
            # Else the interpreter complains once more when it closes its output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_BROKEN_PIPE) from None
        except SystemExit as end:
            hint = stray_words_hint(sys.argv[1:]) if end.code == 2 else None
            if hint is not None:
                print(f"Error: {hint}", file=sys.stderr)
            raise

    return wrapped
