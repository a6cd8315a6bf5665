"""The READMEs: their examples run, their commands parse, their links lead somewhere, their figures name weights."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import re
import socket
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import tyro
from readmes import CARDS, PACKAGE, README, READMES, ROOMS, ROOT, CommandLine, anchors, blocks, command_lines, links

from invert3d_ns import cli
from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS

PYTHON = blocks("python")
OTHERS = {"RUN", "EDITED", "N", "apt-get", "export", "pip", "pyright", "python", "ruff", "tensorboard"}
"""First words of lines in bash blocks that are no command of this package or of nerfstudio, variables among them."""


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.label)
def test_examples_run_as_they_stand_offline(block, tmp_path, monkeypatch):
    assert block.info == "python", "every example is run; there is no way around it"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # where dataclasses look up the names of their fields' types
    code = "\n" * (block.line - 1) + block.text  # so that a traceback names the README's own line
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, str(block.page), "exec"), module.__dict__)


def _refuse(*_: Any) -> None:
    raise AssertionError("an example asked the network for something")


@pytest.mark.parametrize("line", command_lines(), ids=lambda line: line.label)
def test_commands_parse(line, monkeypatch):
    program, *arguments = line.words
    if program == "invert3d":
        _parse_invert3d(arguments, monkeypatch)
    elif program.startswith("ns-"):
        _parse_nerfstudio(program, arguments, monkeypatch)
    else:
        assert program.split("=")[0] in OTHERS, f"unknown program {program}"


class _Parsed(Exception):
    """Raised in the place of what a command does."""


def _parse_invert3d(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = tyro.cli

    def parse_only(*given: Any, **settings: Any) -> None:
        raise _Parsed(parse(*given, **settings))

    monkeypatch.setattr(tyro, "cli", parse_only)
    with _explained(arguments), pytest.raises(_Parsed):
        cli.main(arguments)


def _parse_nerfstudio(program: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if program == "ns-train":
        kind = _methods()
    elif program == "ns-viewer":
        kind = tyro.conf.FlagConversionOff[importlib.import_module("nerfstudio.scripts.viewer.run_viewer").RunViewer]
    elif program == "ns-eval":
        kind = importlib.import_module("nerfstudio.scripts.eval").ComputePSNR
    elif program == "ns-render":
        kind = importlib.import_module("nerfstudio.scripts.render").Commands
    else:
        assert program == "ns-export", f"unknown program {program}"
        for name in ("open3d", "pymeshlab"):  # for meshes only; bare machines lack the libraries that these load
            try:
                importlib.import_module(name)
            except (ImportError, OSError):
                monkeypatch.setitem(sys.modules, name, MagicMock())
        kind = importlib.import_module("nerfstudio.scripts.exporter").Commands
    with _explained(arguments):
        tyro.cli(kind, args=arguments)


def _methods() -> Any:
    """nerfstudio's union of methods, with none but those of this package: parsing all of them takes seconds."""
    specifications = [getattr(importlib.import_module("invert3d_ns.configs"), name) for name in _method_names()]
    configs = {specification.config.method_name: specification.config for specification in specifications}
    union = tyro.extras.subcommand_type_from_defaults(configs)
    return tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[union]]


def _method_names() -> list[str]:
    """Attributes of configs.py that pyproject.toml gives to nerfstudio as methods."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'= "invert3d_ns\.configs:(\w+)"', text)


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_that_prose_and_tables_name_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<=`)--(?:pipeline|machine|viewer)\.[a-z.-]+[a-z]", text))
    unknown = {name for name in named if not any(f"{flag}.".startswith(f"{name}.") for flag in _train_flags())}
    assert not unknown


@functools.cache
def _train_flags() -> frozenset[str]:
    """Every flag of ``ns-train``'s methods, of every kind of guidance, too."""
    printed = io.StringIO()
    guided = [["ge3d", f"pipeline.guidance:{kind}"] for kind in GUIDANCE_CONFIGS]
    methods = [[specification.removesuffix("_edit").replace("_", "-")] for specification in _method_names()]
    for words in (*methods, *guided):
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            tyro.cli(_methods(), args=[*words, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z0-9.-]*", printed.getvalue()))


@contextlib.contextmanager
def _explained(arguments: Sequence[str]):
    """Make a refusal by tyro, which prints and exits, fail a test with what it printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            yield
    except SystemExit:
        pytest.fail(f"{' '.join(arguments)}\n{printed.getvalue()}")


def test_commands_that_do_not_exist_are_noticed(monkeypatch):
    for wrong in ("invert3d views a.safetensors --angle 3", "ns-train invert3d --pipeline.words 3", "ns-train nerfies"):
        line = CommandLine(tuple(wrong.split()), "")
        with pytest.raises(pytest.fail.Exception), monkeypatch.context() as patch:
            test_commands_parse(line, patch)


def test_the_first_readme_is_read_in_five_minutes():
    assert len(README.read_bytes()) <= 10_000


@pytest.mark.parametrize("page", CARDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{target} is missing"
        assert not anchor or anchor in anchors(file), f"{file.name} has no heading #{anchor}"


def test_every_picture_is_shown_somewhere():
    shown = {(page.parent / target).resolve() for page in CARDS for target in links(page) if target.endswith(".png")}
    assert set((ROOT / ".github" / "pictures").iterdir()) == shown


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_readme_that_the_first_one_links(room):
    page = PACKAGE / room / "README.md"
    assert page.is_file()
    assert f"invert3d_ns/{room}/README.md" in links(README)
    assert any(block.page == page and block.info in ("python", "bash") for block in blocks()), "no example"


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_say_what_they_are(page):
    for block in blocks():
        if block.page == page:
            assert block.info in ("python", "bash", "text", "bibtex"), f"line {block.line}: {block.info!r}"


def _sha256(path: str) -> Callable[[], str]:
    return lambda: hashlib.sha256((PACKAGE / path).read_bytes()).hexdigest()


SHIPPED: dict[str, Callable[[], str]] = {
    "bundled prior": lambda: json.loads((PACKAGE / "prior/bundled/prior.json").read_text())["fingerprint"],
    "judge": _sha256("metrics/judge/judge.safetensors"),
    "bundled CLIP": _sha256("alignment/bundled/open_clip_model.safetensors"),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_figures_are_of_the_weights_that_ship(name):
    named = {
        (str(page.relative_to(ROOT)), digits)
        for page in CARDS
        for digits in re.findall(rf"{name}\s+`([0-9a-f]{{8}})`", page.read_text(encoding="utf-8"))
    }
    assert named, f"no page says with which {name} its figures were measured"
    shipped = SHIPPED[name]()[:8]
    assert {digits for _, digits in named} == {shipped}, f"{sorted(named)}, but {shipped} ships"
