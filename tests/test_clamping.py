"""Colors outside of [0, 1] count as the nearest inside for the prior, and gradients never lead them further out."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.prior.clamping import clamp_images
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.scenes.cameras import camera_condition

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]


def test_values_and_gradients() -> None:
    images = torch.tensor([-0.5, -0.5, 0.0, 0.0, 0.3, 0.3, 1.0, 1.0, 1.5, 1.5], requires_grad=True)
    gradient = torch.tensor([-2.0, 2.0] * 5)  # up, then down
    clamped = clamp_images(images)
    assert torch.equal(clamped, images.detach().clamp(0, 1))
    clamped.backward(gradient)
    assert images.grad is not None
    assert images.grad.tolist() == [-2.0, 0.0, -2.0, 2.0, -2.0, 2.0, -2.0, 2.0, 0.0, 2.0]


def test_what_is_outside_comes_back_and_goes_no_further() -> None:
    images = torch.tensor([-0.5, 1.5, -0.5, 1.5], requires_grad=True)
    wanted = torch.tensor([0.25, 0.75, -3.0, 3.0])  # two within the range, two that no image can reach
    optimizer = torch.optim.SGD([images], lr=0.25)
    for _ in range(60):
        optimizer.zero_grad()
        (clamp_images(images) - wanted).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(images.detach(), torch.tensor([0.25, 0.75, -0.5, 1.5]))


@pytest.mark.parametrize("kind", ["tiny_prior", "tiny_v_prior"])
def test_score_distillation_sees_images(kind: str, request: pytest.FixtureRequest) -> None:
    """Renders may be brighter than white: the loss is that of the image that is shown, its gradient one-sided."""
    prior = request.getfixturevalue(kind)
    images = 1.6 * torch.rand(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3)) - 0.3
    guidance = ScoreDistillationConfig().setup(
        prior=prior, conditions=Conditions.of_prompt(prior, "a red cube", guidance_scale=3.0)
    )
    results = []
    for given in (images, images.clamp(0, 1)):
        leaf = given.clone().requires_grad_()
        terms = guidance.loss(leaf, CAMERAS, torch.Generator().manual_seed(0))
        terms["distillation"].backward()
        results.append((terms["distillation"].detach(), leaf.grad, guidance.report.target_latents))
    (loss, gradient, target), (shown_loss, shown, shown_target) = results
    assert torch.equal(loss, shown_loss) and torch.equal(target, shown_target)
    outwards = ((images > 1) & (shown < 0)) | ((images < 0) & (shown > 0))
    assert torch.equal(gradient, shown.masked_fill(outwards, 0))
    outside = (images > 1) | (images < 0)
    assert 0.3 < outwards[outside].float().mean() < 0.7 and (gradient[outside] != 0).any()


def test_directions_are_guidance_too(tiny_v_prior) -> None:
    prior = tiny_v_prior
    red, blue = (prior.encode_prompt(text) for text in ("a red cube", "a blue cube"))
    plain = Conditions(red, prior.encode_prompt(""), guidance_scale=3.0)
    edit = Conditions(red, plain.negative, 3.0, directions=((blue, red, 0.5),), direction_scale=3.0)
    assert plain.with_guidance(9.0).direction_scale == 1.0
    assert edit.with_guidance(9.0).direction_scale == 9.0 and edit.with_guidance(1.5).direction_scale == 1.5
    assert edit.with_guidance(9.0, direction_scale=2.0).direction_scale == 2.0
    assert ScoreDistillationConfig().setup(prior=prior, conditions=edit).conditions is edit
    strong = ScoreDistillationConfig(guidance_scale=9.0).setup(prior=prior, conditions=edit).conditions
    noisy = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    with torch.no_grad():
        base, negative, towards = (prior.predict(noisy, t, c, CAMERAS) for c in (red, plain.negative, blue))
        expected = negative + 9.0 * (base - negative) + 9.0 * 0.5 * (towards - base)
        torch.testing.assert_close(strong.predict(prior, noisy, t, CAMERAS), expected, rtol=1e-3, atol=1e-4)
