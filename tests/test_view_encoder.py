"""The view encoder: views to words, any number of them, as a part of a prior that may be missing."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import has_view_encoder, load_prior, save_prior
from invert3d_ns.prior.memory import prior_networks
from invert3d_ns.prior.offload import Offload
from invert3d_ns.scenes.cameras import camera_condition


@pytest.fixture()
def views() -> tuple[torch.Tensor, torch.Tensor]:
    cameras = camera_condition(torch.tensor([0.0, 80.0, 130.0, 250.0, 300.0]), torch.tensor(12.0))
    return torch.randn(2, 5, 4, 4, 4, generator=torch.Generator().manual_seed(3)), cameras.expand(2, -1, -1)


@pytest.fixture(scope="module")
def folder(tiny_encoding_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "encoding"
    save_prior(tiny_encoding_prior, path, dtype=torch.float32)
    return path


def test_any_number_of_views_in_any_order(tiny_encoding_prior, views) -> None:
    latents, cameras = views
    prior = tiny_encoding_prior
    words = prior.encode_views(latents, cameras)
    assert words.shape == (2, 8, 24) and words.dtype == torch.float32
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(prior.encode_views(latents[:, order], cameras[:, order]), words, atol=2e-5, rtol=0)
    one = prior.encode_views(latents[:, :1], cameras[:, :1])
    assert one.shape == words.shape and float((one - words).abs().max()) > 1e-3
    # Objects of a batch do not see each other, and the camera matters.
    torch.testing.assert_close(prior.encode_views(latents[1:], cameras[1:])[0], words[1], atol=2e-5, rtol=0)
    turned = prior.encode_views(latents, cameras.roll(1, 1))
    assert float((turned - words).abs().max()) > 1e-3


def test_a_view_changes_most_the_words_of_places_that_it_shows(tiny_encoding_prior, views) -> None:
    """Cells are read where they project: a mark on the left of the front view is a mark on the left cells."""
    encoder = tiny_encoding_prior.view_encoder
    points = encoder.points().unflatten(0, (8, -1)).mean(1)
    assert sorted({tuple(point) for point in points.sign().long().tolist()}) == [
        (x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)
    ]
    assert float(encoder.points().abs().max()) < 0.28


def test_gradients_reach_the_latents(tiny_encoding_prior, views) -> None:
    latents = views[0].clone().requires_grad_()
    tiny_encoding_prior.encode_views(latents, views[1]).square().sum().backward()
    assert latents.grad is not None and (latents.grad.flatten(2).abs().amax(-1) > 0).all()


def test_it_is_saved_and_loaded_with_its_prior(tiny_encoding_prior, folder: Path, views) -> None:
    again = load_prior(str(folder), "cpu", torch.float32)
    assert has_view_encoder(str(folder)) and again.info.fingerprint == tiny_encoding_prior.info.fingerprint
    torch.testing.assert_close(again.encode_views(*views), tiny_encoding_prior.encode_views(*views), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    half = load_prior(str(folder), "cpu", torch.bfloat16)
    assert half.encode_views(*views).dtype == torch.float32


def test_priors_without_one_work_and_say_so(tiny_v_prior, tmp_path: Path, views) -> None:
    save_prior(tiny_v_prior, tmp_path / "plain", dtype=torch.float32)
    again = load_prior(str(tmp_path / "plain"), "cpu", torch.float32)
    assert again.view_encoder is None and not has_view_encoder(str(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"has no view encoder; start from a word \(--pipeline.init word\)"):
        again.encode_views(*views)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(1, 0, 4, 4, 4), "0 views with latents of 4x4"),
        (
            torch.zeros(1, 2, 4, 8, 8),
            "2 views with latents of 8x8 cannot be read in one look; give one or more of 32x32",
        ),
    ],
)
def test_views_that_cannot_be_read(tiny_encoding_prior, latents: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_encoding_prior.encode_views(latents, torch.zeros(1, latents.shape[1], 16))


def _changed(folder: Path, target: Path, **entries: object) -> Path:
    shutil.copytree(folder, target)
    config = target / "view_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | entries))
    manifest = target / "manifest.json"
    sizes = json.loads(manifest.read_text())
    for listed in (sizes.get("files", sizes),):
        for name in [name for name in listed if name == "view_encoder/config.json"]:
            del listed[name]
    manifest.write_text(json.dumps(sizes))
    return target


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"prior": "0123456789abcdef"}, "speaks the words of another prior"),
        ({"token_dim": 32}, "view_encoder"),
        ({"latent_channels": 8}, "view_encoder"),
        ({"heads": 0}, "view encoder has 0 heads|view_encoder"),
    ],
)
def test_an_encoder_of_another_prior_is_refused(folder: Path, tmp_path: Path, entries: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_prior(str(_changed(folder, tmp_path / "other", **entries)), "cpu", torch.float32)


def test_prompts_of_a_batch_have_words_of_their_own(tiny_encoding_prior, views) -> None:
    prior = tiny_encoding_prior
    words = prior.encode_views(*views)
    prompts = ["a red <object> on the <object>", "<object>"]
    together = prior.encode_prompt(prompts, {"<object>": words})
    for row, prompt in enumerate(prompts):
        alone = prior.encode_prompt(prompt, {"<object>": words[row]})[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
    mixed = prior.encode_prompt(["a cat", "<object>"], {"<object>": words})
    torch.testing.assert_close(mixed[0], prior.encode_prompt("a cat")[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1], together[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_a_view_encoder_is_brought_where_it_computes(mode: Any, tiny_encoding_prior) -> None:
    prior = copy.deepcopy(tiny_encoding_prior)
    latents, cameras = torch.randn(1, 3, 4, 4, 4), torch.eye(4).flatten().expand(1, 3, 16)
    expected = prior.encode_views(latents, cameras)
    assert [prior.view_encoder] in prior_networks(prior)
    prior.offload = Offload(prior_networks(prior), torch.device("cpu"), mode)
    torch.testing.assert_close(prior.encode_views(latents, cameras), expected, rtol=0, atol=0)
    assert prior.encode_prompt("a red cube").shape == (1, 77, 24)
    prior.offload.remove()
