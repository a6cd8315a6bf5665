"""Sampling and its inversion: against diffusers' schedulers, against a network that is right, there and back."""

from __future__ import annotations

import math

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.sampling import (
    count_steps,
    ddim_invert,
    ddim_step,
    denoise,
    make_scheduler,
    sampling_timesteps,
    start_noise,
)
from invert3d_ns.scenes.cameras import camera_condition

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]


@pytest.fixture(params=["tiny_prior", "tiny_v_prior"])
def prior(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    peak = expected.max() - expected.min()
    return 10 * math.log10((peak**2 / (found - expected).square().mean()).item())


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_sampling_starts_at_pure_noise_where_the_prior_has_it(tiny_v_prior, sampler) -> None:
    assert sampling_timesteps(tiny_v_prior, 10, sampler=sampler)[0] == 999


@pytest.mark.parametrize(("strength", "count"), [(1.0, 10), (0.6, 6), (0.04, 1), (0.0, 1)])
def test_strength_leaves_the_last_steps(prior, strength: float, count: int) -> None:
    assert count_steps(10, strength) == count
    whole = sampling_timesteps(prior, 10)
    seen = []

    def predict(latents, t):
        seen.append(t)
        return torch.zeros_like(latents)

    noise = start_noise(prior, 4, [0])
    denoise(prior, noise, predict, steps=10, strength=strength, start=lambda t: noise)
    assert torch.cat(seen).tolist() == whole[10 - count :].tolist()
    assert sampling_timesteps(prior, 10, strength=strength).tolist() == whole[10 - count :].tolist()


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_sampling_recovers_the_latents_that_a_perfect_network_knows(prior, sampler) -> None:
    truth = 3 * randn(1, 4, 4, 4, 4, seed=5)  # beyond [-1, 1], where a clipping sampler would fail

    def perfect(noisy, t):
        alpha_bar = prior.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if prior.info.prediction_type == "epsilon":
            return (noisy - signal * truth) / sigma
        return (signal * noisy - truth) / sigma

    latents = denoise(prior, randn(1, 4, 4, 4, 4), perfect, steps=8, sampler=sampler)
    # Where the schedule's first step is not noise-free, DDIM ends one step short of clean.
    torch.testing.assert_close(latents, truth, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("steps", [7, 20, 30])
def test_steps_down_are_those_of_diffusers(prior, steps: int) -> None:
    """From pure noise, zero terminal signal-to-noise ratio included, to the end of the schedule, and in any batch."""
    scheduler = make_scheduler(prior)
    scheduler.set_timesteps(steps)
    latents = randn(2, 4, 4, 4, 4)
    for index, t in enumerate(scheduler.timesteps):
        prediction = randn(2, 4, 4, 4, 4, seed=index)
        expected = scheduler.step(prediction, t, latents, return_dict=False)[0]
        at = t.expand(2)
        found = ddim_step(prior, latents, prediction, at, at - 1000 // steps)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        latents = expected


def test_implicit_steps_undo_explicit_ones(prior) -> None:
    latents, prediction = randn(2, 4, 4, 4, 4), randn(2, 4, 4, 4, 4, seed=1)
    for noisy, clean in ((999, 932), (500, 450), (32, -1)):
        at, to = torch.tensor([noisy, noisy]), torch.tensor([clean, clean])
        down = ddim_step(prior, latents, prediction, at, to)
        assert (down - latents).abs().max() > 0.01
        up = ddim_step(prior, down, prediction, to, at, predicted_at=at)
        torch.testing.assert_close(up, latents, rtol=1e-3, atol=1e-4)


def test_inverted_latents_lead_back(prior) -> None:
    context = prior.encode_prompt("a red cube")
    latents, seen = randn(2, 4, 4, 4, 4), []

    def predict(x, t):
        return prior.predict(x, t, context.expand(2, -1, -1), CAMERAS.expand(2, -1, -1))

    with torch.no_grad():
        found = ddim_invert(prior, latents, predict, steps=10, strength=0.7, callback=lambda i, x: seen.append(x))
        path = []
        denoise(
            prior,
            found[0],
            predict,
            steps=10,
            strength=0.7,
            start=lambda t: found[0],
            callback=lambda i, x: path.append(x),
        )
    assert len(found) == 7 and [x is y for x, y in zip(seen, found[::-1], strict=True)] == [True] * 7
    assert psnr(path[-1], latents) > 45 and psnr(found[0], latents) < 30
    # Each of them lies on the way back.
    assert all(psnr(there, back) > 45 for there, back in zip(found[1:], path, strict=False))


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.6), (20, 1.0), (8, 0.6)])
def test_real_views_survive_the_way_to_noise_and_back(steps: int, strength: float) -> None:
    from invert3d_ns.metrics.inversion_quality import renderer
    from invert3d_ns.prior.checkpoints import load_prior
    from invert3d_ns.scenes.assets import DEMO_SCENE, read_object
    from invert3d_ns.words.bank import render_views

    prior = load_prior("bundled", "cpu")
    azimuths, elevations = torch.arange(4) * 90.0 + 20.0, torch.full((4,), 15.0)
    views = render_views(renderer(read_object(DEMO_SCENE)[0]), azimuths, elevations, prior.info.image_size)
    cameras = camera_condition(azimuths, elevations)[None]
    with torch.no_grad():
        latents = prior.encode_images(views)[None]
        conditions = Conditions.of_prompt(prior, "an object", guidance_scale=1.0)

        def predict(x, t):
            return conditions.predict(prior, x, t, cameras)

        found = ddim_invert(prior, latents, predict, steps=steps, strength=strength)
        back = denoise(prior, found[0], predict, steps=steps, strength=strength, start=lambda t: found[0])
    assert psnr(back, latents) > (50 if steps == 20 else 40)
    # What was found is noise, and not the views.
    assert psnr(found[0], latents) < 25


def test_one_step_from_pure_noise_cannot_be_inverted(tiny_v_prior) -> None:
    info = tiny_v_prior.info
    latents = randn(1, info.num_views, info.latent_channels, info.latent_size, info.latent_size)
    with pytest.raises(InputError, match="take 2 or more steps"):
        ddim_invert(tiny_v_prior, latents, lambda noisy, t: noisy, steps=1)
    assert all(found.isfinite().all() for found in ddim_invert(tiny_v_prior, latents, lambda noisy, t: noisy, steps=2))


@pytest.mark.parametrize(("sampler", "most"), [("ddim", 500), ("dpm++", 499)])
def test_leading_timesteps_begin_at_noise_or_are_refused(tiny_prior, sampler, most: int) -> None:
    assert sampling_timesteps(tiny_prior, most, sampler=sampler)[0] == 999
    assert len(sampling_timesteps(tiny_prior, strength=1e-4, sampler=sampler)) == 1
    for steps in (most + 1, 999, 1000):
        with pytest.raises(InputError, match=f"{steps} denoising steps cannot be taken; give 1 to {most}"):
            sampling_timesteps(tiny_prior, steps, sampler=sampler)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_trailing_timesteps_may_be_all(tiny_v_prior, sampler) -> None:
    assert sampling_timesteps(tiny_v_prior, 1000, sampler=sampler)[0] == 999
    with pytest.raises(InputError, match="give 1 to 1000"):
        sampling_timesteps(tiny_v_prior, 1001, sampler=sampler)


def test_almost_pure_noise_cannot_be_inverted_in_one_step_either(tiny_v_prior, monkeypatch) -> None:
    """Diffusers' Euler and DPM schedulers end a schedule of zero signal at 2**-24."""
    almost = tiny_v_prior.alphas_cumprod.clone()
    almost[-1] = 2**-24
    monkeypatch.setitem(tiny_v_prior._buffers, "alphas_cumprod", almost)
    info = tiny_v_prior.info
    latents = randn(1, info.num_views, info.latent_channels, info.latent_size, info.latent_size)
    with pytest.raises(InputError, match="take 2 or more steps"):
        ddim_invert(tiny_v_prior, latents, lambda noisy, t: noisy, steps=1)
