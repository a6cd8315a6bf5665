"""How nerfstudio's commands end on this package's runs: hints for unquoted words, Ctrl-C, broken pipes."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from invert3d_ns import compat
from invert3d_ns.runs.nerfstudio_commands import _ending_in_one_line


def ended(error: BaseException) -> int:
    def entrypoint() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        _ending_in_one_line(entrypoint)()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_words_without_quotes_are_explained(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["ns-train", "invert3d", "--prompt", "in", "van", "gogh", "style"])
    assert ended(SystemExit(2)) == 2
    assert '--prompt "in van gogh style"' in capfd.readouterr().err
    assert ended(SystemExit(0)) == 0
    assert capfd.readouterr().err == ""


def test_ctrl_c_is_one_line(capfd):
    assert ended(KeyboardInterrupt()) == 130
    assert capfd.readouterr().err == "Stopped.\n"


def test_a_command_gives_what_it_gave():
    assert _ending_in_one_line(lambda: 7)() == 7


def test_output_that_nobody_reads_is_no_traceback():
    """In a process of its own, whose output is closed before it writes."""
    import os
    import subprocess

    code = (
        "from invert3d_ns.runs.nerfstudio_commands import _ending_in_one_line as end\n"
        "print('ready', flush=True); input()\n"
        "end(lambda: [print('x' * 9999) for _ in range(99)])()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout and child.stderr
    assert child.stdout.readline() == "ready\n"
    child.stdout.close()
    child.stdin.write("\n")
    child.stdin.close()
    assert child.wait(60) == 141 and "BrokenPipe" not in child.stderr.read()
    child.stderr.close()


def test_a_function_is_wrapped_before_its_module_is_complete_and_after(monkeypatch, tmp_path):
    (tmp_path / "half_done.py").write_text("import half_done_plugin\ndef work():\n    return 1\n")
    (tmp_path / "half_done_plugin.py").write_text(
        "from invert3d_ns import compat\n"
        "for _ in range(2): compat.wrap_function('half_done', 'work', lambda f: lambda: f() + 1)\n"
    )
    (tmp_path / "not_begun.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("half_done", "half_done_plugin", "not_begun"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for _ in range(2):
        compat.wrap_function("not_begun", "work", lambda function: lambda: function() + 1)
    half, late = (importlib.import_module(name).work for name in ("half_done", "not_begun"))
    assert half() == 2 and late() == 2
    module: ModuleType = sys.modules["half_done"]
    monkeypatch.setattr(module, "work", lambda: 5)
    assert module.work() == 6, "what takes its place is wrapped as well"
    finders = [finder for finder in sys.meta_path if isinstance(finder, compat._WrapLater)]
    assert not [finder for finder in finders if finder.asks("not_begun", "work")]
