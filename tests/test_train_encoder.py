"""``invert3d train encoder``: a view encoder for a prior that stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic import make_cloud
from tiny_priors import make_tiny_prior

from invert3d_ns.cli import main
from invert3d_ns.prior.checkpoints import load_prior, save_prior
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.training.frozen_encoder import encoder_for, train_encoder


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_it_starts_near_the_init_word(tiny_v_prior) -> None:
    encoder = encoder_for(tiny_v_prior)
    words = encoder(torch.randn(1, 2, 4, 4, 4), torch.eye(4).flatten().expand(1, 2, 16))[0]
    word = tiny_v_prior.word_vectors("object").mean(0)
    assert words.shape == (27, 24) and encoder.config["prior"] == tiny_v_prior.info.fingerprint
    assert float((words.mean(0) - word).norm() / word.norm()) < 0.5


def test_only_the_encoder_is_trained_and_it_learns(tmp_path: Path) -> None:
    prior = make_tiny_prior(tmp_path / "tokenizer", "v_prediction", seed=5)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    scenes = [to_object_frame(make_cloud(60 + 20 * k, seed=k))[0] for k in range(2)]
    encoder = train_encoder(tmp_path, prior, scenes, 30)
    after = prior.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert prior.view_encoder is encoder and not any(p.requires_grad for p in encoder.parameters())
    fresh = encoder_for(prior).state_dict()
    assert max(float((value - fresh[name]).abs().max()) for name, value in encoder.state_dict().items()) > 1e-3


def test_the_command_writes_a_prior_that_has_it(tmp_path: Path, tiny_v_prior, capsys) -> None:
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    write_splats(tmp_path / "ball.ply", make_cloud(80))
    options = ("--prior", tmp_path / "prior", "--data", tmp_path / "ball.ply", "--steps", 2, "--device", "cpu")
    assert _run("train", "encoder", *options, "--out", tmp_path / "out") == 0
    made = load_prior(str(tmp_path / "out" / "prior"), "cpu", torch.float32)
    assert made.view_encoder is not None and made.info.fingerprint == tiny_v_prior.info.fingerprint
    # It goes on, and other settings are refused.
    assert _run("train", "encoder", *options, "--out", tmp_path / "out") == 0
    assert _run("train", "encoder", *options, "--seed", 5, "--out", tmp_path / "out") == 1
    assert "--seed" in capsys.readouterr().err
    assert _run("train", "encoder", "--prior", "nonsense", "--out", tmp_path / "other", *options[2:]) == 1
