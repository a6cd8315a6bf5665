"""Training of the bundled models, at sizes that take seconds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from invert3d_ns.cli import main
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.prior.info import fingerprint
from invert3d_ns.training.autoencoder import build_autoencoder, finish_decoder, normalize_latents
from invert3d_ns.training.denoiser import (
    PATTERNED_SHARE,
    LatentCache,
    build_scheduler,
    draw_views,
    object_weights,
)
from invert3d_ns.training.loop import Stage, warmup_stable_decay
from invert3d_ns.training.recipe import sample_grid
from invert3d_ns.training.text import build_text_encoder, build_tokenizer, load_or_build_tokenizer
from invert3d_ns.world.data import world_views


def _run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def _tiny(out: Path, *extra: str) -> list[str]:
    steps = ["--autoencoder-steps", "2", "--decoder-steps", "2", "--denoiser-steps", "2"]
    return ["train", "prior", "--out", str(out), "--objects", "8", "--no-gates", "--no-evaluate", *steps, *extra]


def test_training_ends_with_a_prior_that_loads_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_tiny(tmp_path)) == 0
    assert str(tmp_path / "prior") in capsys.readouterr().out.replace("\n", "")
    prior = load_prior(tmp_path / "prior")
    assert prior.info.prediction_type == "v_prediction"
    assert prior.info.training["steps"] == 2
    views = prior.sample("a red ball", torch.zeros(1, 4, 16), steps=2)
    assert views.shape == (1, 4, 3, 64, 64) and views.isfinite().all()
    assert prior.info.fingerprint == fingerprint([prior.unet, prior.text_encoder])
    sample_grid(prior, tmp_path / "samples" / "2.png", steps=1)
    assert (tmp_path / "samples" / "2.png").stat().st_size > 1000
    shards = list((tmp_path / "prior").rglob("*.safetensors"))
    assert shards and max(s.stat().st_size for s in shards) <= 16 * 2**20
    # Again: everything is trained already, and more steps go on from there.
    assert _run([*_tiny(tmp_path)[:-1], "3"]) == 0
    assert load_prior(tmp_path / "prior").info.training["steps"] == 3


def test_stages_run_alone_and_a_bad_one_stops_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["train", "prior", "--out", str(tmp_path), "--objects", "8", "--autoencoder-steps", "2"]
    assert _run([*only, "--stage", "data"]) == 0
    assert not (tmp_path / "autoencoder.pt").exists()
    capsys.readouterr()
    assert _run([*only, "--stage", "denoiser", "--denoiser-steps", "2"]) == 1
    error = capsys.readouterr().err
    assert "gate" in error and "--no-gates" in error and error.count("\n") == 1
    assert (tmp_path / "autoencoder.pt").exists() and not (tmp_path / "denoiser.pt").exists()


def test_a_finished_prior_is_trained_on_with_its_autoencoder_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The bundled tokenizer and a set of few objects: every caption must be one that the shipped vocabulary spells.
    command = ["train", "prior", "--out", str(tmp_path), "--objects", "8", "--start", "bundled"]
    assert _run([*command, "--stage", "export"]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert _run([*command, "--stage", "denoiser", "--denoiser-steps", "2"]) == 0
    assert not (tmp_path / "autoencoder.pt").exists()
    first, start = load_prior(tmp_path / "prior"), load_prior("bundled")
    told = first.info.training
    assert told["started_from"] == start.info.fingerprint != first.info.fingerprint
    assert told["steps"] == 2 and told["steps_before"] >= start.info.training["steps"]
    assert told["command"] == "invert3d train prior --start bundled"
    assert told["autoencoder_steps"] == start.info.training["autoencoder_steps"]
    assert first.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    for one, other in zip(first.vae.parameters(), start.vae.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # Two steps of a warm-up hardly move a network: had it started afresh, nothing would agree.
    for one, other in zip(first.unet.parameters(), start.unet.parameters(), strict=True):
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-2
    # The checkpoint again, as a training that still runs would leave it.
    assert _run([*command, "--stage", "export"]) == 0
    again = load_prior(tmp_path / "prior")
    assert again.info.training == told and again.info.fingerprint == first.info.fingerprint
    assert _run([*command, "--stage", "autoencoder"]) == 1
    assert "--start" in capsys.readouterr().err


def test_the_stage_of_the_denoiser_ends_with_a_prior_that_has_the_finished_decoder(tmp_path: Path) -> None:
    assert _run([*_tiny(tmp_path), "--stage", "decoder"]) == 0
    assert not (tmp_path / "prior").exists()
    assert _run([*_tiny(tmp_path), "--stage", "denoiser"]) == 0
    finished = torch.load(tmp_path / "decoder.pt", weights_only=True)["model"]["decoder.conv_in.weight"]
    began = torch.load(tmp_path / "autoencoder.pt", weights_only=True)["model"]["decoder.conv_in.weight"]
    prior = load_prior(tmp_path / "prior")
    kept = prior.vae.state_dict()["decoder.conv_in.weight"]
    assert (kept - finished).norm() < (kept - began).norm()


def test_latents_are_encoded_once_and_read_by_a_training_that_is_resumed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, model = world_views(tmp_path, 4, seed=3), build_autoencoder().eval()
    objects, views = torch.tensor([2, 0]), torch.tensor([[0, 3], [1, 1]])
    first = LatentCache(tmp_path, data, model, 8, 32).encoded(objects, views)
    with torch.no_grad():
        expected = model.encode(data.images([2])[0, [0, 3]] * 2 - 1, return_dict=False)[0].mean
    torch.testing.assert_close(first[0], expected, rtol=0.05, atol=0.05)
    resumed = LatentCache(tmp_path, data, model, 8, 32)
    model.encode = None  # type: ignore[method-assign, assignment]
    torch.testing.assert_close(resumed.encoded(objects, views), first, rtol=0, atol=0)
    # Another autoencoder has latents of its own.
    assert not LatentCache(tmp_path, data, build_autoencoder(), 8, 32).known.any()


def test_objects_with_patterns_are_drawn_more_often_than_they_are_in_the_set(tmp_path: Path) -> None:
    data = world_views(tmp_path, 40, seed=3, size=16)
    weights = object_weights(data)
    patterned = data.patterns > 0
    assert 0 < patterned.sum() < 40 and len(set(weights[patterned].tolist())) == 1
    assert float(weights[patterned].sum() / weights.sum()) == pytest.approx(PATTERNED_SHARE)
    data.patterns.zero_()
    assert len(set(object_weights(data).tolist())) == 1


def test_finishing_the_decoder_leaves_latents_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = world_views(tmp_path, 4, seed=3)
    model = build_autoencoder()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    finish_decoder(tmp_path, model, data, 2, batch=4)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith(("decoder.", "post_quant_conv.")) for key in changed)


@pytest.mark.parametrize("stored", [4, 8])
def test_batches_hold_as_many_views_as_asked_and_orbits_are_evenly_spaced(stored: int) -> None:
    shapes, even = set(), 0
    for seed in range(200):
        count, seen = draw_views(16, stored, torch.Generator().manual_seed(seed))
        assert seen.numel() == 16 and seen.shape[0] == count and int(seen.min()) >= 0 and int(seen.max()) < stored
        assert all(len(set(row)) == seen.shape[1] for row in seen.tolist())
        shapes.add(tuple(seen.shape))
        even += seen.shape[1] == 4 and bool((seen.diff(dim=1) == stored // 4).all())
    assert shapes == ({(16, 1), (4, 4)} if stored == 4 else {(16, 1), (4, 4), (2, 8)})
    assert even > 50


def test_averaged_weights_come_and_go(tmp_path: Path) -> None:
    stage = Stage("s", tmp_path, model := nn.Linear(2, 1), 4, 1e-1, log_every=2)
    seen: list[torch.Tensor] = []
    stage.sample, stage.sample_every = (lambda m, step: seen.append(torch.clone(model.weight.detach()))), 4
    stage.train(lambda step: {"loss": model(torch.ones(1, 2)).square().sum()})
    assert len(seen) == 1 and not torch.equal(seen[0], model.weight)
    stage.use_average()
    torch.testing.assert_close(model.weight.detach(), seen[0])


def test_a_resumed_stage_equals_an_unbroken_one(tmp_path: Path) -> None:
    def train(folder: Path, *stops: int) -> nn.Linear:
        for stop in stops:
            torch.manual_seed(0)
            stage = Stage("s", folder, model := nn.Linear(3, 1), 8, 1e-2, log_every=2)
            stage.steps, total = stop, stage.steps
            target = torch.arange(3.0)

            def loss(step: int, model: nn.Linear = model, target: torch.Tensor = target) -> dict[str, torch.Tensor]:
                x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
                return {"loss": (model(x)[:, 0] - x @ target).square().mean()}

            # The schedule must not know of the interruption.
            stage.train(loss) if stop == total else _run_until(stage, loss, stop, total)
        stage.use_average()
        return model

    broken, whole = train(tmp_path / "a", 4, 8), train(tmp_path / "b", 8)
    torch.testing.assert_close(broken.weight, whole.weight, rtol=0, atol=0)


def _run_until(stage: Stage, loss, stop: int, total: int) -> None:
    stage.steps = total
    stage._remaining = lambda: iter(range(stage.done, stop))  # type: ignore[method-assign]
    stage.train(loss)


def test_learning_rate_rises_stays_and_falls() -> None:
    values = [warmup_stable_decay(step, 1000) for step in range(1000)]
    assert values[0] == pytest.approx(0.01) and values[99] == values[500] == 1.0
    assert values[-1] < 0.03 and all(a >= b for a, b in pairwise(values[650:]))


def test_normalized_latents_have_unit_spread_and_the_same_reconstruction(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from invert3d_ns.training.autoencoder import ARCHITECTURE

    torch.manual_seed(0)
    data = world_views(tmp_path, 16, seed=3)
    model = AutoencoderKL(**{**ARCHITECTURE, "block_out_channels": (8, 8, 8, 8), "latent_channels": 4}).eval()
    images = data.images(torch.arange(16)).flatten(0, 1)

    def encode() -> DiagonalGaussianDistribution:
        return model.encode(images * 2 - 1, return_dict=False)[0]

    def reconstruct() -> torch.Tensor:
        return model.decode(encode().mode(), return_dict=False)[0]  # type: ignore[arg-type]

    with torch.no_grad():
        before = reconstruct()
        spread = encode().std
        latents = encode().mean.std((0, 2, 3))
        normalize_latents(model, data, count=16)
        torch.testing.assert_close(reconstruct(), before, rtol=1e-4, atol=1e-4)
        posterior = encode()
        torch.testing.assert_close(posterior.std, spread / latents.view(1, -1, 1, 1), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_schedule_ends_in_pure_noise_and_predicts_v() -> None:
    scheduler = build_scheduler()
    assert scheduler.alphas_cumprod[-1] == 0.0
    assert scheduler.config.prediction_type == "v_prediction"
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999


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


def test_the_demo_scene_can_be_made_again(tmp_path: Path) -> None:
    from invert3d_ns.scenes.assets import DEMO_SCENE
    from invert3d_ns.scenes.ply import read_splats

    assert _run(["train", "demo", "--out", str(tmp_path)]) == 0
    made, shipped = read_splats(tmp_path / "demo.ply"), read_splats(DEMO_SCENE)
    torch.testing.assert_close(made.means, shipped.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(made.features_dc, shipped.features_dc, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prior", "--objects", "0"],
        ["prior", "--denoiser-lr", "nan"],
        ["prior", "--device", "nowhere"],
        ["clip", "--clip-steps", "0"],
        ["clip", "--device", "meta"],
        ["judge", "--judge-steps", "-1"],
        ["judge", "--start", "nowhere.safetensors"],
        ["judge", "--seed", "-1"],
    ],
)
def test_bad_input_is_refused_by_name(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["train", *arguments, "--out", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert arguments[1] in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
