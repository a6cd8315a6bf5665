"""Malformed and foreign inputs as people type them, and what must come of each: the right thing, or one line.

``CASES`` are run in this process by ``test_malformed.py``; ``python tests/malformed.py [--only WORD]`` runs them as
commands of their own. Files with more cases are added to :data:`_MODULES`; each has a list ``CASES``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODULES = ("malformed_numbers", "malformed_flags", "malformed_words", "malformed_runs", "malformed_pictures")


@dataclass(frozen=True)
class Case:
    """A command line, and what must come of it. It runs in a folder with :func:`make_material`'s files."""

    name: str
    line: tuple[str, ...]
    """The command with its program first. Files that :attr:`make` makes are below ``case/``."""
    says: str = ""
    """What the error must match (a regular expression), or nothing if the command is right."""
    make: Callable[[Path], Any] | None = None
    """Makes files in the folder ``case``, which exists."""
    status: int = 1
    """1: refused in one line. 2: no such flag, or no value for it. 0: carried out."""
    writes: tuple[str, ...] = ()
    """What a command that is right leaves behind, by path or pattern."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    error: str
    """All of stderr."""
    written: tuple[str, ...]
    """Files that are new, changed or gone, in the order of their paths."""


def case(name: str, line: str | list[str], says: str = "", make: Any = None, **more: Any) -> Case:
    """A :class:`Case` whose command may be one string."""
    return Case(name, tuple(line.split() if isinstance(line, str) else line), says, make, **more)


def all_cases() -> list[Case]:
    """The cases of all modules; names are unique."""
    found = [entry for name in _MODULES for entry in importlib.import_module(name).CASES]
    names = [entry.name for entry in found]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return found


def problems(entry: Case, outcome: Outcome) -> list[str]:
    """What is wrong with an outcome; nothing if it is as it must be."""
    found, error = [], outcome.error
    if "Traceback" in error:
        found.append(f"a traceback:\n{error}")
    if outcome.status != entry.status:
        found.append(f"status {outcome.status} instead of {entry.status}:\n{error}")
    if entry.status == 0:
        missing = [name for name in entry.writes if not any(Path(path).match(name) for path in outcome.written)]
        return [*found, f"did not write {missing}"] if missing else found
    if outcome.written:
        found.append(f"left {outcome.written[:5]} behind")
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    if entry.status == 1 and len(lines) != 1:
        found.append(f"not one line: {error!r}")
    if not re.search(entry.says, " ".join(error.replace("│", " ").split())):
        found.append(f"does not say {entry.says!r}: {error!r}")
    return found


# The folder that commands run in


def make_material(folder: Path, prior: Any) -> None:
    """A tiny prior, words of it, splats, a finished run, and a photograph, in a folder that exists."""
    import torch
    from PIL import Image, ImageDraw
    from synthetic import make_cloud

    from invert3d_ns.prior.checkpoints import save_prior
    from invert3d_ns.scenes.ply import write_splats
    from invert3d_ns.words.embedding import ObjectEmbedding

    save_prior(prior, folder / "prior", dtype=torch.float32)
    vectors = 0.1 * torch.randn(3, prior.info.token_dim, generator=torch.Generator().manual_seed(0))
    embedding = ObjectEmbedding.for_prior(prior, vectors, init_word="object", steps=1)
    embedding.save(folder / "words.safetensors")
    write_splats(folder / "ball.ply", make_cloud(120))
    make_run(folder / "run")
    embedding.save(folder / "run" / "embedding.safetensors")
    photo = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(photo).ellipse((12, 12, 52, 52), fill=(220, 30, 30, 255))
    photo.save(folder / "photo.png")
    (folder / "notes.txt").write_text("not what is wanted\n")


def make_run(folder: Path, *, method: str = "invert3d", prior: str = "prior") -> Path:
    """A run's folder with settings and a checkpoint of splats; without words, as of one that was stopped."""
    import torch
    from synthetic import make_cloud

    from invert3d_ns.scenes.normalization import to_object_frame

    (folder / "nerfstudio_models").mkdir(parents=True)
    cloud = to_object_frame(make_cloud(60))[0]
    state = {f"_model.gauss_params.{name}": tensor for name, tensor in cloud.tensors().items()}
    torch.save({"step": 5, "pipeline": state}, folder / "nerfstudio_models" / "step-000000005.ckpt")
    kind = "invert3d_ns.runs.trainer.PhasedTrainerConfig"
    text = f"!!python/object:{kind}\nmethod_name: {method}\npipeline:\n  prior: {prior}\n"
    (folder / "config.yml").write_text(text)
    return folder


@contextlib.contextmanager
def _at_work(entry: Case, folder: Path) -> Iterator[list[str]]:
    """Files of a case around a block, which gets a list that has what changed at the end; all is as before then."""
    place = folder / "case"
    place.mkdir()
    if entry.make is not None:
        entry.make(place)
    before, written = _hashes(folder), []
    try:
        yield written
        after = _hashes(folder)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        written += sorted(changed)
        for path in sorted(changed - before.keys(), reverse=True):
            _remove(folder / path)
    finally:
        _remove(place)


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in (path, *path.rglob("*")):
            if inner.is_dir() and not inner.is_symlink():
                inner.chmod(0o755)
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


# Two ways to run them


def run_here(entry: Case, folder: Path) -> Outcome:
    """Run a case in this process."""
    error, here = io.StringIO(), Path.cwd()
    with _at_work(entry, folder) as written:
        os.chdir(folder)
        try:
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                status = _status_of(entry.line)
        finally:
            os.chdir(here)
    return Outcome(status, error.getvalue(), tuple(written))


def _status_of(line: tuple[str, ...]) -> int:
    from invert3d_ns import cli
    from invert3d_ns.base.errors import InputError

    program, *arguments = line
    try:
        if program == "invert3d":
            cli.main(arguments)
        else:
            assert program == "ns-train", program
            _train(arguments)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
    except InputError as error:  # which the hook of configs.py shows
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _train(arguments: list[str]) -> None:
    """What the entry point of ns-train does, without the methods of others, whose parsers take seconds to make."""
    import tyro
    from nerfstudio.scripts.train import main

    from invert3d_ns.base.commandline import stray_words_hint

    try:
        config = tyro.cli(_methods(), args=arguments)
    except SystemExit as stopped:
        if stopped.code == 2 and stray_words_hint(arguments):
            print(f"Error: {stray_words_hint(arguments)}", file=sys.stderr)
        raise
    main(config)


@functools.cache
def _methods() -> Any:
    import tyro

    from invert3d_ns import configs

    methods = (configs.invert3d, configs.invert3d_edit)
    union = tyro.extras.subcommand_type_from_defaults({str(each.config.method_name): each.config for each in methods})
    return tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[union]]


def run_apart(entry: Case, folder: Path) -> Outcome:
    """Run a case as the command that it is."""
    program, *arguments = entry.line
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    if program == "invert3d":
        command = [sys.executable, "-m", "invert3d_ns.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with _at_work(entry, folder) as written:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    return Outcome(done.returncode, done.stderr, tuple(written))


def _main() -> int:
    from tiny_priors import make_tiny_prior

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name or command has this in it")
    parser.add_argument("--here", action="store_true", help="run them in this process")
    options = parser.parse_args()
    chosen = [entry for entry in all_cases() if options.only in f"{entry.name} {' '.join(entry.line)}"]
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        make_material(Path(name), make_tiny_prior(Path(name) / "tokenizer", "v_prediction", seed=1))
        for entry in chosen:
            wrong = problems(entry, (run_here if options.here else run_apart)(entry, Path(name)))
            failed += bool(wrong)
            print(f"{'FAILED' if wrong else 'ok    '} {entry.name}: {' '.join(entry.line)}", *wrong, sep="\n    ")
    print(f"{len(chosen) - failed} of {len(chosen)} as they must be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.modules["malformed"] = sys.modules["__main__"]
    sys.exit(_main())
