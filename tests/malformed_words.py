"""Files of words and of edits: missing, cut off, of another kind, of another prior, newer."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from malformed import Case, case
from PIL import Image

from invert3d_ns.words.embedding import ObjectEmbedding


def _as(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _truncated(folder: Path) -> None:
    content = (folder.parent / "words.safetensors").read_bytes()
    (folder / "words.safetensors").write_bytes(content[: len(content) // 2])


def _half_header(folder: Path) -> None:
    (folder / "words.safetensors").write_bytes((folder.parent / "words.safetensors").read_bytes()[:60])


def _huge_header(folder: Path) -> None:
    (folder / "words.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}" * 20)


def _tensors(metadata: dict[str, str] | None, **tensors: torch.Tensor) -> Callable[[Path], Any]:
    from safetensors.torch import save

    return _as("words.safetensors", save(tensors, metadata))


def _embedding(vectors: torch.Tensor, **fields: Any) -> Callable[[Path], Any]:
    return lambda folder: ObjectEmbedding(vectors, **fields).save(folder / "words.safetensors")


def _picture(name: str) -> Callable[[Path], Any]:
    return lambda folder: Image.new("RGB", (8, 8)).save(folder / name)


def _textual_inversion(folder: Path) -> None:
    torch.save({"string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat", "step": 99}, folder / "words.pt")


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "words.safetensors", "w") as archive:
        archive.writestr("embedding.safetensors", b"x")


def _npz(folder: Path) -> None:
    import numpy as np

    np.savez(folder / "words.npz", a=np.zeros(3))


_META = {"format": "invert3d_ns.embedding", "version": "1", "prior": "prior", "fingerprint": "x", "steps": "1"}
_NOTHING_HERE = [
    ("missing", "words.safetensors", None, "does not exist"),
    ("empty", "words.safetensors", _as("words.safetensors", b""), "empty"),
    ("cut off", "words.safetensors", _truncated, "truncated|damaged"),
    ("cut off in its header", "words.safetensors", _half_header, "truncated|damaged"),
    ("huge header", "words.safetensors", _huge_header, "truncated|not a safetensors|unknown kind"),
    ("zeros", "words.safetensors", _as("words.safetensors", bytes(500)), "truncated|not a safetensors|unknown kind"),
    ("text", "words.txt", _as("words.txt", b"hello"), "a text file, not words"),
    ("json", "words.json", _as("words.json", b'{"a": 1}'), "a JSON file, not words"),
    ("web page", "words.safetensors", _as("words.safetensors", b"<!DOCTYPE html><html>404"), r"a web page \(HTML\)"),
    (
        "lfs",
        "words.safetensors",
        _as("words.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    ("gzip", "words.gz", _as("words.gz", gzip.compress(b"x")), "gzip"),
    ("zip", "words.safetensors", _zip, "a zip archive"),
    ("npz", "words.npz", _npz, "NumPy arrays"),
    ("pdf", "words.pdf", _as("words.pdf", b"%PDF-1.4"), "a PDF document"),
    ("png", "words.png", _picture("words.png"), "a PNG image, not words; .*invert3d image case/words.png"),
    (
        "jpeg",
        "words.safetensors",
        lambda f: Image.new("RGB", (8, 8)).save(f / "words.safetensors", "JPEG"),
        "a JPEG image",
    ),
    ("mesh", "words.obj", _as("words.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 1\n"), "an OBJ mesh, not words"),
    ("glb", "words.glb", _as("words.glb", b"glTF\x02\0\0\0"), "glTF"),
    ("webui", "words.pt", _textual_inversion, "a torch checkpoint|Stable Diffusion"),
    ("foreign tensors", "words.safetensors", _tensors(None, weight=torch.zeros(3, 4)), "not an object embedding"),
    (
        "two words",
        "words.safetensors",
        _tensors(_META, a=torch.zeros(1, 4), b=torch.zeros(1, 4)),
        "not an object embedding",
    ),
    ("newer", "words.safetensors", _tensors({**_META, "version": "99"}, a=torch.zeros(1, 4)), "update invert3d-ns"),
    ("no version", "words.safetensors", _tensors({**_META, "version": "x"}, a=torch.zeros(1, 4)), "number of version"),
    ("one row", "words.safetensors", _tensors(_META, a=torch.zeros(4)), "damaged"),
    ("nan", "words.safetensors", _embedding(torch.full((2, 4), torch.nan), prior="prior"), "damaged"),
    ("no steps", "words.safetensors", _tensors({**_META, "steps": "-1"}, a=torch.zeros(1, 4)), "damaged"),
    (
        "of an unknown prior",
        "words.safetensors",
        _embedding(torch.zeros(2, 4), prior="mine"),
        "pass its path as --prior",
    ),
    ("of no prior", "words.safetensors", _embedding(torch.zeros(2, 4)), "pass its path as --prior"),
    (
        "of another width",
        "words.safetensors --prior prior",
        _embedding(torch.zeros(2, 4), prior="prior"),
        "has dimension 4",
    ),
    (
        "of other weights",
        "words.safetensors --prior prior",
        _embedding(torch.zeros(2, 24), prior="prior"),
        "has weights",
    ),
]


def _of_words() -> list[Case]:
    found = []
    for name, file, make, says in _NOTHING_HERE:
        found.append(case(f"views of words: {name}", f"invert3d views case/{file} --out case/out", says, make))
        edit = f"invert3d edit case/{file} --prompt blue --out case/out.png"
        found.append(case(f"edit of words: {name}", edit, says, make))
    return found


# Files of edits

_EDITS: dict[str, Any] = {
    "format": "invert3d_ns.edits",
    "version": 2,
    "prior": "",
    "fingerprint": "",
    "edits": [{"target": "blue"}],
}


def _edits(**change: Any) -> Callable[[Path], Any]:
    return _as("edits.json", json.dumps(_EDITS | change).encode())


_BAD_EDITS = [
    ("missing", None, "cannot be read"),
    ("empty", _as("edits.json", b""), "no JSON"),
    ("cut off", _as("edits.json", json.dumps(_EDITS).encode()[:40]), "no JSON"),
    ("binary", _as("edits.json", bytes(range(256))), "no JSON"),
    ("a list", _as("edits.json", b"[]"), "holds no edits"),
    ("a folder", lambda folder: (folder / "edits.json").mkdir(), "cannot be read"),
    ("of another program", _edits(format="x"), "holds no edits"),
    ("newer", _edits(version=9), "update invert3d-ns"),
    ("none", _edits(edits=[]), "nothing to edit"),
    ("no list", _edits(edits=7), "damaged|no list"),
    ("unknown entry", _edits(edits=[{"target": "blue", "hue": 3}]), "hue"),
    ("words for a number", _edits(edits=[{"target": "blue", "amount": "much"}]), "amount is much; give a number"),
    ("a number for words", _edits(edits=[{"target": 5}]), "target is 5; give words"),
    ("a number for noun", _edits(edits=[{"target": "blue", "noun": 5}]), "noun is 5; give words"),
    ("words for a boolean", _edits(edits=[{"target": "blue", "keep_silhouette": "no"}]), "keep-silhouette is no"),
    ("fraction for a seed", _edits(edits=[{"target": "blue", "seed": 1.5}]), "seed is 1.5; give a whole number"),
    (
        "nan",
        _as("edits.json", json.dumps(_EDITS | {"edits": [{"target": "blue", "amount": float("nan")}]}).encode()),
        "amount is nan",
    ),
    ("weights in a list", _edits(edits=[{"target": "blue", "weights": ["blue"]}]), "weights is|damaged"),
    ("box of words", _edits(edits=[{"target": "blue", "box": [0, 0, "a", 1, 1, 1]}]), "damaged|box"),
    ("of another prior", _edits(fingerprint="other", prior="mine"), "words of the same prior"),
    ("deep", _as("edits.json", b"[" * 100_000), "no JSON|damaged"),
]


def _copied_run_with(name: str, content: bytes) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        shutil.copytree(folder.parent / "run", folder / "run")
        (folder / "run" / name).write_bytes(content)

    return make


CASES = [
    *_of_words(),
    *(
        case(f"edits: {name}", "invert3d edit words.safetensors --edits case/edits.json --out case/out.png", says, make)
        for name, make, says in _BAD_EDITS
    ),
    *(
        case(
            f"edits in a run: {name}",
            "invert3d edit case/run --prompt blue --out case/out.png",
            says,
            _copied_run_with("edits.json", content),
        )
        for name, content, says in (
            ("damaged", b"{", "no JSON"),
            ("of another prior", json.dumps(_EDITS | {"fingerprint": "x"}).encode(), "words of the same prior"),
        )
    ),
    case(
        "train edits: missing",
        "ns-train invert3d-edit --data run --pipeline.edit.edits case/edits.json",
        "cannot be read",
    ),
    case(
        "train edits: damaged",
        "ns-train invert3d-edit --data run --pipeline.edit.edits case/edits.json",
        "no JSON",
        _as("edits.json", b"{"),
    ),
    case(
        "train words: missing",
        "ns-train invert3d-edit --data run --prompt blue --pipeline.embedding none",
        "does not exist",
    ),
    case(
        "train words: picture",
        "ns-train invert3d-edit --data run --prompt blue --pipeline.embedding photo.png",
        "a PNG image, not words",
    ),
]
