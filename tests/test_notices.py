from __future__ import annotations

from invert3d_ns.base.notices import warn


def test_a_warning_is_one_line_on_stderr_without_markup(capsys):
    warn("my [red]scene[/red] 1.ply is\n assumed to be y-up; " + "x" * 300)
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err == "Warning: my [red]scene[/red] 1.ply is assumed to be y-up; " + "x" * 300 + "\n"
    )
