"""View-dependent prompts and Perp-Neg, against the bare UNet and the formulas of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from ldm_checkpoints import assert_one_line
from single_view import tiny_sd_unet, write_sd_folder

from invert3d_ns.base.errors import InputError
from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.prior.checkpoints import open_source
from invert3d_ns.prior.view_prompts import VIEWS, ViewPrompts, neighbor_weights, perpendicular, view_angles
from invert3d_ns.scenes.cameras import camera_condition

T = torch.tensor([600])


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sd") / "sd"
    return open_source(write_sd_folder(folder, scheduler={"prediction_type": request.param}))


@pytest.fixture
def noisy() -> torch.Tensor:
    return torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def cameras_at(*azimuths: float, elevation: float = 10.0) -> torch.Tensor:
    return camera_condition(torch.tensor(azimuths), torch.tensor(elevation))[None]


@torch.no_grad()
def bare(prior, noisy: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """What diffusers' own UNet says of one view."""
    return tiny_sd_unet()(noisy[None], T[0], context[None], return_dict=False)[0][0]


# Where a view is


def test_angles_of_cameras() -> None:
    azimuths = torch.tensor([0.0, 45.0, 90.0, 179.0, -45.0, -90.0, 270.0])
    elevations = torch.tensor([0.0, 10.0, -30.0, 80.0, 45.0, 60.0, -89.0])
    found = view_angles(camera_condition(azimuths, elevations))
    torch.testing.assert_close(found[0], torch.tensor([0.0, 45.0, 90.0, 179.0, -45.0, -90.0, -90.0]), rtol=0, atol=1e-2)
    torch.testing.assert_close(found[1], elevations, rtol=0, atol=1e-2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_contexts_are_mixed_by_azimuth(prior, sign: float) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug")
    front, side, back, overhead = (prior.encode_prompt(f"a mug, {view} view")[0] for view in VIEWS)
    azimuths = sign * torch.tensor([0.0, 30.0, 90.0, 135.0, 180.0])
    mixed = prompts.view_contexts(camera_condition(azimuths, torch.tensor(59.0)))
    expected = torch.stack([front, (2 * front + side) / 3, side, (side + back) / 2, back])
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    above = prompts.view_contexts(camera_condition(azimuths, torch.tensor(61.0)))
    assert torch.equal(above, overhead.expand_as(above))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_weights(sign: float) -> None:
    """threestudio's constants, which are rounded: (4, 0.5, -2.426), (1, 0.5, -0.606) and (1, 0.5, +0.967)."""
    weights = neighbor_weights(cameras_at(0.0, *(sign * a for a in (45.0, 90.0, 135.0, 180.0))))
    halfway = math.exp(-0.25)
    front = [0.0, 4 * halfway - 2.426, 4 - 2.426, halfway + 0.967, 1 + 0.967]
    side = [4 - 2.426, 4 * halfway - 2.426, 0.0, halfway - 0.606, 1 - 0.606]
    torch.testing.assert_close(weights["front"][0], torch.tensor(front), rtol=0, atol=2e-3)
    torch.testing.assert_close(weights["side"][0], torch.tensor(side), rtol=0, atol=2e-3)
    assert weights["front"][0, 0] == 0 and weights["side"][0, 2] == 0
    above = neighbor_weights(cameras_at(0.0, 45.0, 180.0, elevation=75.0))
    assert not any(weight.any() for weight in above.values())


def test_weights_have_no_steps() -> None:
    weights = neighbor_weights(cameras_at(*torch.linspace(-180, 180, 721).tolist()))
    for weight in weights.values():
        assert weight[0].diff().abs().max() < 0.02 and (weight >= 0).all()


# Perp-Neg


def test_perpendicular_is_perpendicular_for_each_view() -> None:
    generator = torch.Generator().manual_seed(0)
    direction, to = (torch.randn(2, 3, 4, 8, 8, generator=generator) for _ in range(2))
    found = perpendicular(direction, to)
    assert ((found * to).sum((-3, -2, -1))).abs().max() < 1e-3
    torch.testing.assert_close(perpendicular(2 * to, to), torch.zeros_like(to), rtol=0, atol=1e-5)
    torch.testing.assert_close(perpendicular(direction, torch.zeros_like(to)), direction)
    assert perpendicular(direction.half(), to.half()).dtype == torch.float16


@torch.no_grad()
def test_prediction_is_that_of_the_bare_unet_and_the_formula(prior, noisy) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a red cube", negative_prompt="a cat", guidance_scale=5.0)
    azimuths = (20.0, 90.0, -135.0, 180.0)
    cameras = cameras_at(*azimuths)
    predicted = prompts.predict(prior, noisy, T, cameras)
    weights, own, negative = neighbor_weights(cameras), prompts.view_contexts(cameras)[0], prompts.negative[0]
    for view in range(4):
        latent = noisy[0, view]
        without = bare(prior, latent, negative)
        towards = bare(prior, latent, own[view]) - without
        away = torch.zeros_like(towards)
        for name in ("front", "side"):
            change = bare(prior, latent, prompts.contexts[VIEWS.index(name)]) - without
            share = (change * towards).sum() / towards.square().sum()
            away += weights[name][0, view] * (change - share * towards)
        expected = without + 5.0 * (towards - away)
        torch.testing.assert_close(predicted[0, view], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_what_is_added_is_orthogonal_to_the_views_own_direction(prior, noisy) -> None:
    with_it = ViewPrompts.of_prompt(prior, "a red cube", guidance_scale=3.0)
    without = ViewPrompts.of_prompt(prior, "a red cube", guidance_scale=3.0, perp_neg=False)
    cameras = cameras_at(10.0, 80.0, 120.0, -170.0)
    plain = without.predict(prior, noisy, T, cameras)
    added = with_it.predict(prior, noisy, T, cameras) - plain
    towards = (plain - with_it.unguided().predict(prior, noisy, T, cameras)) / 3.0
    lengths = added.flatten(2).norm(dim=-1), towards.flatten(2).norm(dim=-1)
    assert (lengths[0] > 1e-4).all() and (lengths[1] > 1e-4).all()
    cosine = (added * towards).flatten(2).sum(-1) / (lengths[0] * lengths[1])
    assert cosine.abs().max() < 1e-2


@torch.no_grad()
def test_without_guidance_and_perp_neg_it_is_the_positive_prediction(prior, noisy) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug", guidance_scale=1.0, perp_neg=False)
    cameras = cameras_at(0.0, 90.0, 180.0, 270.0)
    expected = prior.predict(noisy, T, prompts.view_contexts(cameras), cameras)
    assert torch.equal(prompts.predict(prior, noisy, T, cameras), expected)
    torch.testing.assert_close(expected[0, 2], bare(prior, noisy[0, 2], prior.encode_prompt("a mug, back view")[0]))
    noise = prior.noise_from(expected, noisy, T)
    torch.testing.assert_close(prompts.predict_noise(prior, noisy, T, cameras), noise)


@torch.no_grad()
def test_views_do_not_depend_on_each_other(prior, noisy) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug", guidance_scale=4.0, guidance_rescale=0.7)
    cameras, changed = cameras_at(0.0, 70.0, 100.0, 180.0), noisy.clone()
    changed[0, 3] += 1
    before, after = (prompts.predict(prior, x, T, cameras) for x in (noisy, changed))
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=1e-4, atol=1e-5)
    assert (after[:, 3] - before[:, 3]).abs().max() > 1e-2
    alone = prompts.predict(prior, noisy[:, 1:2], T, cameras[:, 1:2])
    torch.testing.assert_close(alone, before[:, 1:2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("azimuths", "elevation", "guidance", "perp_neg", "conditions"),
    [
        ((45.0, 135.0), 0.0, 7.5, True, 4),
        ((0.0, 0.0), 0.0, 7.5, True, 3),  # the side only
        ((90.0, -90.0), 0.0, 7.5, True, 3),  # the front only
        ((45.0, 90.0), 80.0, 7.5, True, 2),  # none from overhead
        ((45.0, 135.0), 0.0, 7.5, False, 2),
        ((45.0, 135.0), 0.0, 1.0, False, 1),
        ((45.0, 90.0), 80.0, 1.0, True, 1),
        ((45.0, 135.0), 0.0, 1.0, True, 4),
    ],
)
def test_one_batch_and_no_condition_that_counts_nothing(
    prior, noisy, monkeypatch, azimuths, elevation, guidance, perp_neg, conditions
) -> None:
    batches: list[int] = []
    forward = prior.unet.forward
    monkeypatch.setattr(prior.unet, "forward", lambda x, *a, **k: batches.append(len(x)) or forward(x, *a, **k))
    prompts = ViewPrompts.of_prompt(prior, "a mug", guidance_scale=guidance, perp_neg=perp_neg)
    prompts.predict(prior, noisy[:, :2], T, cameras_at(*azimuths, elevation=elevation))
    assert batches == [2 * conditions]


# As a noise predictor


@torch.no_grad()
def test_unguided_is_the_negative_prompt_alone_from_everywhere(prior, noisy) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug", negative_prompt="blurry")
    plain, cameras = prompts.unguided(), cameras_at(0.0, 33.0, 120.0, 180.0)
    assert plain.guidance_scale == 1.0 and not plain.perp_neg
    expected = prior.predict(noisy, T, prior.encode_prompt("blurry"), cameras)
    torch.testing.assert_close(plain.predict(prior, noisy, T, cameras), expected, rtol=1e-4, atol=1e-5)


def test_guidance_is_the_priors_and_can_be_changed(prior) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug")
    assert prompts.guidance_scale == prior.info.guidance_scale and prompts.perp_neg
    stronger = prompts.with_guidance(30.0)
    assert (stronger.guidance_scale, prompts.guidance_scale) == (30.0, prior.info.guidance_scale)
    assert stronger.with_guidance(2.0, rescale=0.5).guidance_rescale == 0.5 and stronger.perp_neg


def test_distillation_and_sampling_take_view_prompts(prior) -> None:
    prompts = ViewPrompts.of_prompt(prior, "a mug")
    cameras = cameras_at(0.0, 120.0, 240.0)
    guidance = ScoreDistillationConfig(guidance_scale=20.0).setup(prior=prior, conditions=prompts)
    images = torch.rand(1, 3, 3, 64, 64, requires_grad=True)
    guidance.loss(images, cameras, torch.Generator().manual_seed(0))["distillation"].backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0
    views = prior.sample(prompts, cameras, steps=2)
    assert views.shape == (1, 3, 3, 64, 64) and views.isfinite().all()
    with pytest.raises(InputError, match="drafts no views"):
        prior.sample(prompts, cameras, steps=2, strength=0.5)


# Bad input


def test_priors_that_take_cameras_are_refused(tiny_prior) -> None:
    with pytest.raises(InputError) as error:
        ViewPrompts.of_prompt(tiny_prior, "a mug")
    assert_one_line(error, "knows views by their cameras", "Conditions")


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt(prior, prompt: str) -> None:
    with pytest.raises(InputError, match="empty"):
        ViewPrompts.of_prompt(prior, prompt)


def test_too_long_a_prompt(prior) -> None:
    with pytest.raises(InputError, match="takes 75, so these words would be cut"):
        ViewPrompts.of_prompt(prior, "red " * 80)
