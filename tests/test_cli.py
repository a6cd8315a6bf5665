"""The console script around its commands: other spellings, early ends, closed places, what names words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from synthetic import make_cloud

from invert3d_ns import cli
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.outputs import check_file, check_folder
from invert3d_ns.commands.views import GenerateViews
from invert3d_ns.editing.sources import find_words
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_a_prompt_without_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("edit", "run", "--prompt", "in", "van", "gogh", "style") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == 'Error: words after --prompt are not in quotes; write --prompt "in van gogh style"'
    assert status("edit", "run", "--prompt", "blue", "--nonsense", "3") == 2
    assert "Error:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["edit", "r", "--keep-silhouette", "False"], "keep_silhouette", False),
        (["edit", "r", "--keep-silhouette", "True"], "keep_silhouette", True),
        (["edit", "r", "--no-keep-silhouette"], "keep_silhouette", False),
        (["image", "--splats", "True", "a.png"], "splats", True),
        (["image", "--splats", "a.png"], "splats", True),
        (["image", "a.png", "--splats=False"], "splats", False),
        (["views", "r", "--prior-options.vae-slicing", "True"], "vae_slicing", True),
        (["views", "r", "--prior-options.vae-slicing"], "vae_slicing", True),
        (["train", "prior", "--gates", "False"], "gates", False),
        (["evaluate", "clip", "--quick", "True", "--out", "x"], "quick", True),
    ],
)
def test_booleans_in_both_spellings(typed: list[str], name: str, value: bool, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(cli, "run_command", lambda command: made.append(command) or 0)
    assert status(*typed) == 0
    (command,) = made
    owners = [command, getattr(command, "command", None), getattr(command, "prior_options", None)]
    if hasattr(command, "options"):
        owners.append(command.options.edit)
    assert [getattr(owner, name) for owner in owners if hasattr(owner, name)] == [value]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Stopped."),
        (InputError("a is b; give c"), 1, "Error: a is b; give c"),
        (InputError("a\nb is c; give d"), 1, "Error: a b is c; give d"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "Error: /x/y: Permission denied; "),
        (OSError(28, "No space left on device"), 1, "Error: No space left on device; "),
    ],
)
def test_ends_that_are_one_line(error: BaseException, code: int, says: str, monkeypatch, capsys) -> None:
    def fail(self: object) -> int:
        raise error

    monkeypatch.setattr(GenerateViews, "run", fail)
    assert status("views", "run") == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(says)


@pytest.mark.parametrize("arguments", [["prior", "list"], ["edit", "--help"]])
def test_output_that_nobody_reads_ends_quietly(arguments: list[str]) -> None:
    root = str(Path(cli.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-m", "invert3d_ns.cli", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()  # long before the first line is written
    assert child.stderr.read() == "" and child.wait() == 141


# Places to write to


@pytest.fixture
def closed(tmp_path: Path, monkeypatch) -> Path:
    """A folder that may not be written to, also for root, who may write everywhere."""
    folder = tmp_path / "closed"
    folder.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    return folder


def test_places_that_cannot_be_written(tmp_path: Path, closed: Path) -> None:
    (tmp_path / "file").write_text("mine")
    check_folder(tmp_path / "new" / "folder")
    for folder, says in (
        (tmp_path / "file", "is a file.*give a folder to --out"),
        (tmp_path / "file" / "below", "is a file.*give a folder to --out"),
        (closed, "may not be written to"),
        (closed / "below" / "deeper", "closed may not be written to"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(InputError, match=says):
            check_folder(folder)
    check_file(tmp_path / "new.PNG", ".png")
    (tmp_path / "folder.png").mkdir()
    for file, says in (
        (tmp_path / "new.jpg", r"does not end in \.png; give --save"),
        (tmp_path / "folder.png", "is a folder"),
        (closed / "new.png", "may not be written to.*--save"),
    ):
        with pytest.raises(InputError, match=says):
            check_file(file, ".png", "--save")


@pytest.mark.parametrize(
    "command",
    [
        ["views", "WORDS", "--out", "OUT"],
        ["edit", "WORDS", "--prompt", "blue", "--out", "OUT/grid.png"],
        ["edit", "WORDS", "--prompt", "blue", "--save-edits", "OUT/edits.json"],
        ["image", "PICTURE", "--out", "OUT"],
        ["export", "PLY", "--out", "OUT/a.ply"],
        ["export", "PLY", "--posed-images", "OUT/images"],
        ["evaluate", "clip", "--out", "OUT"],
        ["bench", "startup", "--out", "OUT"],
    ],
)
@pytest.mark.parametrize("below", ["", "below/"])
def test_no_command_begins_where_it_cannot_write(
    command, below, tmp_path: Path, closed: Path, monkeypatch, capsys
) -> None:
    def load(*given: object, **more: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr("invert3d_ns.prior.checkpoints.load_prior", load)
    monkeypatch.setattr("invert3d_ns.scenes.assets.read_object", load)
    embedding = ObjectEmbedding(torch.zeros(2, 4), prior="bundled", fingerprint="x", init_word="object")
    embedding.save(tmp_path / "words.safetensors")
    Image.new("RGBA", (64, 64)).save(tmp_path / "picture.png")
    write_splats(tmp_path / "ball.ply", make_cloud(20))
    places = {"WORDS": "words.safetensors", "PICTURE": "picture.png", "PLY": "ball.ply"}
    arguments = [str(tmp_path / places[word]) if word in places else word for word in command]
    assert status(*(word.replace("OUT", f"{closed}/{below}".rstrip("/")) for word in arguments)) == 1
    error = capsys.readouterr().err
    assert "may not be written to" in error and error.count("\n") == 1 and error.startswith("Error: ")
    assert not list(closed.iterdir())


# Words, whatever names them


def make_run(folder: Path, *, words: bool, method: str = "invert3d", own: bool = True) -> Path:
    (folder / "nerfstudio_models").mkdir(parents=True)
    kind = "invert3d_ns.runs.trainer.PhasedTrainerConfig" if own else "nerfstudio.engine.trainer.TrainerConfig"
    text = f"!!python/object:{kind}\nmethod_name: {method}\npipeline:\n  prior: bundled\n"
    (folder / "config.yml").write_text(text)
    if words:
        ObjectEmbedding(torch.zeros(2, 4), prior="bundled").save(folder / "embedding.safetensors")
    return folder


def test_words_are_found_by_everything_that_names_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my run [1]", words=True)
    edited = make_run(tmp_path / "edited", words=True, method="invert3d-edit")
    for path in (run, run / "config.yml", run / "embedding.safetensors"):
        assert find_words(path) == run / "embedding.safetensors"
    assert find_words(edited) == edited / "embedding.safetensors"
    (tmp_path / "image").mkdir()
    ObjectEmbedding(torch.zeros(2, 4)).save(tmp_path / "image" / "embedding.safetensors")
    assert find_words(tmp_path / "image") == tmp_path / "image" / "embedding.safetensors"


def test_what_has_no_words_is_named_with_the_command_that_finds_them(tmp_path: Path) -> None:
    write_splats(tmp_path / "my cat.ply", make_cloud(20))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.jpg")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    unfinished = make_run(tmp_path / "my run", words=False)
    stopped = make_run(tmp_path / "stopped", words=False, method="invert3d-edit")
    other = make_run(tmp_path / "splatfacto", words=False, method="splatfacto", own=False)
    make_run(tmp_path / "runs" / "2026", words=True)
    for path, says in (
        (tmp_path / "none", "does not exist; give the run"),
        (
            tmp_path / "my cat.ply",
            f"a .ply of Gaussian splats, not words; invert it first: ns-train invert3d --data '{tmp_path}/my cat.ply'",
        ),
        (tmp_path / "cat.jpg", f"a JPEG image, not words; invert it first: invert3d image {tmp_path}/cat.jpg"),
        (tmp_path / "pointer.safetensors", "run `git lfs pull`"),
        (unfinished, f"not finished; go on with it first: ns-train invert3d --load-config '{unfinished}/config.yml'"),
        (stopped / "config.yml", f"ns-train invert3d-edit --load-config {stopped}/config.yml"),
        (other, f"learn its words first: ns-train invert3d --data {other}"),
        (tmp_path / "runs", f"give one of the 1 in it, such as {tmp_path}/runs/2026"),
        (tmp_path, "if it holds posed images, invert them first: ns-train invert3d --data"),
    ):
        with pytest.raises(InputError) as caught:
            find_words(path)
        assert says in str(caught.value) and "\n" not in str(caught.value)
