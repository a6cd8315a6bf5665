"""The denoiser's objective: what the UNet is given belongs together, and is learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_autoencoder, tiny_denoiser, two_objects

from invert3d_ns.prior.multiview import MultiViewPrior
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.training.batches import (
    ALL_VIEWS_SHARE,
    DROP_CAPTION,
    NOISY_SHARE,
    PATTERNED_SHARE,
    SINGLE_VIEW_SHARE,
    Batches,
    draw_views,
    object_weights,
)
from invert3d_ns.training.denoiser import BANDS, DRAFT_WEIGHT, build_scheduler, denoising_losses, train_denoiser
from invert3d_ns.training.latents import LatentCache
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.world.data import WorldViews, world_views

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def data(small_networks, tmp_path_factory: pytest.TempPathFactory) -> WorldViews:
    return world_views(tmp_path_factory.mktemp("data"), 10, seed=3, views=8)


class Recorder:
    """Stands for the UNet: keeps what it is given and predicts zero."""

    def __init__(self) -> None:
        self.calls: list[dict[str, torch.Tensor]] = []

    def __call__(self, sample, timestep, *, encoder_hidden_states, class_labels, cross_attention_kwargs, **_: Any):
        views = cross_attention_kwargs["num_views"]
        self.calls.append(
            {
                "noisy": sample[:, :4].unflatten(0, (-1, views)).float(),
                "t": timestep.unflatten(0, (-1, views)),
                "context": encoder_hidden_states.detach().float(),
                "cameras": class_labels.unflatten(0, (-1, views)).float(),
            }
        )
        return (torch.zeros_like(sample[:, :4]),)


def _nearest(rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    distances = torch.cdist(rows, table)
    assert distances.min(1).values.max() < 0.02 * table.norm(dim=1).mean()
    return distances.argmin(1)


def _within(count: int, total: int, share: float) -> bool:
    """Four and a half standard deviations of a binomial: one false alarm in 150,000, and none under a fixed seed."""
    return abs(count - total * share) <= 4.5 * math.sqrt(total * share * (1 - share))


STEPS = 120


@pytest.fixture(scope="module")
def given(small_networks, data: WorldViews, tmp_path_factory: pytest.TempPathFactory):
    """A prior, what its UNet is given over many steps, and the losses."""
    folder = tmp_path_factory.mktemp("given")
    prior, recorder = tiny_denoiser(folder, data), Recorder()
    prior.unet.forward = recorder  # type: ignore[method-assign, assignment]
    batches = Batches((data, LatentCache(folder, data, prior.vae, 8, 4)), 32, 5, prior.num_timesteps)
    losses = [denoising_losses(prior, batches.draw(step)) for step in range(STEPS)]
    return prior, recorder.calls, losses


def test_latents_captions_cameras_and_targets_belong_to_one_object(given, data: WorldViews) -> None:
    prior, calls, losses = given
    texts = sorted({text for wordings in data.captions for text in wordings} | {""})
    contexts = prior.encode_prompt(texts).detach().flatten(1)
    known = camera_condition(data.azimuths, data.elevations)
    clean = prior.encode_images(data.images(slice(None)))
    low: list[torch.Tensor] = []
    for call, values in zip(calls, losses, strict=True):
        views = call["t"].shape[1]
        assert (call["t"] == call["t"][:, :1]).all()
        # Cameras are told apart by their azimuths; each is one of a stored view, none is left out.
        flat = _nearest(call["cameras"].flatten(0, 1), known.flatten(0, 1)).unflatten(0, (-1, views))
        objects, seen = flat // 8, flat % 8
        assert (objects == objects[:, :1]).all() and all(len(set(row)) == views for row in seen.tolist())
        for item, index in zip(objects[:, 0].tolist(), _nearest(call["context"].flatten(1), contexts), strict=True):
            assert texts[index] in ("", *data.captions[item])
        latents = clean[objects, seen]
        share = prior.alphas_cumprod[call["t"][:, 0]].view(-1, 1, 1, 1, 1)
        noise = (call["noisy"] - share.sqrt() * latents) / (1 - share).sqrt()
        v = share.sqrt() * noise - (1 - share).sqrt() * latents
        denoising = float(values["loss"] - DRAFT_WEIGHT * values["draft"])
        assert denoising == pytest.approx(float(v.square().mean()), rel=0.05)
        low.append(noise[(call["t"][:, 0] >= 50) & (call["t"][:, 0] < 400)].flatten())
    # What is left when the right views are taken away is unit noise; of other views more would be left.
    left = torch.cat(low)
    assert len(left) > 100_000
    assert float(left.mean()) == pytest.approx(0, abs=0.02)
    assert float(left.square().mean()) == pytest.approx(1, rel=0.03)


def test_timesteps_cover_the_schedule_and_half_of_them_its_noisiest_part(given) -> None:
    t = torch.cat([call["t"][:, 0] for call in given[1]])
    assert len(t) > 1500 and int(t.min()) < 30 and int(t.max()) > 990 and int(t.max()) <= 999
    for low in range(0, 1000, 100):
        share = 0.1 * (1 - NOISY_SHARE) + (0.2 * NOISY_SHARE if low >= 500 else 0)
        assert _within(int(((t >= low) & (t < low + 100)).sum()), len(t), share), low


def test_some_captions_are_dropped_and_batches_have_their_shapes(given) -> None:
    prior, calls, _ = given
    empty = prior.encode_prompt("").detach()
    dropped = torch.cat([(call["context"] - empty).abs().amax((1, 2)) < 0.02 for call in calls])
    assert DROP_CAPTION == 0.1 and _within(int(dropped.sum()), len(dropped), 0.1)
    assert float((prior.encode_prompt("a red car") - empty).detach().abs().max()) > 0.02
    shapes = [tuple(call["t"].shape) for call in calls]
    assert set(shapes) == {(32, 1), (8, 4), (4, 8)}
    assert _within(shapes.count((32, 1)), STEPS, SINGLE_VIEW_SHARE)
    assert _within(shapes.count((4, 8)), STEPS, ALL_VIEWS_SHARE)


def test_losses_are_logged_by_bands_of_timesteps(given) -> None:
    _, calls, losses = given
    for call, values in list(zip(calls, losses, strict=True))[:20]:
        t = call["t"][:, 0]
        there = {name for name, low, high in BANDS if ((t >= low) & (t < high)).any()}
        assert values.keys() == {"loss", "draft", *there}


def test_two_objects_are_learned_with_their_captions_and_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invert3d_ns.training.denoiser.DECAY_SHARE", 0.3)  # few steps: long at the peak
    # From orbits of their own, cameras tell the objects apart: the longer the training, the less is left to captions.
    data = two_objects(one_orbit=True)
    prior = tiny_denoiser(tmp_path, data)
    latents = prior.encode_images(data.images(slice(None)))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(9))
    captions = [options[0] for options in data.captions]
    right = data.cameras()

    @torch.no_grad()
    def loss(texts: list[str], cameras: torch.Tensor) -> float:
        values = [
            prior.prediction_loss(latents, noise, torch.full((2,), t), prior.encode_prompt(texts), cameras)
            for t in (900, 995)
        ]
        return float(sum(values)) / 2

    before = loss(captions, right)
    train_denoiser(tmp_path, prior, TrainingSets(data), 160, images=8, lr=2e-2)
    after = loss(captions, right)
    figures = f"{before=:.3f} {after=:.3f} swapped={loss(captions[::-1], right):.3f} "
    figures += f"rolled={loss(captions, right.roll(2, 1)):.3f} empty={loss(['', ''], right):.3f}"
    assert after < 0.5 * before, figures
    # One that did not listen would have the same loss: trainings of three seeds end at 8, 3 and 3.5 times, or more.
    assert loss(captions[::-1], right) > 2 * after, figures
    assert loss(captions, right.roll(2, 1)) > 1.5 * after, figures
    assert loss(["", ""], right) > 1.5 * after, figures


def test_latents_are_encoded_once_and_read_by_a_training_that_is_resumed(tmp_path: Path, data: WorldViews) -> None:
    model = tiny_autoencoder(data)
    objects, views = torch.tensor([2, 0, 2]), torch.tensor([[0, 3], [1, 1], [7, 2]])
    first = LatentCache(tmp_path, data, model, 8, 4).encoded(objects, views)
    with torch.no_grad():
        expected = model.encode(data.images([2])[0, [0, 3]] * 2 - 1, return_dict=False)[0].mean
    torch.testing.assert_close(first[0], expected, rtol=0.05, atol=0.05)
    # Whichever views ask first, an object's latents are the same to the bit.
    other = LatentCache(tmp_path / "other", data, model, 8, 4)
    other.encoded(torch.tensor([2, 1]), torch.tensor([[5], [6]]))
    torch.testing.assert_close(other.encoded(objects, views), first, rtol=0, atol=0)
    # A GPU is given blocks of objects; they lie where one by one they would.
    together = LatentCache(tmp_path / "together", data, model, 8, 4)
    together._keep([0, 1, 2])
    torch.testing.assert_close(together.encoded(objects, views), first, rtol=2e-3, atol=2e-3)
    assert together.known[:3].all() and not together.known[3:].any()
    # Another encoder has latents of its own, another decoder has not.
    torch.nn.init.zeros_(model.decoder.conv_in.weight)
    resumed = LatentCache(tmp_path, data, model, 8, 4)
    assert resumed.known.sum() == 2
    torch.nn.init.zeros_(model.encoder.conv_in.weight)
    assert not LatentCache(tmp_path, data, model, 8, 4).known.any()
    model.encode = None  # type: ignore[method-assign, assignment]
    torch.testing.assert_close(resumed.encoded(objects, views), first, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["latents-1*.npy", "latents-known-*.npy"])
def test_latents_whose_files_were_lost_or_cut_short_are_encoded_again(
    name: str, tmp_path: Path, data: WorldViews
) -> None:
    model = tiny_autoencoder(data)
    objects, views = torch.tensor([2, 0]), torch.tensor([[0], [1]])
    first = LatentCache(tmp_path, data, model, 8, 4).encoded(objects, views)
    path = next(tmp_path.glob(name))
    path.write_bytes(path.read_bytes()[:-3])
    torch.testing.assert_close(LatentCache(tmp_path, data, model, 8, 4).encoded(objects, views), first, rtol=0, atol=0)
    next(tmp_path.glob(name)).unlink()
    torch.testing.assert_close(LatentCache(tmp_path, data, model, 8, 4).encoded(objects, views), first, rtol=0, atol=0)


def test_objects_with_patterns_are_drawn_more_often_than_they_are_in_the_set(tmp_path: Path) -> None:
    data = world_views(tmp_path, 40, seed=3, size=16)
    weights = object_weights(data)
    patterned = data.patterns > 0
    assert 0 < patterned.sum() < 40 and len(set(weights[patterned].tolist())) == 1
    assert float(weights[patterned].sum() / weights.sum()) == pytest.approx(PATTERNED_SHARE)
    data.patterns.zero_()
    assert len(set(object_weights(data).tolist())) == 1


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


def test_schedule_ends_in_pure_noise_and_predicts_v() -> None:
    scheduler = build_scheduler()
    assert scheduler.alphas_cumprod[-1] == 0.0
    assert scheduler.config.prediction_type == "v_prediction"
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999


def test_a_prior_in_training_is_not_frozen(data: WorldViews, tmp_path: Path) -> None:
    prior = tiny_denoiser(tmp_path, data)
    assert isinstance(prior, MultiViewPrior) and not prior.frozen
    assert all(parameter.requires_grad for parameter in prior.unet.parameters())
