"""The vocabulary of the bundled models, and what is trained with it."""

from __future__ import annotations

from pathlib import Path

import torch

from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.training.denoiser import assemble_from_prior
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.training.text import build_text_encoder, build_tokenizer, load_or_build_tokenizer
from invert3d_ns.world.data import world_views


def test_tokenizer_keeps_caption_words_whole_and_takes_any_text(tmp_path: Path) -> None:
    captions = ["a red chair with blue legs", "a purple checkered ball"] * 3
    tokenizer = build_tokenizer(captions)
    words = tokenizer.convert_ids_to_tokens(tokenizer("a red chair with blue legs")["input_ids"])
    whole = ["a</w>", "red</w>", "chair</w>", "with</w>", "blue</w>", "legs</w>"]
    assert words == ["<|startoftext|>", *whole, "<|endoftext|>"]
    odd = tokenizer("Zebra's xylophone, 42!")["input_ids"]
    assert len(odd) > 8 and tokenizer.unk_token_id not in odd[1:-1]
    assert build_text_encoder(tokenizer)(torch.tensor([odd])).last_hidden_state.shape == (1, len(odd), 128)
    kept = load_or_build_tokenizer(tmp_path / "tokenizer", captions)
    assert load_or_build_tokenizer(tmp_path / "tokenizer", ["another text"]).get_vocab() == kept.get_vocab()


def test_the_shipped_vocabulary_spells_every_caption(tmp_path: Path) -> None:
    data = world_views(tmp_path, 40, seed=3, views=4)
    start = load_prior("bundled", "cpu", torch.float32)
    steps = start.info.training["steps"] + start.info.training.get("steps_before", 0)
    prior = assemble_from_prior("bundled", start, TrainingSets(data), {"steps": 3})
    assert prior.tokenizer is start.tokenizer and not prior.frozen
    assert prior.info.training["steps_before"] == steps
    assert prior.info.training["started_from"] == start.info.fingerprint
    assert all(parameter.requires_grad for parameter in prior.unet.parameters())
