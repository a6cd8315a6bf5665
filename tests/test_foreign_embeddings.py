"""Whatever is given in place of an object's words is named for what it is, in one line, and never run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


class Exploit:
    """Unpickling this creates a file."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def a1111(vectors: torch.Tensor, **more) -> dict:
    """What AUTOMATIC1111's web UI saves."""
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "cat", "step": 900, **more}


FOREIGN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "web UI": (
        "cat.pt",
        lambda p: torch.save(a1111(torch.rand(4, 768)), p),
        "('cat', 4 vectors, 768 wide)",
    ),
    "web UI, parameter": (
        "cat.pt",
        lambda p: torch.save(a1111(torch.nn.Parameter(torch.rand(1, 1024)), sd_checkpoint=None), p),
        "AUTOMATIC1111's web UI for Stable Diffusion 2 ('cat', 1 vector, 1024 wide)",
    ),
    "web UI, old format": (
        "cat.pt",
        lambda p: torch.save(a1111(torch.rand(2, 768)), p, _use_new_zipfile_serialization=False),
        "a textual inversion of AUTOMATIC1111's web UI",
    ),
    "Gal et al.": (
        "embeddings.pt",
        lambda p: torch.save(
            {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.rand(2, 768))}),
            },
            p,
        ),
        "a textual inversion of Gal et al.'s program for Stable Diffusion 1 ('*', 2 vectors, 768 wide)",
    ),
    "web UI, safetensors": ("cat.safetensors", lambda p: save_file({"emb_params": torch.rand(2, 768)}, p), "2 vectors"),
    "web UI, XL": (
        "cat.safetensors",
        lambda p: save_file({"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)}, p),
        "Stable Diffusion XL",
    ),
    "diffusers": (
        "learned_embeds.bin",
        lambda p: torch.save({"<cat-toy>": torch.rand(768)}, p),
        "a textual inversion of diffusers for Stable Diffusion 1 ('<cat-toy>', 1 vector, 768 wide)",
    ),
    "diffusers, safetensors": (
        "learned_embeds.safetensors",
        lambda p: save_file({"<cat-toy>": torch.rand(3, 128)}, p),
        "a textual inversion of diffusers ('<cat-toy>', 3 vectors, 128 wide)",
    ),
    "a name that is none": ("embedding", lambda p: torch.save(a1111(torch.rand(4, 768)), p), "AUTOMATIC1111"),
}

OTHERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "splats": ("cat.ply", lambda p: write_splats(p, make_cloud(5)), "is a .ply of Gaussian splats"),
    "splats, misnamed": (
        "e.safetensors",
        lambda p: write_splats(p, make_cloud(5)),
        "is a .ply of Gaussian splats",
    ),
    "text": ("e.safetensors", lambda p: p.write_text("words"), "is a text file, not an object embedding"),
    "json": (
        "edits.json",
        lambda p: p.write_text(json.dumps({"edits": []})),
        "is a JSON file, not an",
    ),
    "page": ("e.safetensors", lambda p: p.write_text("<!doctype html><html>"), "is a web page (HTML), not"),
    "pointer": ("e.safetensors", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "checkpoint": ("a.pt", lambda p: torch.save({"w": torch.rand(99, 99, 3)}, p), "is a torch checkpoint, not"),
    "code": ("a.pt", lambda p: torch.save({"w": Exploit()}, p), "is a torch checkpoint, not"),
    "weights": ("a.safetensors", lambda p: save_file({"w": torch.rand(9, 9)}, p), "is a safetensors file, not"),
    "noise": ("a.pt", lambda p: p.write_bytes(bytes(range(256)) * 9), "not an object embedding"),
    "folder": ("a.safetensors", lambda p: p.mkdir(), "is a folder, not an object embedding"),
    "nothing": ("a.safetensors", lambda p: p.touch(), "is empty"),
}


@pytest.mark.parametrize("kind", [*FOREIGN, *OTHERS])
def test_what_is_given_instead_of_words_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, make, says = (FOREIGN | OTHERS)[kind]
    make(Path(name))
    with pytest.raises(InputError) as error:
        ObjectEmbedding.load(name)
    message = str(error.value)
    assert says in message and message.startswith(name) and "; " in message and "\n" not in message
    assert ("ns-train invert3d" in message) == (kind in FOREIGN)
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", [["edit", "FILE", "--prompt", "blue"], ["views", "FILE"]])
def test_commands_name_it_and_write_nothing(tmp_path: Path, command: list[str], capsys) -> None:
    torch.save(a1111(torch.rand(4, 768)), tmp_path / "cat.pt")
    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path / "cat.pt") if word == "FILE" else word for word in command])
    shown = capsys.readouterr()
    assert exit.value.code == 1 and shown.err.count("\n") == 1 and "textual inversion" in shown.err
    assert [file.name for file in tmp_path.iterdir()] == ["cat.pt"]


VALID = {"format": "invert3d_ns.embedding", "version": "1", "steps": "3"}


@pytest.mark.parametrize(
    ("name", "tensor", "changes", "says"),
    [
        ("<object>", torch.rand(2, 8), {"steps": "²"}, "steps"),
        ("<object>", torch.rand(2, 8), {"steps": "-16"}, "steps"),
        ("<object>", torch.rand(2, 8), {"steps": "9" * 5000}, "steps"),
        ("<object>", torch.rand(2, 8), {"version": "²"}, "version"),
        ("<object>", torch.rand(2, 8), {"version": "9" * 5000}, "version"),
        ("<object>", torch.rand(2, 8), {"version": ""}, "version"),
        ("<object>", torch.rand(2, 8), {"version": "7"}, "update invert3d-ns"),
        ("<object>", torch.rand(0, 8), {}, "rows of finite numbers"),
        ("<object>", torch.rand(2, 0), {}, "rows of finite numbers"),
        ("<object>", torch.ones(2, 8, dtype=torch.int32), {}, "rows of finite numbers"),
        ("", torch.rand(2, 8), {}, "placeholder is ''"),
        (" ", torch.rand(2, 8), {}, "placeholder is ' '"),
        ("<my\nobject>", torch.rand(2, 8), {}, "placeholder is"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, name: str, tensor: torch.Tensor, changes: dict, says: str) -> None:
    path = tmp_path / "embedding.safetensors"
    save_file({name: tensor}, path, VALID | changes)
    with pytest.raises(InputError) as error:
        ObjectEmbedding.load(path)
    message = str(error.value)
    assert says in message and "\n" not in message and len(message) < 400
