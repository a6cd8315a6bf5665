"""Guidance: score distillation against its formula without autograd; schedules; the choice on a command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace

import pytest
import torch
import tyro
import yaml
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.guidance.base import Guidance, GuidanceConfig, GuidanceReport, gradient_loss
from invert3d_ns.guidance.configs import guidance_union
from invert3d_ns.guidance.schedules import annealed, timestep_range, timestep_weights
from invert3d_ns.guidance.sds import ScoreDistillation, ScoreDistillationConfig
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


def distillation(prior, conditions, **settings) -> ScoreDistillation:
    return ScoreDistillationConfig(**settings).setup(prior=prior, conditions=conditions)


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
    condition = words(prior)
    images, cameras = views()
    latents = prior.encode_images(images).detach().requires_grad_()
    monkeypatch.setattr(prior, "encode_images", lambda _: latents)
    guidance = distillation(prior, condition, weighting=weighting)
    assert guidance.report is None
    terms = guidance.loss(images, cameras, seeded(), progress=0.25)
    assert list(terms) == ["distillation"] and terms["distillation"].shape == ()
    terms["distillation"].backward()
    report = guidance.report
    assert report is not None and latents.grad is not None

    generator = seeded()
    low, high = timestep_range(0.02, 0.98 - 0.25 * 0.48, prior.num_timesteps)
    t = torch.randint(low, high + 1, (2,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    assert torch.equal(report.timesteps, t)
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
            torch.testing.assert_close(report.weights[group], weight)
            clean = (noisy - (1 - a).sqrt() * guided) / a.sqrt()
            torch.testing.assert_close(report.target_latents[group], clean, rtol=1e-3, atol=1e-4)
    assert not report.target_latents.requires_grad


def test_the_gradient_passes_the_encoder_and_stops_at_the_denoiser(prior) -> None:
    images, cameras = views(1)
    plain = words(prior)
    condition = dataclasses.replace(plain, positive=plain.positive.clone().requires_grad_())
    images.requires_grad_()
    guidance = distillation(prior, condition)
    guidance.loss(images, cameras, seeded())["distillation"].backward()
    latents = prior.encode_images(images)
    t, noise = guidance.draw_noise(latents.detach(), seeded())
    gradient, _ = guidance.noise_error(latents.detach(), noise, t, cameras)
    (expected,) = torch.autograd.grad(latents, images, gradient)
    torch.testing.assert_close(images.grad, expected, rtol=1e-3, atol=1e-6)
    assert images.grad is not None and images.grad.abs().max() > 0
    assert condition.positive.grad is None


def test_a_gradient_becomes_a_loss_that_is_half_its_square() -> None:
    latents, gradient = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    loss = gradient_loss(latents, gradient)
    loss.backward()
    torch.testing.assert_close(latents.grad, gradient.detach())
    torch.testing.assert_close(loss.detach(), 0.5 * gradient.detach().square().sum())
    assert gradient.grad is None


def test_what_is_not_finite_does_not_reach_the_views(tiny_v_prior) -> None:
    class Broken(Conditions):
        def predict_noise(self, prior, noisy, t, cameras):
            predicted = super().predict_noise(prior, noisy, t, cameras).clone()
            predicted[0, 0] = float("nan")
            predicted[0, 1] = float("inf")
            return predicted

    plain = words(tiny_v_prior)
    images, cameras = views(1)
    images.requires_grad_()
    distillation(tiny_v_prior, Broken(**vars(plain))).loss(images, cameras, seeded())["distillation"].backward()
    assert images.grad is not None and images.grad.isfinite().all()
    assert (images.grad[0, :2] == 0).all() and (images.grad[0, 2:] != 0).any()


def test_one_timestep_for_a_group_and_the_generator_decides_all(tiny_v_prior) -> None:
    guidance = distillation(tiny_v_prior, words(tiny_v_prior))
    latents = torch.zeros(3, 4, 4, 4, 4)
    t, noise = guidance.draw_noise(latents, seeded(5))
    assert t.shape == (3,) and len(set(t.tolist())) == 3 and noise.shape == latents.shape
    again, other = guidance.draw_noise(latents, seeded(5)), guidance.draw_noise(latents, seeded(6))
    assert torch.equal(again[0], t) and torch.equal(again[1], noise) and not torch.equal(other[1], noise)


def test_timesteps_are_annealed_within_their_bounds(tiny_v_prior) -> None:
    config = ScoreDistillationConfig(t_min=0.1, t_max=0.9, t_max_end=0.3)
    assert config.timestep_range(0.0, 1000) == (100, 899)
    assert config.timestep_range(0.5, 1000) == (100, 599)
    assert config.timestep_range(1.0, 1000) == config.timestep_range(7.0, 1000) == (100, 299)
    assert config.timestep_range(-1.0, 1000) == (100, 899)
    guidance = config.setup(prior=tiny_v_prior, conditions=words(tiny_v_prior))
    drawn = guidance.config.draw(500, 1000, seeded(), progress=1.0)
    assert drawn.min() >= 100 and drawn.max() <= 299 and drawn.max() - drawn.min() > 150


def test_schedules() -> None:
    assert [annealed(2.0, 6.0, progress) for progress in (-1.0, 0.0, 0.25, 1.0, 3.0)] == [2.0, 2.0, 3.0, 6.0, 6.0]
    assert timestep_range(0.0, 1.0, 10) == (0, 9)
    assert timestep_range(0.5, 0.5, 1000) == (500, 500), "one timestep at least"
    alpha_bar = torch.tensor([0.0, 0.25, 1.0])
    assert timestep_weights("sigma2", alpha_bar).tolist() == [1.0, 0.75, 0.0]
    assert timestep_weights("uniform", alpha_bar).tolist() == [1.0, 1.0, 1.0]
    assert timestep_weights("balanced", alpha_bar).tolist() == [0.0, 0.375, 0.0]


def test_guidance_of_the_config_takes_the_place_of_the_conditions(tiny_v_prior) -> None:
    condition = words(tiny_v_prior)
    images, cameras = views(1)
    losses = [
        distillation(tiny_v_prior, condition, guidance_scale=scale).loss(images, cameras, seeded())["distillation"]
        for scale in (None, 3.0, 30.0)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert condition.guidance_scale == 3.0


def test_conditions_of_an_edit_take_another_guidance(tiny_v_prior) -> None:
    from invert3d_ns.prior.conditions import Conditions

    plain = words(tiny_v_prior)
    conditions = Conditions(plain.positive, plain.negative, guidance_scale=3.0, guidance_rescale=0.7)
    other = conditions.with_guidance(9.0)
    assert (other.guidance_scale, conditions.guidance_scale) == (9.0, 3.0)
    assert replace(other, guidance_scale=3.0) == conditions
    assert distillation(tiny_v_prior, conditions, guidance_scale=9.0).conditions == other
    assert distillation(tiny_v_prior, conditions).conditions is conditions


@pytest.mark.parametrize(
    "options",
    [{"t_min": -0.1}, {"t_min": 0.6}, {"t_max": 0.4}, {"t_max": 1.2}, {"t_max_end": float("nan")}],
)
def test_timesteps_out_of_range_are_refused(tiny_v_prior, options) -> None:
    with pytest.raises(InputError, match="timesteps"):
        distillation(tiny_v_prior, words(tiny_v_prior), **options)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_guidance_out_of_range_is_refused(tiny_v_prior, scale) -> None:
    with pytest.raises(InputError, match="guidance scale"):
        distillation(tiny_v_prior, words(tiny_v_prior), guidance_scale=scale)


# Choosing among kinds of guidance


class Offset(Guidance):
    """Another kind of guidance: all that one needs."""

    config: OffsetConfig

    def gradient(self, latents, cameras, generator, progress):
        assert not torch.is_grad_enabled() and not latents.requires_grad
        report = GuidanceReport(torch.zeros(len(latents)), torch.ones(len(latents)), latents - latents + progress)
        return latents - self.config.level, report


@dataclass
class OffsetConfig(GuidanceConfig):
    """Latents of one number."""

    _target: type = field(default_factory=lambda: Offset)
    level: float = 0.5
    """The number."""


def test_the_flags_of_an_edit_need_no_subcommand() -> None:
    parsed = tyro.cli(SceneEditConfig, args=["--sds.t-max", "0.6", "--sds.weighting", "balanced"])
    expected = ScoreDistillationConfig(t_max=0.6, t_max_end=0.3, weighting="balanced")
    assert parsed.sds == expected and parsed.refine_steps == 0
    assert yaml.load(yaml.dump(parsed), Loader=yaml.Loader) == parsed


def test_a_second_kind_is_a_subcommand_beside_a_default(tiny_v_prior) -> None:
    kinds = guidance_union({"sds": ScoreDistillationConfig(), "offset": OffsetConfig(level=0.25)})
    default = ScoreDistillationConfig(t_max=0.7, t_max_end=0.3)
    edit = dataclasses.make_dataclass("edit", [("guidance", kinds, field(default_factory=lambda: default))])
    run = dataclasses.make_dataclass("run", [("edit", edit, field(default_factory=edit)), ("steps", int, 3)])
    assert tyro.cli(run, args=["--steps", "5"]).edit.guidance == default
    chosen = tyro.cli(run, args=["--steps", "5", "edit.guidance:offset", "--edit.guidance.level", "0.3"])
    assert chosen.edit.guidance == OffsetConfig(level=0.3) and chosen.steps == 5
    same = tyro.cli(run, args=["edit.guidance:sds", "--edit.guidance.t-max", "0.8"])
    assert same.edit.guidance == ScoreDistillationConfig(t_max=0.8, t_max_end=0.3)
    guidance = chosen.edit.guidance.setup(prior=tiny_v_prior, conditions=words(tiny_v_prior))
    assert isinstance(guidance, Offset) and guidance.report is None
    images, cameras = views()
    images.requires_grad_()
    terms = guidance.loss(images, cameras, seeded(), progress=0.25)
    latents = tiny_v_prior.encode_images(images)
    expected = ((latents - 0.3) / 2).square().sum() / 2
    torch.testing.assert_close(terms["distillation"], expected, rtol=1e-5, atol=1e-6)
    terms["distillation"].backward()
    torch.testing.assert_close(images.grad, torch.autograd.grad(expected, images)[0] * 2, rtol=1e-3, atol=1e-6)
    assert guidance.report is not None and guidance.report.target_latents.unique().item() == 0.25


def test_guidance_without_a_gradient_cannot_be_set_up() -> None:
    with pytest.raises(TypeError, match="abstract"):
        GuidanceConfig().setup(prior=None, conditions=None)
