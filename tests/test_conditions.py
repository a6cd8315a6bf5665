"""Guidance of plain words, against its formula and through sampling."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.conditions import Conditions, classifier_free_guidance
from invert3d_ns.scenes.cameras import camera_condition

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]
T = torch.tensor([600])


@pytest.fixture(params=["tiny_prior", "tiny_v_prior"])
def prior(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


@pytest.fixture
def noisy() -> torch.Tensor:
    return torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_guidance_is_linear_in_noise_for_both_parameterizations(prior, noisy) -> None:
    conditions = Conditions.of_prompt(
        prior, "a red cube", negative_prompt="a cat", guidance_scale=5.0, guidance_rescale=0.0
    )
    with_words = prior.predict_noise(noisy, T, prior.encode_prompt("a red cube"), CAMERAS)
    without = prior.predict_noise(noisy, T, prior.encode_prompt("a cat"), CAMERAS)
    guided = conditions.predict_noise(prior, noisy, T, CAMERAS)
    torch.testing.assert_close(guided, without + 5 * (with_words - without), rtol=1e-4, atol=1e-5)
    # Not in place, and without guidance the words alone.
    plain = conditions.with_guidance(1.0)
    assert conditions.guidance_scale == 5.0 and plain.guidance_scale == 1.0
    torch.testing.assert_close(plain.predict_noise(prior, noisy, T, CAMERAS), with_words)


@torch.no_grad()
def test_full_guidance_rescale_keeps_the_prompted_deviation(tiny_v_prior, noisy) -> None:
    context, negative = 3 * tiny_v_prior.encode_prompt("a red cube"), tiny_v_prior.encode_prompt("")
    prompted = tiny_v_prior.predict(noisy, T, context, CAMERAS)
    conditions = Conditions(context, negative, guidance_scale=30.0)
    guided = conditions.predict(tiny_v_prior, noisy, T, CAMERAS)
    rescaled = conditions.with_guidance(30.0, rescale=1.0).predict(tiny_v_prior, noisy, T, CAMERAS)
    assert guided.std().item() != pytest.approx(prompted.std().item(), rel=1e-3)
    assert rescaled.std().item() == pytest.approx(prompted.std().item(), rel=1e-4)
    torch.testing.assert_close(
        classifier_free_guidance(tiny_v_prior.predict(noisy, T, negative, CAMERAS), prompted, 30.0),
        guided,
        rtol=1e-4,
        atol=1e-5,
    )


def test_defaults_are_the_priors(tiny_v_prior) -> None:
    conditions = Conditions.of_prompt(tiny_v_prior, "a mug")
    assert conditions.guidance_scale == tiny_v_prior.info.guidance_scale
    assert conditions.guidance_rescale == tiny_v_prior.info.guidance_rescale == 0.7
    torch.testing.assert_close(conditions.negative, tiny_v_prior.encode_prompt(""))


def test_words_are_spliced_and_gradients_reach_them(tiny_prior, noisy) -> None:
    vectors = (0.05 * torch.randn(3, 24, generator=torch.Generator().manual_seed(1))).requires_grad_()
    conditions = Conditions.of_prompt(tiny_prior, "a red <object>", words={"<object>": vectors}, guidance_scale=2.0)
    conditions.predict(tiny_prior, noisy, T, CAMERAS).square().mean().backward()
    assert vectors.grad is not None and (vectors.grad.norm(dim=1) > 0).all()
    with pytest.raises(InputError, match=r"\(N, 24\)"):
        Conditions.of_prompt(tiny_prior, "<object>", words={"<object>": torch.zeros(2, 5)})


def test_sampling_of_a_prompt_and_of_its_conditions_is_the_same(prior) -> None:
    """One prompt for each object, and one for all."""
    prompts = ["a red cube", "a mug"]
    cameras = CAMERAS.expand(2, -1, -1)
    expected = prior.sample(prompts, cameras, negative_prompt="a cat", guidance_scale=3.0, steps=3, seed=5)
    conditions = Conditions.of_prompt(prior, prompts, negative_prompt="a cat", guidance_scale=3.0)
    assert torch.equal(prior.sample(conditions, cameras, steps=3, seed=5), expected)
    context = prior.encode_prompt(prompts)
    other = prior.sample(context, cameras, negative_prompt="a cat", guidance_scale=3.0, steps=3, seed=5)
    assert torch.equal(other, expected)
    one = prior.sample(Conditions.of_prompt(prior, "a mug"), cameras, steps=2, seed=5)
    torch.testing.assert_close(one[1:], prior.sample("a mug", CAMERAS, steps=2, seed=6), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_words_may_be_obeyed_over_the_draft_of_others(tiny_encoding_prior, noisy) -> None:
    prior = tiny_encoding_prior
    one, other, negative = (prior.encode_prompt(text) for text in ("a red cube", "a blue ball", ""))
    conditions = Conditions(one, negative, guidance_scale=3.0, drafted=other)
    prompted = prior.predict(noisy, T, one, CAMERAS, draft=prior.draft(other, CAMERAS))
    without = prior.predict(noisy, T, negative, CAMERAS)
    torch.testing.assert_close(
        conditions.predict(prior, noisy, T, CAMERAS), without + 3 * (prompted - without), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(conditions.draft(prior, CAMERAS), prior.draft(other, CAMERAS))
    own = Conditions(one, negative, guidance_scale=3.0).predict(prior, noisy, T, CAMERAS)
    assert (conditions.predict(prior, noisy, T, CAMERAS) - own).abs().max() > 1e-4
    assert conditions.unguided().drafted is None


@torch.no_grad()
def test_priors_without_drafts_do_not_look_at_them(prior, noisy) -> None:
    one, other = prior.encode_prompt("a red cube"), prior.encode_prompt("a blue ball")
    plain = Conditions(one, other, guidance_scale=2.0).predict(prior, noisy, T, CAMERAS)
    torch.testing.assert_close(
        Conditions(one, other, guidance_scale=2.0, drafted=other).predict(prior, noisy, T, CAMERAS), plain
    )
