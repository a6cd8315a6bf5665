from __future__ import annotations

import pytest
import torch
from synthetic import make_bank

from invert3d_ns.base.errors import InputError
from invert3d_ns.words.cti import (
    DRAFT_WEIGHT,
    DRAFTED_GROUPS,
    TOKEN,
    CameraTextInversion,
    check_vector_count,
    fit_words,
)
from invert3d_ns.words.settings import Objective


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def prior(request, tiny_prior, tiny_v_prior):
    return tiny_prior if request.param == "epsilon" else tiny_v_prior


@pytest.fixture(scope="module")
def bank(prior):
    return make_bank(prior)


def test_words_start_from_the_init_word(prior):
    inversion = CameraTextInversion(prior)
    words = inversion.initial_words(5, "object")
    assert words.dtype == torch.float32
    assert torch.equal(words, prior.word_vectors("object")[:1].expand(5, -1))
    spelled = inversion.initial_words(5, "red cube")
    assert torch.equal(spelled[:2], prior.word_vectors("red cube"))
    assert torch.equal(spelled[2:4], spelled[:2])


def test_jitter_moves_words_by_the_asked_share_of_their_length(prior):
    plain = CameraTextInversion(prior, seed=3).initial_words(30, "object")
    moved = CameraTextInversion(prior, seed=3).initial_words(30, "object", jitter=0.1)
    share = (moved - plain).norm(dim=-1) / plain.norm(dim=-1)
    assert share.mean().item() == pytest.approx(0.1, rel=0.15)
    again = CameraTextInversion(prior, seed=3).initial_words(30, "object", jitter=0.1)
    other = CameraTextInversion(prior, seed=4).initial_words(30, "object", jitter=0.1)
    assert torch.equal(moved, again) and not torch.equal(moved, other)


@pytest.mark.parametrize("count", [0, 76, 1000])
def test_a_number_of_vectors_that_does_not_fit_is_refused(count):
    with pytest.raises(InputError, match="between 1 and 75"):
        check_vector_count(count, 77)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.8, 0.2), (-0.1, 0.5), (0.0, 1.5)])
def test_a_timestep_range_outside_the_process_is_refused(tiny_prior, bounds):
    with pytest.raises(InputError, match="timestep range"):
        CameraTextInversion(tiny_prior, Objective(timestep_range=bounds))


def test_a_step_depends_on_seed_and_number_alone(prior, bank):
    def draw(seed, step, **options):
        return CameraTextInversion(prior, Objective(**options), seed=seed).draw_batch(bank, step, groups=3)

    for a, b in zip(draw(1, 7), draw(1, 7), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(draw(1, 7)[2], draw(1, 8)[2])
    assert not torch.equal(draw(1, 7)[2], draw(2, 7)[2])


def test_views_share_a_timestep_unless_asked_otherwise(prior, bank):
    shared = CameraTextInversion(prior).draw_batch(bank, 0, groups=3)[3]
    own = CameraTextInversion(prior, Objective(per_view_timesteps=True)).draw_batch(bank, 0, groups=3)[3]
    assert shared.shape == (3,)
    assert own.shape == (3, bank.latents.shape[1])
    assert (own[:, :1] != own).any()


def test_timesteps_stay_in_their_range(prior, bank):
    inversion = CameraTextInversion(prior, Objective(timestep_range=(0.2, 0.4), per_view_timesteps=True))
    drawn = torch.cat([inversion.draw_batch(bank, step, groups=4)[3].flatten() for step in range(40)])
    assert drawn.min() >= 0.2 * prior.num_timesteps
    assert drawn.max() < 0.4 * prior.num_timesteps


def test_only_the_words_receive_a_gradient_and_it_is_the_derivative_of_the_loss(prior, bank):
    inversion = CameraTextInversion(prior)
    words = inversion.initial_words(3, "object", jitter=0.05).requires_grad_()
    loss = inversion.loss(words, bank, step=5)["denoising"]
    (gradient,) = torch.autograd.grad(loss, words)
    assert all(parameter.grad is None for parameter in prior.parameters())
    direction = gradient / gradient.norm()
    width = 0.005
    with torch.no_grad():
        ahead, behind = (inversion.loss(words + s * width * direction, bank, 5)["denoising"] for s in (1, -1))
    assert ((ahead - behind) / (2 * width)).item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_the_loss_of_several_groups_is_the_mean_of_each(prior, bank):
    inversion = CameraTextInversion(prior, seed=1)
    words = inversion.initial_words(3, "object")
    with torch.no_grad():
        together = inversion.loss(words, bank, 2, groups=3)["denoising"]
        latents, cameras, noise, timesteps = inversion.draw_batch(bank, 2, groups=3)
        context = inversion.context(words)
        each = [
            prior.prediction_loss(
                latents[i : i + 1], noise[i : i + 1], timesteps[i : i + 1], context, cameras[i : i + 1]
            )
            for i in range(3)
        ]
    assert together.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)


def test_drafts_of_several_orbits_are_part_of_the_loss_where_there_are_any(tiny_encoding_prior, prior):
    bank = make_bank(tiny_encoding_prior, groups=4)
    inversion = CameraTextInversion(tiny_encoding_prior, seed=2)
    words = inversion.initial_words(5, "object", jitter=0.3).requires_grad_()
    loss = inversion.loss(words, bank, 3, groups=2)["draft"]
    context = tiny_encoding_prior.encode_prompt(TOKEN, {TOKEN: words})
    drafts = [tiny_encoding_prior.draft(context, cameras[None])[0] for cameras in bank.cameras]
    each = (torch.stack(drafts) - bank.latents).square().mean((1, 2, 3, 4))
    assert len(bank) <= DRAFTED_GROUPS, "every orbit is drafted, so that the mean is known"
    torch.testing.assert_close(loss, DRAFT_WEIGHT * each.mean())
    gradients = [torch.autograd.grad(x, words, retain_graph=True)[0] for x in (loss, DRAFT_WEIGHT * each.mean())]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)
    assert float(gradients[0].abs().max()) > 0
    assert "draft" not in CameraTextInversion(prior).loss(words.detach(), make_bank(prior), 3)


def test_the_norm_penalty_counts_squared_lengths_in_words(prior, bank):
    inversion = CameraTextInversion(prior, Objective(norm_penalty=0.5))
    words = inversion.initial_words(4, "object")
    small, large = (inversion.loss(factor * words, bank, 0)["norm"].item() for factor in (1.0, 3.0))
    assert large == pytest.approx(9 * small, rel=1e-4)
    assert "norm" not in CameraTextInversion(prior).loss(words, bank, 0)


def test_fitting_lowers_the_loss_on_held_out_orbits_and_repeats_bit_for_bit(prior, bank):
    inversion = CameraTextInversion(prior, seed=5)
    start = inversion.initial_words(8, "object")
    terms = []
    first = fit_words(inversion, bank, start, steps=60, learning_rate=0.05, callback=lambda step, t: terms.append(step))
    again = fit_words(inversion, bank, start, steps=60, learning_rate=0.05)
    assert terms == list(range(60))
    assert torch.equal(first, again)
    before, after = (inversion.heldout_loss(words, bank, draws=8) for words in (start, first))
    assert after < before


def test_fitting_from_a_later_state_is_not_needed_to_repeat_a_held_out_loss(prior, bank):
    inversion = CameraTextInversion(prior)
    words = inversion.initial_words(2, "cat")
    assert inversion.heldout_loss(words, bank) == inversion.heldout_loss(words, bank)
    # One vector equal to the word's own embedding is the word itself.
    single = prior.word_vectors("cat")
    assert inversion.heldout_loss(single, bank) == pytest.approx(inversion.heldout_loss("cat", bank), rel=1e-5)
    assert TOKEN == "<object>"
