"""Build the bundled prior's vocabulary and text tower: CLIP's own classes at a small size."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invert3d_ns.base.files import atomic_path

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

VOCABULARY_SIZE = 640
"""Characters, their end-of-word twins, merges, and two special tokens."""
EVERYDAY_WORDS = [
    "a",
    "an",
    "the",
    "and",
    "with",
    "of",
    "in",
    "on",
    "that",
    "is",
    "it",
    "its",
    "style",
    "photo",
    "picture",
    "object",
    "thing",
    "toy",
    "wooden",
    "shiny",
    "soft",
    "small",
    "big",
    "tall",
    "wide",
    "left",
    "right",
    "front",
    "back",
    "top",
    "bottom",
    "side",
    "view",
    "made",
    "from",
    "like",
    "painting",
    "drawing",
    "sketch",
    "night",
    "van",
    "gogh",
    "watercolor",
    "pixel",
    "art",
]
"""Words beyond the captions' that get a token of their own, so that prompts of users stay short."""
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 128,
    "hidden_act": "quick_gelu",
}


def load_or_build_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    """Load the vocabulary of an unfinished training from ``folder``, or build one and keep it there.

    Ties between merges fall differently each time, and a resumed text tower must find its words where they were.
    """
    from transformers import CLIPTokenizer

    if (folder / "merges.txt").exists():
        return CLIPTokenizer(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            model_max_length=77,
            bos_token="<|startoftext|>",
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            unk_token="<|endoftext|>",
        )
    tokenizer = build_tokenizer(captions)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        tokenizer.backend_tokenizer.model.save(str(temporary))
    return tokenizer


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Build a byte-pair encoding in CLIP's form, learned from captions. Unknown words are encoded as letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(33, 127)],
        show_progress=False,
    )
    corpus = [
        *captions,
        *(EVERYDAY_WORDS * 50),
        *"!\"#$%&'()*+,-./0123456789:;<=>?@[]^_{|}~ abcdefghijklmnopqrstuvwxyz",
    ]
    tokenizer.train_from_iterator(sorted(corpus), trainer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        vocabulary = json.loads((Path(folder) / "vocab.json").read_text())
        # CLIP's classes expect every printable character alone and as a word's last letter.
        for letter in [chr(c) for c in range(33, 127)]:
            for token in (letter, letter + "</w>"):
                vocabulary.setdefault(token, len(vocabulary))
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        return CLIPTokenizer(
            str(Path(folder) / "vocab.json"),
            str(Path(folder) / "merges.txt"),
            model_max_length=77,
            bos_token=special[0],
            eos_token=special[1],
            pad_token=special[1],
            unk_token=special[1],
        )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a text tower with fresh weights for a vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    special: dict[str, Any] = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **special, **ARCHITECTURE))
