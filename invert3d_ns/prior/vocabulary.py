"""CLIP's byte-pair vocabulary without a download: open_clip, which nerfstudio brings, packages it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CLIP_VOCABULARY_SIZE = 49408
_FILE = "bpe_simple_vocab_16e6.txt.gz"


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer (49,408 tokens), padding with its end token.

    Raises:
        InputError: open_clip is not installed, or the temporary folder is full.
    """
    from transformers import CLIPTokenizer

    merges = _merges()
    # The order that gives OpenAI's ids: bytes, bytes that end a word, merges, then start and end.
    alphabet = list(_byte_symbols())
    vocabulary = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ids = {token: index for index, token in enumerate(vocabulary)}
            (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
            lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
            (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    except OSError as error:
        raise InputError(
            f"cannot write to the temporary folder ({error.strerror or error}); free some space, or set TMPDIR"
        ) from error


def _merges() -> list[tuple[str, str]]:
    # The package is located, not imported: importing it takes seconds.
    spec = importlib.util.find_spec("open_clip")
    path = Path(spec.origin).parent / _FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise InputError("CLIP's vocabulary is missing; install it with `pip install open-clip-torch`")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    count = CLIP_VOCABULARY_SIZE - 2 * 256 - 2
    pairs = [tuple(line.split()) for line in lines[1 : count + 1]]
    return pairs  # type: ignore[return-value]


def _byte_symbols() -> list[str]:
    # GPT-2's alphabet: a printable character for each byte, printable Latin-1 bytes first and as themselves.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
