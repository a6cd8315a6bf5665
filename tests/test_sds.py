"""Score distillation against its formula, written out without autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.guidance.sds import ScoreDistillation, ScoreDistillationConfig, timestep_range
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.scenes.cameras import camera_condition


@pytest.fixture(params=["tiny_prior", "tiny_v_prior"])
def prior(request):
    return request.getfixturevalue(request.param)


def words(prior) -> Conditions:
    with torch.no_grad():
        return Conditions.of_prompt(prior, "a red cube", guidance_scale=3.0, guidance_rescale=0.0)


def views(groups: int = 2):
    images = torch.rand(groups, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    return images, camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0)).expand(groups, 4, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_by_hand(prior, noisy: Tensor, t: int, context: Tensor, cameras: Tensor) -> Tensor:
    """The noise in one group's latents from the bare UNet, by the definition of what it predicts."""
    out = prior.unet(
        noisy,
        torch.full((len(noisy),), t),
        context,
        class_labels=cameras,
        cross_attention_kwargs={"num_views": len(noisy)},
    ).sample
    a = prior.alphas_cumprod[t]
    return out if prior.info.prediction_type == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * noisy


@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "balanced"])
def test_gradient_on_the_latents_is_equation_8(prior, weighting, monkeypatch) -> None:
    config = ScoreDistillationConfig(weighting=weighting)
    condition = words(prior)
    images, cameras = views()
    latents = prior.encode_images(images).detach().requires_grad_()
    monkeypatch.setattr(prior, "encode_images", lambda _: latents)
    ScoreDistillation(prior, condition, config).loss(images, cameras, seeded(), progress=0.25).backward()

    generator = seeded()
    low, high = timestep_range(config, 0.25, prior.num_timesteps)
    t = torch.randint(low, high + 1, (2,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    with torch.no_grad():
        for group in range(2):
            a = prior.alphas_cumprod[t[group]]
            noisy = a.sqrt() * latents[group] + (1 - a).sqrt() * noise[group]
            positive, negative = (
                noise_by_hand(prior, noisy, int(t[group]), c, cameras[group])
                for c in (condition.positive, condition.negative)
            )
            guided = negative + 3.0 * (positive - negative)
            weight = {"sigma2": 1 - a, "uniform": torch.tensor(1.0), "balanced": a.sqrt() * (1 - a)}[weighting]
            expected = weight * (guided - noise[group]) / 2
            torch.testing.assert_close(latents.grad[group], expected, rtol=1e-3, atol=1e-5)
            assert expected.abs().max() > 1e-3


def test_the_gradient_passes_the_encoder_and_stops_at_the_denoiser(prior) -> None:
    images, cameras = views(1)
    condition = replace(words(prior), positive=words(prior).positive.clone().requires_grad_())
    images.requires_grad_()
    guidance = ScoreDistillation(prior, condition)
    guidance.loss(images, cameras, seeded()).backward()
    latents = prior.encode_images(images)
    t, noise = guidance.draw(latents.detach(), seeded())
    (expected,) = torch.autograd.grad(latents, images, guidance.gradient(latents.detach(), noise, t, cameras))
    torch.testing.assert_close(images.grad, expected, rtol=1e-3, atol=1e-6)
    assert images.grad is not None and images.grad.abs().max() > 0
    assert condition.positive.grad is None


def test_one_timestep_for_a_group_and_the_generator_decides_all(tiny_v_prior) -> None:
    guidance = ScoreDistillation(tiny_v_prior, words(tiny_v_prior))
    latents = torch.zeros(3, 4, 4, 4, 4)
    t, noise = guidance.draw(latents, seeded(5))
    assert t.shape == (3,) and len(set(t.tolist())) == 3 and noise.shape == latents.shape
    again, other = guidance.draw(latents, seeded(5)), guidance.draw(latents, seeded(6))
    assert torch.equal(again[0], t) and torch.equal(again[1], noise) and not torch.equal(other[1], noise)


def test_timesteps_are_annealed_within_their_bounds(tiny_v_prior) -> None:
    config = ScoreDistillationConfig(t_min=0.1, t_max=0.9, t_max_end=0.3)
    assert timestep_range(config, 0.0, 1000) == (100, 899)
    assert timestep_range(config, 0.5, 1000) == (100, 599)
    assert timestep_range(config, 1.0, 1000) == timestep_range(config, 7.0, 1000) == (100, 299)
    assert timestep_range(ScoreDistillationConfig(t_min=0.0, t_max=1.0, t_max_end=1.0), 0.5, 10) == (0, 9)
    guidance = ScoreDistillation(tiny_v_prior, words(tiny_v_prior), config)
    drawn = guidance.draw(torch.zeros(500, 1, 1, 1, 1), seeded(), progress=1.0)[0]
    assert drawn.min() >= 100 and drawn.max() <= 299 and drawn.max() - drawn.min() > 150


def test_guidance_of_the_config_takes_the_place_of_the_conditions(tiny_v_prior) -> None:
    condition = words(tiny_v_prior)
    images, cameras = views(1)
    losses = [
        ScoreDistillation(tiny_v_prior, condition, ScoreDistillationConfig(guidance_scale=g)).loss(
            images, cameras, seeded()
        )
        for g in (None, 3.0, 30.0)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert condition.guidance_scale == 3.0


@pytest.mark.parametrize(
    "options",
    [{"t_min": -0.1}, {"t_min": 0.6}, {"t_max": 0.4}, {"t_max": 1.2}, {"t_max_end": float("nan")}],
)
def test_timesteps_out_of_range_are_refused(tiny_v_prior, options) -> None:
    with pytest.raises(InputError, match="timesteps"):
        ScoreDistillation(tiny_v_prior, words(tiny_v_prior), ScoreDistillationConfig(**options))


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_guidance_out_of_range_is_refused(tiny_v_prior, scale) -> None:
    with pytest.raises(InputError, match="guidance scale"):
        ScoreDistillation(tiny_v_prior, words(tiny_v_prior), ScoreDistillationConfig(guidance_scale=scale))
