"""The autoencoder: its latents, its decoder finished alone, and where its randomness comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from tiny_training import tiny_autoencoder

from invert3d_ns.training import autoencoder
from invert3d_ns.training.autoencoder import (
    build_autoencoder,
    finish_decoder,
    normalize_latents,
    train_autoencoder,
)
from invert3d_ns.training.latents import encoder_fingerprint
from invert3d_ns.training.loop import initial_weights
from invert3d_ns.world.data import WorldViews, world_views

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def data(small_networks, tmp_path_factory: pytest.TempPathFactory) -> WorldViews:
    return world_views(tmp_path_factory.mktemp("data"), 8, seed=3)


def test_finishing_the_decoder_leaves_latents_as_they_are(tmp_path: Path, data: WorldViews) -> None:
    model = tiny_autoencoder(data)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    finish_decoder(tmp_path, model, data, 2, batch=4)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith(("decoder.", "post_quant_conv.")) for key in changed)


def test_training_has_streams_of_its_own(tmp_path: Path, data: WorldViews) -> None:
    def weights(folder: Path, seed: int) -> torch.Tensor:
        model = train_autoencoder(folder, data, 2, batch=4, seed=seed)
        finish_decoder(folder, model, data, 2, batch=4, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    first = weights(tmp_path / "a", 0)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)
    # The generator that all of torch shares stands elsewhere now, and the result is the same.
    torch.testing.assert_close(weights(tmp_path / "b", 0), first, rtol=0, atol=0)
    assert not torch.equal(weights(tmp_path / "c", 1), first)


def test_normalized_latents_have_unit_spread_and_the_same_reconstruction(data: WorldViews) -> None:
    with initial_weights(0):
        model = build_autoencoder().eval()
    images = data.images(torch.arange(8)).flatten(0, 1)

    def encode() -> DiagonalGaussianDistribution:
        return model.encode(images * 2 - 1, return_dict=False)[0]

    def reconstruct() -> torch.Tensor:
        return model.decode(encode().mode(), return_dict=False)[0]  # type: ignore[arg-type]

    with torch.no_grad():
        before = reconstruct()
        spread = encode().std
        latents = encode().mean.std((0, 2, 3))
        normalize_latents(model, data, count=8)
        torch.testing.assert_close(reconstruct(), before, rtol=1e-4, atol=1e-4)
        posterior = encode()
        torch.testing.assert_close(posterior.std, spread / latents.view(1, -1, 1, 1), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_a_resumed_training_has_the_same_latents_on_any_machine(
    tmp_path: Path, data: WorldViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_autoencoder(tmp_path, data, 2, batch=4)
    # Another machine, or number of threads, rounds otherwise.
    measure = autoencoder._measure_latents

    def elsewhere(*given):
        return tuple(value * (1 + 1e-3) for value in measure(*given))

    monkeypatch.setattr(autoencoder, "_measure_latents", elsewhere)
    again = train_autoencoder(tmp_path, data, 2, batch=4)
    for before, now in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0)
    # Of other weights it is measured anew.
    longer = train_autoencoder(tmp_path, data, 3, batch=4)
    assert encoder_fingerprint(longer) != encoder_fingerprint(first)
    monkeypatch.undo()
    assert encoder_fingerprint(train_autoencoder(tmp_path, data, 3, batch=4)) == encoder_fingerprint(longer)
    (tmp_path / autoencoder.MOMENTS).unlink()
    assert encoder_fingerprint(train_autoencoder(tmp_path, data, 3, batch=4)) != encoder_fingerprint(longer)
