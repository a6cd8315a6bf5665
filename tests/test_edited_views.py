"""Conditions of edits (eqs. 9-11) against what they should be, and views from them (eq. 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.conditions import edit_conditions
from invert3d_ns.editing.edit import TOKEN, Edit
from invert3d_ns.editing.views import coverage, edited_views
from invert3d_ns.prior.prompts import columns_of
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.words.embedding import ObjectEmbedding

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(15.0))[None]
RED_TO_BLUE = Edit(source="red", target="blue", steps=3)


@pytest.fixture(scope="module")
def embedding(tiny_v_prior) -> ObjectEmbedding:
    vectors = 0.02 * torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    return ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="cube", steps=1)


@pytest.fixture(scope="module")
def originals() -> torch.Tensor:
    views = torch.ones(1, 4, 3, 32, 32)
    views[..., 8:24, 8:24] = torch.rand(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.8
    return views


def predictions(prior, contexts):
    noisy = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([600])
    return noisy, t, [prior.predict(noisy, t, context, CAMERAS) for context in contexts]


def test_prediction_space_adds_the_difference_of_predictions(tiny_v_prior, embedding) -> None:
    edit = replace(RED_TO_BLUE, amount=0.5, guidance_scale=3.0)
    conditions = edit_conditions(tiny_v_prior, embedding, [edit])
    texts = ["", "a blue cube", "a red cube"]
    contexts = [tiny_v_prior.encode_prompt(TOKEN, embedding.words), *map(tiny_v_prior.encode_prompt, texts)]
    noisy, t, (own, empty, blue, red) = predictions(tiny_v_prior, contexts)
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    expected = rescale_noise_cfg(empty + 3 * (own - empty), own, 0.7) + 0.5 * 3 * (blue - red)
    torch.testing.assert_close(conditions.predict(tiny_v_prior, noisy, t, CAMERAS), expected, rtol=1e-4, atol=1e-5)
    flow = edit_conditions(tiny_v_prior, embedding, [edit], flow=True)
    torch.testing.assert_close(
        flow.predict(tiny_v_prior, noisy, t, CAMERAS), own + 0.5 * 3 * (blue - red), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("edit", "towards", "away"),
    [
        (Edit(source="red", target="orange"), "an orange mug with blue cube", "a red mug with blue cube"),
        (Edit(source="with blue cube", target="with red cube"), "a red mug with red cube", "a red mug with blue cube"),
        (Edit(target="on the cat"), "a red mug with blue cube on the cat", "a red mug with blue cube"),
        (Edit(prompt=f"a photo of {TOKEN}"), "a photo of a red mug with blue cube", "a red mug with blue cube"),
    ],
)
def test_directions_change_only_their_words_in_a_description(tiny_v_prior, embedding, edit, towards, away) -> None:
    edit = replace(edit, noun="red mug with blue cube")
    ((to, fro, _),) = edit_conditions(tiny_v_prior, embedding, [edit]).directions
    torch.testing.assert_close(to, tiny_v_prior.encode_prompt(towards))
    torch.testing.assert_close(fro, tiny_v_prior.encode_prompt(away))


def test_input_space_moves_every_vector(tiny_v_prior, embedding) -> None:
    moved = edit_conditions(tiny_v_prior, embedding, [replace(RED_TO_BLUE, space="input", amount=2.0)])
    difference = tiny_v_prior.word_vectors("blue").mean(0) - tiny_v_prior.word_vectors("red").mean(0)
    expected = tiny_v_prior.encode_prompt(TOKEN, {TOKEN: embedding.vectors + 2 * difference})
    torch.testing.assert_close(moved.positive, expected)
    assert not moved.directions


def test_output_spaces_move_what_they_say(tiny_v_prior, embedding) -> None:
    plain = edit_conditions(tiny_v_prior, embedding).positive
    blue, red = (tiny_v_prior.encode_prompt(text) for text in ("a blue cube", "a red cube"))
    encoded = edit_conditions(tiny_v_prior, embedding, [replace(RED_TO_BLUE, space="encoded")]).positive
    torch.testing.assert_close(encoded - plain, blue - red, rtol=1e-4, atol=1e-5)
    pooled = edit_conditions(tiny_v_prior, embedding, [replace(RED_TO_BLUE, space="pooled")]).positive - plain
    torch.testing.assert_close(pooled[:, 1:6], (blue - red)[:, 4:5].expand(1, 5, 24), rtol=1e-4, atol=1e-5)
    assert pooled[:, 0].abs().max() == 0 and pooled[:, 6:].abs().max() == 0


def test_words_alone_stand_in_the_prompt(tiny_v_prior, embedding) -> None:
    words = edit_conditions(tiny_v_prior, embedding, [replace(RED_TO_BLUE, space="prompt")])
    expected = tiny_v_prior.encode_prompt(f"a blue {TOKEN}", embedding.words)
    torch.testing.assert_close(words.positive, expected)
    assert not words.directions


def test_weights_reach_the_tokens_of_their_phrase(tiny_v_prior, embedding) -> None:
    edit = Edit(prompt=f"a photo of {TOKEN} on the mug", weights={"the mug": 3.0, TOKEN: 0.5})
    scales = edit_conditions(tiny_v_prior, embedding, [edit]).token_weights
    assert scales is not None
    assert scales[0, :12].tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 3, 3]
    assert scales[0, 12:].eq(1).all()


def test_columns_of_every_occurrence(tiny_v_prior) -> None:
    found = columns_of("red", f"red {TOKEN} and red mug", {TOKEN: 3}, tiny_v_prior.tokenizer, tiny_v_prior.info)
    assert found == [1, 6]
    with pytest.raises(InputError, match="is not in the prompt"):
        columns_of("re", "red mug", {}, tiny_v_prior.tokenizer, tiny_v_prior.info)


def test_edits_compose(tiny_v_prior, embedding) -> None:
    second = Edit(prompt=f"a photo of {TOKEN}", negative_prompt="cat", guidance_scale=2.0)
    both = edit_conditions(tiny_v_prior, embedding, [RED_TO_BLUE, Edit(prompt=f"{TOKEN} on the mug"), second])
    expected = tiny_v_prior.encode_prompt(f"a photo of {TOKEN} on the mug", embedding.words)
    torch.testing.assert_close(both.positive, expected)
    torch.testing.assert_close(both.negative, tiny_v_prior.encode_prompt("cat"))
    assert both.guidance_scale == 2.0 and len(both.directions) == 3


def test_embedding_of_another_prior_is_refused(tiny_prior, embedding) -> None:
    with pytest.raises(InputError, match="pass --prior"):
        edit_conditions(tiny_prior, embedding)


@pytest.mark.parametrize("structure", ["flow", "sdedit", "ddim"])
def test_views_repeat_with_their_seed_and_follow_the_edit(tiny_v_prior, embedding, originals, structure) -> None:
    edit = replace(RED_TO_BLUE, structure=structure, strength=0.7)
    first = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals)
    again = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals)
    other = edited_views(tiny_v_prior, embedding, [replace(edit, target="cat")], CAMERAS, originals=originals)
    assert first.shape == (1, 4, 3, 32, 32) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_flow_without_change_gives_back_the_scene(tiny_v_prior, embedding, originals) -> None:
    """Exactly, but for what the autoencoder loses if details are not wanted: nothing that z* fails to say is lost."""
    edit = replace(RED_TO_BLUE, amount=0.0, guidance_scale=1.0, keep_silhouette=False)
    views = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals)
    torch.testing.assert_close(views, originals, rtol=1e-3, atol=1e-4)
    views = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals, details=False)
    expected = tiny_v_prior.decode_latents(tiny_v_prior.encode_images(originals))
    torch.testing.assert_close(views, expected, rtol=1e-3, atol=1e-4)


def test_ddim_without_change_gives_back_the_scene() -> None:
    """The inversion is a true one: under the same words and without guidance the sampler comes back to the views."""
    from invert3d_ns.metrics.inversion_quality import renderer
    from invert3d_ns.prior.checkpoints import load_prior
    from invert3d_ns.scenes.assets import DEMO_SCENE, read_object
    from invert3d_ns.words.bank import render_views

    prior = load_prior("bundled", "cpu")
    words = ObjectEmbedding.for_prior(prior, prior.word_vectors("object"), init_word="object", steps=1)
    render = renderer(read_object(DEMO_SCENE)[0])
    originals = render_views(render, torch.arange(4) * 90.0, torch.full((4,), 15.0), prior.info.image_size)[None]
    edit = Edit(source="red", target="blue", amount=0.0, guidance_scale=1.0, structure="ddim", strength=0.6, steps=10)

    def error(edit: Edit, expected: torch.Tensor, **settings) -> float:
        views = edited_views(prior, words, [edit], CAMERAS, originals=originals, **settings)
        return (views - expected).square().mean().sqrt().item()

    free = replace(edit, keep_silhouette=False)
    assert error(free, prior.decode_latents(prior.encode_images(originals)), details=False) < 0.005
    # What is kept is put back on the way to the noise that was found, and so disturbs nothing, whatever the sampler.
    assert error(edit, originals) < 0.005
    assert error(replace(edit, sampler="dpm++", steps=20), originals) < 0.02


def test_what_the_scene_shows_already_moves_nothing_more(tiny_v_prior, embedding, originals) -> None:
    """Of two edits the first is done: the second alone leads on, here by nothing."""
    edits = [replace(RED_TO_BLUE, guidance_scale=2.0), Edit(target="cat", amount=0.0, guidance_scale=2.0, steps=3)]
    views = edited_views(tiny_v_prior, embedding, edits, CAMERAS, originals=originals, applied=1)
    again = edited_views(tiny_v_prior, embedding, edits, CAMERAS, originals=originals)
    torch.testing.assert_close(views, originals, rtol=1e-3, atol=1e-3)
    assert (again - views).abs().max() > 1e-2


@pytest.mark.parametrize("structure", ["flow", "sdedit", "ddim"])
def test_nothing_changes_outside_masks(tiny_v_prior, embedding, originals, structure) -> None:
    masks = torch.zeros(1, 4, 1, 32, 32)
    masks[..., :16, :16] = 1
    edit = replace(RED_TO_BLUE, structure=structure)
    views = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals, masks=masks)
    assert torch.equal(torch.where(masks == 0, views, originals), originals)
    assert not torch.equal(views, originals)


def test_silhouette_is_kept_unless_told_otherwise(tiny_v_prior, embedding, originals) -> None:
    kept = edited_views(tiny_v_prior, embedding, [RED_TO_BLUE], CAMERAS, originals=originals)
    outside = coverage(originals).expand_as(kept) == 0
    assert kept[outside].eq(1).all()
    edit = replace(RED_TO_BLUE, keep_silhouette=False)
    free = edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals)
    assert not free[outside].eq(1).all()


def test_progress_is_told_and_a_stop_is_heard(tiny_v_prior, embedding, originals) -> None:
    told = []
    edit = replace(RED_TO_BLUE, steps=10, strength=0.5)
    edited_views(tiny_v_prior, embedding, [edit], CAMERAS, originals=originals, progress=lambda *at: told.append(at))
    assert told == [(i, 5) for i in range(1, 6)]
    with pytest.raises(Cancelled):
        edited_views(tiny_v_prior, embedding, [edit], CAMERAS, should_stop=lambda: True)


def test_sizes_and_masks_that_do_not_fit_are_refused(tiny_v_prior, embedding, originals) -> None:
    with pytest.raises(InputError, match="render them at the prior's size"):
        edited_views(tiny_v_prior, embedding, [RED_TO_BLUE], CAMERAS, originals=originals[..., :16, :16])
    with pytest.raises(InputError, match="give these views as well"):
        edited_views(tiny_v_prior, embedding, [RED_TO_BLUE], CAMERAS, masks=torch.ones(1, 4, 1, 32, 32))
