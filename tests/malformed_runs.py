"""Run folders: unfinished, damaged, of other methods, and folders that are none; and what ns-train makes of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from malformed import case, make_run


def _changed(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A copy of the finished run, changed."""

    def make(folder: Path) -> None:
        shutil.copytree(folder.parent / "run", folder / "run")
        change(folder / "run")

    return make


def _checkpoint(run: Path) -> Path:
    return run / "nerfstudio_models" / "step-000000005.ckpt"


def _cut(run: Path) -> None:
    content = _checkpoint(run).read_bytes()
    _checkpoint(run).write_bytes(content[: len(content) // 2])


def _other_method(folder: Path) -> None:
    run = make_run(folder / "run")
    (run / "config.yml").write_text("!!python/object:nerfstudio.engine.trainer.TrainerConfig\nmethod_name: nerfacto\n")
    torch.save({"step": 0, "pipeline": {"_model.field.weight": torch.zeros(2)}}, _checkpoint(run))


def _empty_folder(folder: Path) -> None:
    (folder / "run").mkdir()


def _loop(folder: Path) -> None:
    os.symlink(folder / "run", folder / "run")


_BAD_RUNS: list[tuple[str, Any, str]] = [
    ("missing", None, "does not exist"),
    (
        "unfinished",
        lambda f: make_run(f / "run"),
        "not finished; .*ns-train invert3d --load-config case/run/config.yml",
    ),
    (
        "unfinished edit",
        lambda f: make_run(f / "run", method="invert3d-edit"),
        "not finished; .*ns-train invert3d-edit --load-config case/run/config.yml",
    ),
    ("of another method", _other_method, "learn its words first: ns-train invert3d --data case/run"),
    ("empty", _empty_folder, "has no embedding.safetensors"),
    ("a loop", _loop, "does not exist|cannot|Too many"),
]
_NOT_SCENES: list[tuple[str, Any, str]] = [
    ("without checkpoint", _changed(lambda run: _checkpoint(run).unlink()), "no checkpoint"),
    ("with half a checkpoint", _changed(_cut), "cannot be read"),
    ("with an empty checkpoint", _changed(lambda run: _checkpoint(run).write_bytes(b"")), "cannot be read"),
    ("with text for a checkpoint", _changed(lambda run: _checkpoint(run).write_text("x" * 99)), "cannot be read"),
    (
        "with a checkpoint of nothing",
        _changed(lambda run: torch.save({"pipeline": {}}, _checkpoint(run))),
        "not a run of a splatting method",
    ),
    ("with a list for a checkpoint", _changed(lambda run: torch.save([1], _checkpoint(run))), "cannot be read"),
]

CASES = [
    *(
        case(f"views of a run {name}", "invert3d views case/run --out case/out", says, make)
        for name, make, says in _BAD_RUNS
    ),
    *(
        case(f"edit of a run {name}", "invert3d edit case/run --prompt blue --out case/out.png", says, make)
        for name, make, says in [*_BAD_RUNS, *_NOT_SCENES]
    ),
    *(
        case(f"train on a run {name}", "ns-train invert3d-edit --data case/run --prompt blue", says, make)
        for name, make, says in [*_BAD_RUNS[:3], *_NOT_SCENES]
    ),
    *(
        case(f"export of a run {name}", "invert3d export case/run --out case/out.ply", says, make)
        for name, make, says in [("missing", None, "does not exist"), *_NOT_SCENES]
    ),
    case("views of a folder above runs", "invert3d views . --out case/out", "give one of the 1 in it, such as run"),
    case(
        "views of a config",
        "invert3d views run/config.yml --steps 2 --count 1 --out case/out",
        status=0,
        writes=("views.png",),
    ),
    case(
        "views of a checkpoint",
        "invert3d views run/nerfstudio_models/step-000000005.ckpt --out case/out",
        "a torch checkpoint, not words; give the run",
    ),
    case(
        "edit of splats", "invert3d edit ball.ply --prompt blue --out case/out.png", "ns-train invert3d --data ball.ply"
    ),
    case(
        "scene is missing",
        "invert3d edit words.safetensors --prompt blue --scene none.ply --out case/out.png",
        "none.ply",
    ),
    case(
        "scene is text",
        "invert3d edit words.safetensors --prompt blue --scene notes.txt --out case/out.png",
        "notes.txt is neither a splat file",
    ),
    case(
        "damaged words in a run",
        "invert3d views case/run --out case/out",
        "truncated|damaged",
        _changed(lambda run: (run / "embedding.safetensors").write_bytes(b'\x10\0\0\0\0\0\0\0{"a')),
    ),
    case(
        "settings that are no yaml",
        "invert3d views case/run --out case/out --prior prior --steps 2 --count 1",
        make=_changed(lambda run: (run / "config.yml").write_bytes(bytes(range(256)))),
        status=0,
        writes=("views.png",),
    ),
    case(
        "settings that are a list",
        "invert3d views case/run --out case/out --prior prior --steps 2 --count 1",
        make=_changed(lambda run: (run / "config.yml").write_text("[1, 2]")),
        status=0,
        writes=("views.png",),
    ),
    case(
        "settings with another pipeline",
        "invert3d views case/run --out case/out --prior prior --steps 2 --count 1",
        make=_changed(lambda run: (run / "config.yml").write_text("pipeline: 3\n")),
        status=0,
        writes=("views.png",),
    ),
    case(
        "settings without a prior",
        "invert3d views case/run --out case/out",
        "pass its path as --prior",
        _changed(lambda run: (run / "config.yml").write_text("pipeline: 3\n")),
    ),
    case("train on nothing", "ns-train invert3d --data none", "does not exist"),
    case("train on text", "ns-train invert3d --data notes.txt", "notes.txt"),
    case("train on an empty folder", "ns-train invert3d --data case", "case"),
    case(
        "train an edit of splats",
        "ns-train invert3d-edit --data ball.ply --prompt blue --pipeline.init word",
        "there are no words to edit",
    ),
    case(
        "train an edit of the demo",
        "ns-train invert3d-edit --prompt blue --pipeline.init word",
        "there are no words to edit",
    ),
    case("train an edit without words", "ns-train invert3d-edit --data run", "nothing to edit; give --prompt"),
    case("train an empty edit", ["ns-train", "invert3d-edit", "--data", "run", "--prompt", ""], "the prompt is empty"),
    case(
        "train an edit of a far box",
        "ns-train invert3d-edit --data run --prompt blue --pipeline.edit.box 5 5 5 6 6 6",
        "holds no splats",
    ),
    case("train with an unknown prior", "ns-train invert3d --data ball.ply --pipeline.prior midas", "midas"),
    case("go on with nothing", "ns-train invert3d --load-config none.yml", "none.yml"),
    case("go on with text", "ns-train invert3d --load-config notes.txt", "notes.txt"),
    case(
        "leave the output folder",
        "ns-train invert3d --data ball.ply --experiment-name ../../x",
        "experiment-name",
    ),
]
