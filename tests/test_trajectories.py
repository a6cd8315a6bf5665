"""Guidance along deterministic trajectories (editing trajectories, interval scores) against the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr
from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS, guidance_name
from invert3d_ns.guidance.ge3d import EditingTrajectoriesConfig
from invert3d_ns.guidance.ism import IntervalScoreMatchingConfig
from invert3d_ns.guidance.trajectories import edit_along, start_noise, walk
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.sampling import ddim_step
from invert3d_ns.scenes.cameras import camera_condition


@pytest.fixture(params=["tiny_prior", "tiny_v_prior"])
def prior(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def cameras() -> Tensor:
    return camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0)).expand(2, 4, 16)


def words(prior, scale: float = 3.0) -> Conditions:
    with torch.no_grad():
        return Conditions.of_prompt(prior, "a red cube", negative_prompt="blurry", guidance_scale=scale)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_latents() -> Tensor:
    return torch.randn(2, 4, 4, 4, 4, generator=seeded(7))


def at(t: int) -> Tensor:
    return torch.full((2,), t)


# Editing trajectories


def test_one_jump_is_the_single_step_form(prior, cameras: Tensor) -> None:
    """n = 1: strength (z - DDIM(DDIM(x_0 -> t; negative) -> 0; guided)), by the coefficients of DDIM written out."""
    conditions, z, t = words(prior), some_latents(), 300
    guidance = EditingTrajectoriesConfig(jumps=1, strength=0.5, guidance_scale=None).setup(
        prior=prior, conditions=conditions
    )
    noise = start_noise(z, seeded(3), 0.1)
    gradient, report = guidance.trajectory_error(z, noise, [0, t], cameras)
    a0, at_t = prior.alphas_cumprod[0], prior.alphas_cumprod[t]
    with torch.no_grad():
        x0 = a0.sqrt() * z + (1 - a0).sqrt() * noise
        below = conditions.unguided().predict_noise(prior, x0, at(0), cameras)
        xt = at_t.sqrt() * (x0 - (1 - a0).sqrt() * below) / a0.sqrt() + (1 - at_t).sqrt() * below
        above = conditions.predict_noise(prior, xt, at(t), cameras)
        edited = a0.sqrt() * (xt - (1 - at_t).sqrt() * above) / at_t.sqrt() + (1 - a0).sqrt() * above
    torch.testing.assert_close(report.target_latents, edited, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, 0.5 * (z - edited), rtol=1e-3, atol=1e-4)
    assert gradient.abs().max() > 1e-2
    # Up and down there is one line: without the first noise, z - x~_0 is a difference of two noise predictions.
    torch.testing.assert_close(edited - x0, _ddim_factor(a0, at_t) * (above - below), rtol=1e-3, atol=2e-4)


def _ddim_factor(a0: Tensor, at_t: Tensor) -> Tensor:
    return (1 - a0).sqrt() - ((1 - at_t) * a0 / at_t).sqrt()


def test_every_node_pulls_with_its_weight(prior, cameras: Tensor) -> None:
    conditions, z, nodes = words(prior), some_latents(), [0, 100, 260, 400]
    config = EditingTrajectoriesConfig(jumps=3, strength=1.0, guidance_scale=None)
    guidance = config.setup(prior=prior, conditions=conditions)
    noise = torch.zeros_like(z)
    gradient, _ = guidance.trajectory_error(z, noise, nodes, cameras, progress=0.3)
    up, down = [prior.add_noise(z, noise, at(0))], []
    with torch.no_grad():
        for here, there in ((0, 100), (100, 260), (260, 400)):
            plain = conditions.unguided().predict(prior, up[-1], at(here), cameras)
            up.append(ddim_step(prior, up[-1], plain, at(here), at(there)))
        x = up[-1]
        for here, there in ((400, 260), (260, 100), (100, 0)):
            x = ddim_step(prior, x, conditions.predict(prior, x, at(here), cameras), at(here), at(there))
            down.insert(0, x)
    weights = config.coefficients(3, 0.3)
    expected = weights[0] * (z - down[0]) + weights[1] * (up[1] - down[1]) + weights[2] * (up[2] - down[2])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    assert float(weights.sum()) == pytest.approx(1.0) and weights.min() > 0.05


def test_the_way_up_and_down_without_guidance_comes_back(tiny_v_prior, cameras: Tensor) -> None:
    plain = words(tiny_v_prior).unguided()
    z = some_latents()
    nodes = [0, 40, 80, 120, 160, 200, 240]
    up, _ = walk(tiny_v_prior, plain, z, nodes, cameras)
    down, _ = walk(tiny_v_prior, plain, up[-1], nodes[::-1], cameras)
    span = float(z.max() - z.min())
    assert psnr(down[-1].flatten(0, 1)[:, :3] / span, z.flatten(0, 1)[:, :3] / span) > 35
    # With words it does not: that is what pulls.
    edited, _ = walk(tiny_v_prior, words(tiny_v_prior, 20.0), up[-1], nodes[::-1], cameras)
    assert (edited[-1] - z).square().mean() > 5 * (down[-1] - z).square().mean()


def test_coefficients_are_those_of_the_official_code() -> None:
    config = EditingTrajectoriesConfig()
    assert [round(float(w), 3) for w in config.coefficients(6, 0.0)] == [0.004, 0.022, 0.076, 0.188, 0.323, 0.387]
    middle = [0.083, 0.171, 0.245, 0.246, 0.171, 0.083]
    assert config.coefficients(6, 0.5).tolist() == pytest.approx(middle, abs=2e-3)
    assert config.coefficients(6, 1.0).tolist() == pytest.approx(config.coefficients(6, 0.0).flip(0).tolist())
    assert config.coefficients(4, 0.2).sum() == pytest.approx(1.0), "fewer jumps share the weight of all"
    assert replace(config, balance=False).coefficients(4, 0.2).tolist() == [0.25] * 4


def test_nodes_are_random_jumps_that_shorten() -> None:
    config = EditingTrajectoriesConfig()
    for progress, shortest, longest, most in ((0.0, 60, 80, 480), (0.5, 45, 65, 390), (1.0, 30, 50, 300)):
        for seed in range(20):
            nodes = config.nodes(1000, seeded(seed), progress)
            jumps = torch.tensor(nodes).diff()
            assert nodes[0] == 0 and nodes[-1] <= most and 3 <= len(jumps) <= 6
            assert jumps.min() >= shortest and jumps.max() <= longest
    tops = torch.tensor([config.nodes(1000, seeded(seed), 0.0)[-1] for seed in range(300)]).float()
    assert 405 < tops.mean() < 430, "ALGORITHMS: 417 at the start"
    assert config.nodes(1000, seeded(1)) == config.nodes(1000, seeded(1)) != config.nodes(1000, seeded(2))
    tight = EditingTrajectoriesConfig(jump=(0.3, 0.3), jump_end=(0.3, 0.3), max_step=0.3, max_step_end=0.3)
    assert tight.nodes(10, seeded()) == [0, 3]


def test_the_loss_is_the_gradient_through_the_encoder(prior, cameras: Tensor) -> None:
    images = torch.rand(2, 4, 3, 32, 32, generator=seeded(3)).requires_grad_()
    guidance = EditingTrajectoriesConfig(jumps=2).setup(prior=prior, conditions=words(prior))
    guidance.loss(images, cameras, seeded(5), progress=0.5)["distillation"].backward()
    generator = seeded(5)
    latents = prior.encode_images(images)
    nodes = guidance.config.nodes(prior.num_timesteps, generator, 0.5)
    noise = start_noise(latents.detach(), generator, 0.1)
    gradient, _ = guidance.trajectory_error(latents.detach(), noise, nodes, cameras, 0.5)
    (expected,) = torch.autograd.grad(latents, images, gradient / 2)
    torch.testing.assert_close(images.grad, expected, rtol=1e-3, atol=1e-6)
    assert guidance.report is not None and guidance.report.timesteps.tolist() == [nodes[-1]] * 2


def test_what_a_step_costs(tiny_v_prior, cameras: Tensor) -> None:
    """18 views of the UNet for each view that is rendered, at n = 6: 72 for four, where the official code takes 136."""
    counted: list[int] = []
    hook = tiny_v_prior.unet.register_forward_pre_hook(lambda module, given: counted.append(len(given[0])))
    images = torch.rand(1, 4, 3, 32, 32)
    guidance = EditingTrajectoriesConfig(jump=(0.05, 0.05)).setup(prior=tiny_v_prior, conditions=words(tiny_v_prior))
    guidance.loss(images, cameras[:1], seeded())
    hook.remove()
    assert sum(counted) == 72 and len(counted) == 12


def test_the_way_up_may_be_under_no_words(prior, cameras: Tensor, monkeypatch) -> None:
    z, nodes, conditions = some_latents(), [0, 200, 400], words(prior)
    gradients = {}
    for noising in ("negative", "empty"):
        guidance = EditingTrajectoriesConfig(jumps=2, noising=noising).setup(prior=prior, conditions=conditions)
        monkeypatch.setattr(prior, "encode_prompt", lambda *given: pytest.fail("words are encoded once, at the start"))
        gradients[noising] = guidance.trajectory_error(z, torch.zeros_like(z), nodes, cameras)[0]
        monkeypatch.undo()
    assert (gradients["negative"] - gradients["empty"]).abs().max() > 1e-4
    empty = prior.encode_prompt("")
    up, edited = edit_along(prior, Conditions(empty, empty), conditions, z, torch.zeros_like(z), nodes, cameras)
    assert len(up) == len(edited) == 3 and torch.equal(up[-1], edited[-1])
    weights = guidance.config.coefficients(2, 0.0)
    expected = 0.1 * (weights[0] * (z - edited[0]) + weights[1] * (up[1] - edited[1]))
    torch.testing.assert_close(gradients["empty"], expected, rtol=1e-4, atol=1e-6)


# Interval score matching


def test_an_interval_is_the_difference_of_two_predictions(prior, cameras: Tensor) -> None:
    conditions, z, s, t = words(prior), some_latents(), 300, 350
    guidance = IntervalScoreMatchingConfig().setup(prior=prior, conditions=conditions)
    noise = start_noise(z, seeded(3))
    gradient, report = guidance.interval_error(z, noise, s, t, cameras)
    assert guidance.nodes(s) == [0, 100, 300]
    plain = conditions.unguided()
    with torch.no_grad():
        below = walk(prior, plain, prior.add_noise(z, noise, at(0)), [0, 100, 300], cameras)[0][-1]
        first = plain.predict(prior, below, at(s), cameras)
        xt = ddim_step(prior, below, first, at(s), at(t))
        error = conditions.predict_noise(prior, xt, at(t), cameras) - prior.noise_from(first, below, at(s))
    a = prior.alphas_cumprod[t]
    weight = 0.1 * ((1 - a) / a).sqrt()
    torch.testing.assert_close(gradient, weight * error, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(report.weights, weight.expand(2), rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_an_interval_of_no_length_has_no_gradient_but_the_words(prior, cameras: Tensor) -> None:
    z, noise = some_latents(), torch.zeros(2, 4, 4, 4, 4)
    plain = words(prior).unguided()
    same = IntervalScoreMatchingConfig().setup(prior=prior, conditions=plain)
    assert same.interval_error(z, noise, 300, 300, cameras)[0].abs().max() < 1e-5
    guided = IntervalScoreMatchingConfig().setup(prior=prior, conditions=words(prior))
    assert guided.interval_error(z, noise, 300, 300, cameras)[0].abs().max() > 1e-4


def test_strides_end_at_the_interval() -> None:
    guidance = IntervalScoreMatchingConfig(stride=0.2)

    class Thousand:
        num_timesteps = 1000

    for s, expected in ((0, [0]), (50, [0, 50]), (200, [0, 200]), (201, [0, 1, 201]), (450, [0, 50, 250, 450])):
        from invert3d_ns.guidance.ism import IntervalScoreMatching

        matching = IntervalScoreMatching.__new__(IntervalScoreMatching)
        matching.config, matching.prior = guidance, Thousand()  # type: ignore[assignment]
        assert matching.nodes(s) == expected


def test_the_interval_and_the_greatest_timestep_warm_up() -> None:
    config = IntervalScoreMatchingConfig()
    assert [config.interval_steps(progress, 1000) for progress in (0.0, 0.15, 0.3, 1.0)] == [100, 75, 50, 50]
    assert config.timestep_range(0.0, 1000) == (20, 979)
    assert config.timestep_range(0.3, 1000) == config.timestep_range(1.0, 1000) == (20, 499)
    assert replace(config, warm_up=0.0).timestep_range(0.0, 1000) == (20, 499)


def test_the_loss_of_an_interval_reaches_the_views(prior, cameras: Tensor) -> None:
    images = torch.rand(2, 4, 3, 32, 32, generator=seeded(3)).requires_grad_()
    guidance = IntervalScoreMatchingConfig().setup(prior=prior, conditions=words(prior))
    guidance.loss(images, cameras, seeded(), progress=1.0)["distillation"].backward()
    assert images.grad is not None and images.grad.abs().max() > 0 and guidance.report is not None
    assert len(set(guidance.report.timesteps.tolist())) == 1


# Settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EditingTrajectoriesConfig(jumps=0), "jumps"),
        (EditingTrajectoriesConfig(jump=(0.0, 0.1)), "max-step"),
        (EditingTrajectoriesConfig(jump=(0.2, 0.1)), "max-step"),
        (EditingTrajectoriesConfig(jump=(0.1, 0.6)), "max-step"),
        (EditingTrajectoriesConfig(max_step_end=1.5), "max-step-end"),
        (EditingTrajectoriesConfig(guidance_scale=0.5), "guidance scale"),
        (IntervalScoreMatchingConfig(t_max=1.2), "timesteps"),
        (IntervalScoreMatchingConfig(stride=0.0), "stride"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, message: str, tiny_v_prior) -> None:
    with pytest.raises(InputError, match=message):
        config.setup(prior=tiny_v_prior, conditions=words(tiny_v_prior))


def test_other_words_guide_from_the_next_loss_on(tiny_v_prior, cameras: Tensor) -> None:
    config = EditingTrajectoriesConfig(jumps=2, guidance_scale=7.5)
    guidance = config.setup(prior=tiny_v_prior, conditions=words(tiny_v_prior))
    assert guidance.conditions.guidance_scale == 7.5
    z = some_latents()
    before = guidance.trajectory_error(z, torch.zeros_like(z), [0, 300, 500], cameras)[0]
    with torch.no_grad():
        guidance.follow(Conditions.of_prompt(tiny_v_prior, "a green ball"))
    assert guidance.conditions.guidance_scale == 7.5
    after = guidance.trajectory_error(z, torch.zeros_like(z), [0, 300, 500], cameras)[0]
    assert (after - before).abs().max() > 1e-4


def test_kinds_have_names() -> None:
    assert [guidance_name(config) for config in GUIDANCE_CONFIGS.values()] == list(GUIDANCE_CONFIGS)
