"""The console script as a whole: subcommands with only their own flags, short and fast help, what commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import tyro

from invert3d_ns import cli
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_range
from invert3d_ns.commands.console import command_line
from invert3d_ns.commands.evaluate import EvaluateClip, EvaluateEdit, EvaluatePrior
from invert3d_ns.commands.options import OrbitOptions

GROUPS = {
    "prior": {"list", "fetch", "check", "convert"},
    "train": {"prior", "encoder", "clip", "judge", "demo"},
    "evaluate": {"prior", "inversion", "edit", "text-to-3d", "a3d", "stylization", "clip"},
    "bench": {"rasterization", "inversion", "editing", "guidance", "startup", "prior"},
}


def subcommands() -> Iterator[tuple[str, type]]:
    """Every command that can be typed, by its words, and its class."""
    for name, kind in cli._TABLE.items():
        group = get_type_hints(kind, include_extras=True).get("command")
        if group is None:
            yield name, kind
            continue
        for entry in get_args(get_args(group)[0]):
            own, *annotations = get_args(entry)
            yield f"{name} {annotations[0].name}", own


COMMANDS = dict(subcommands())


def test_every_group_has_its_subcommands() -> None:
    for group, names in GROUPS.items():
        assert {words.split()[1] for words in COMMANDS if words.startswith(f"{group} ")} == names


@functools.lru_cache
def helps() -> dict[str, str]:
    """What each ``--help`` prints, in a process that is asked for all of them, and whether torch was imported."""
    code = f"""if True:
        import contextlib, io, json, sys
        from invert3d_ns.cli import main
        texts = {{}}
        for words in {["", *GROUPS, *COMMANDS]!r}:
            buffer = io.StringIO()
            with contextlib.redirect_stdout(buffer), contextlib.suppress(SystemExit):
                main([*words.split(), "--help"])
            texts[words] = buffer.getvalue()
        texts["imported"] = " ".join({{"torch", "nerfstudio", "diffusers", "numpy"}} & set(sys.modules))
        print(json.dumps(texts))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_needs_no_torch() -> None:
    assert helps()["imported"] == ""


@pytest.mark.parametrize("words", COMMANDS)
def test_help_lists_the_flags_of_this_subcommand_and_no_others(words: str) -> None:
    text = helps()[words]
    assert text.startswith(f"usage: invert3d {words} "), text[:200]
    lines = [line.strip("│ ") for line in text.splitlines()]
    flags = {line.split()[0].rstrip(",") for line in lines if line.startswith("--")}
    own = set()
    for entry in dataclasses.fields(COMMANDS[words]):
        kind = get_type_hints(COMMANDS[words], include_extras=True)[entry.name]
        if "Positional" in repr(kind) or dataclasses.is_dataclass(next(iter([*get_args(kind)[:1], kind]))):
            continue
        own.add(f"--{entry.name.replace('_', '-')}")
    assert own <= flags
    assert not any(line.startswith("For ") for line in lines)


def test_flags_of_one_subcommand_are_unknown_to_another(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["evaluate", "clip", "--prior", "bundled", "--out", "x"],
        ["evaluate", "prior", "--objects", "chair_red", "--out", "x"],
        ["train", "demo", "--device", "cpu"],
        ["bench", "rasterization", "--prior", "bundled", "--out", "x"],
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2 and arguments[2] in capsys.readouterr().err


def test_no_two_commands_explain_a_flag_in_the_same_words() -> None:
    """Shared flags are inherited from one group: nobody has to keep copies of their text alike."""
    seen: dict[tuple[str, str], type] = {}
    kinds = {base for kind in COMMANDS.values() for base in kind.__mro__ if dataclasses.is_dataclass(base)}
    for kind in sorted(kinds, key=lambda kind: kind.__qualname__):
        source = inspect.getsource(kind)
        for name in inspect.get_annotations(kind):
            after = source.split(f"\n    {name}:", 1)[1]
            key = (name, after.split('"""', 2)[1])
            assert key not in seen, f"{kind.__name__} and {seen[key].__name__} both explain --{name}"
            seen[key] = kind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evaluate clip", EvaluateClip(out=Path("my report"), quick=True)),
        ("evaluate prior", EvaluatePrior(out=Path("r"), seeds=(3,), no_cross_view=True, guidance_scale=2.5)),
        ("evaluate edit", EvaluateEdit(out=Path("r"), methods=("sdedit 0.5", "weights=2"), words=Path("a b"))),
    ],
)
def test_a_recorded_command_can_be_typed_again(name: str, options: Any) -> None:
    line = command_line(name, options)
    words = shlex.split(line)
    assert words[0] == "invert3d" and words[-2:] == ["--out", str(options.out)]
    assert tyro.cli(cli.Command, args=words[1:]).command == options


def test_only_what_is_set_is_recorded() -> None:
    @dataclass
    class Options:
        out: Path
        on: bool = True
        off: bool = False
        rate: float | None = None
        names: tuple[str, ...] = ("a b", "c")

    assert command_line("x", Options(Path("o"))) == "invert3d x --names 'a b' c --out o"
    other = Options(Path("o"), on=False, off=True, rate=0.5, names=())
    assert command_line("x", other) == "invert3d x --no-on --off --rate 0.5 --names --out o"


@dataclass
class Numbers:
    some_number: Any


@pytest.mark.parametrize(
    ("value", "bounds", "says"),
    [
        (0, {"least": 1}, "--some-number is 0; give 1 or more"),
        (math.inf, {"least": 1}, "--some-number is inf; give 1 or more"),
        (math.nan, {"least": 1, "most": 3}, "--some-number is nan; give 1 to 3"),
        (4, {"least": 1, "most": 3}, "--some-number is 4; give 1 to 3"),
        (0.0, {"least": 0, "exclusive": True}, "--some-number is 0.0; give more than 0"),
        (90, {"least": -90, "most": 90, "exclusive": True}, "--some-number is 90; give a number between -90 and 90"),
        ((1.0, math.nan), {}, "--some-number is nan; give a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused_by_flag(value: Any, bounds: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        check_range(Numbers(value), "some_number", **bounds)
    assert str(error.value) == says


@pytest.mark.parametrize(
    ("value", "bounds"), [(None, {"least": 1}), (1, {"least": 1, "most": 1}), ((), {}), ((1, 2.0), {"least": 1})]
)
def test_numbers_in_range_are_taken(value: Any, bounds: dict) -> None:
    check_range(Numbers(value), "some_number", **bounds)


def test_cameras_of_an_orbit() -> None:
    azimuths, elevations = OrbitOptions(azimuths=(0, 45), elevation=12.5).orbit_angles()
    assert azimuths.tolist() == [0.0, 45.0] and elevations.tolist() == [12.5, 12.5]
    assert OrbitOptions(count=3).orbit_azimuths() == [0.0, 120.0, 240.0]
