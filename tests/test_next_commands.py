"""Commands that come next: read back by a shell as they are meant, whatever the run's folder is called."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from invert3d_ns.editing.change import EditChange
from invert3d_ns.methods import edit_report, words_report
from invert3d_ns.runs.report import print_next


@pytest.mark.parametrize("name", ["run", "my run", "[1]", "[bold]x[/bold]", "a'b", "$x", "ü (2)"])
def test_printed_commands_can_be_pasted(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path("outputs") / name
    outputs = cast(Any, SimpleNamespace(recoloring=("green", "orange"), change=EditChange(50.0, 1.0)))
    commands = [*words_report.next_commands(outputs, folder), *edit_report.next_commands(outputs, folder)]
    print_next(commands)
    printed = capfd.readouterr().out.splitlines()[1:]
    lines = [shlex.split(line) for line in printed]
    run, config, prompt = str(folder), str(folder / "config.yml"), "green instead of orange"
    assert lines == [
        ["invert3d", "views", run, "--prompt", "a photo of <object>"],
        ["invert3d", "edit", run, "--prompt", prompt],
        ["ns-train", "invert3d-edit", "--data", run, "--prompt", prompt],
        ["ns-viewer", "--load-config", config],
        ["ns-viewer", "--load-config", config],
        ["invert3d", "export", run, "--out", str(folder / "edited.ply")],
        ["ns-train", "invert3d-edit", "--data", run, "--prompt", prompt],
    ]
