"""Pseudo-words in the diet: what the view encoder sees, what the target is, and that words are learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import tiny_denoiser, two_objects

from invert3d_ns.training.batches import (
    ALL_SHOWN_SHARE,
    RESTYLED_SHARE,
    WORDS_SHARE,
    Batches,
    Captions,
    Shown,
    draw_orbits,
)
from invert3d_ns.training.latents import LatentCache
from invert3d_ns.training.view_words import train_view_words
from invert3d_ns.words.cti import TOKEN
from invert3d_ns.world.data import WorldViews, world_views
from invert3d_ns.world.vocabulary import STYLES

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def sets(small_networks, tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldViews, WorldViews]:
    folder = tmp_path_factory.mktemp("data")
    named = world_views(folder, 10, seed=3, views=8, photos=True)
    return named, world_views(folder, 6, seed=3, views=8, photos=True, kind="assemblies")


@pytest.fixture(scope="module")
def drawn(small_networks, sets, tmp_path_factory: pytest.TempPathFactory):
    """A prior, its sets by their first camera, and many batches."""
    folder = tmp_path_factory.mktemp("drawn")
    prior = tiny_denoiser(folder, sets[0], encodes=True)
    caches = [LatentCache(folder, data, prior.vae, 8, 4) for data in sets]
    batches = Batches(sets[0], caches[0], 16, 5, 1000, assemblies=(sets[1], caches[1]), words=True)
    return prior, caches, [batches.draw(step) for step in range(150)]


def _source(batch, caches) -> LatentCache:
    """Cameras tell the sets apart: every object has azimuths of its own."""
    return next(
        cache
        for cache in caches
        if int(batch.objects.max()) < len(cache.data)
        and torch.equal(cache.data.cameras()[batch.objects[:, None], batch.views], batch.cameras)
    )


def test_the_encoder_sees_photos_of_other_views_and_the_target_is_what_the_prompt_says(drawn) -> None:
    _, caches, batches = drawn
    shown = [batch for batch in batches if isinstance(batch.condition, Shown)]
    assert abs(len(shown) - WORDS_SHARE * len(batches)) < 4 * (len(batches) * 0.25) ** 0.5
    kinds, styled, whole = set(), 0, 0
    for batch in shown:
        cache, condition = _source(batch, caches), batch.condition
        kinds.add(id(cache))
        cameras = cache.data.cameras()[batch.objects]
        seen = torch.cdist(condition.cameras, cameras).argmin(-1)
        assert not (seen[:, :, None] == batch.views[:, None]).any(), "targets are shown"
        whole += seen.shape[1] == 4
        photos = cache.encoded(batch.objects, seen, as_photos=True)
        torch.testing.assert_close(condition.latents, photos, rtol=0, atol=0)
        for row, (item, prompt) in enumerate(zip(batch.objects.tolist(), condition.prompts, strict=True)):
            style = list(STYLES)[int(cache.data.styles[item])]
            asked = style != "photo" and prompt in [wording.format(TOKEN) for wording in STYLES[style]]
            assert asked or prompt in ("", *(wording.format(TOKEN) for wording in STYLES["photo"]))
            expected = cache.encoded(batch.objects[row : row + 1], batch.views[row : row + 1], as_photos=not asked)[0]
            if prompt:  # a dropped prompt does not say which of the two it was
                torch.testing.assert_close(batch.latents[row], expected, rtol=0, atol=0)
            styled += asked
    assert len(kinds) == 2 and 0.4 * ALL_SHOWN_SHARE < whole / len(shown) < 1
    assert styled > 0.2 * RESTYLED_SHARE * sum(len(batch.objects) for batch in shown) * 0.4


def test_captions_keep_their_part_of_the_batches(drawn) -> None:
    _, caches, batches = drawn
    captioned = [batch for batch in batches if isinstance(batch.condition, Captions)]
    assert len(captioned) > 0.2 * len(batches)
    for batch in captioned[:10]:
        cache = _source(batch, caches)
        for item, text in zip(batch.objects.tolist(), batch.condition.texts, strict=True):
            assert text in ("", *cache.data.captions[item])


def test_words_are_dropped_and_noised_by_the_seed_alone(drawn) -> None:
    prior, _, batches = drawn
    batch = next(batch for batch in batches if isinstance(batch.condition, Shown))
    first, again = batch.condition.context(prior), batch.condition.context(prior)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    first.square().sum().backward()
    assert prior.view_encoder.last.weight.grad.abs().max() > 0
    prior.view_encoder.zero_grad()


def test_draws_without_others_show_the_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    targets, others = draw_orbits(3, 1, generator)
    assert targets.tolist() == [[0]] * 3 and others.tolist() == [[0]] * 3
    targets, others = draw_orbits(3, 8, generator)
    assert targets.shape == (3, 4) and not set(targets[0].tolist()) & set(others.flatten().tolist())


def test_the_encoders_own_stage_trains_nothing_else(tmp_path: Path) -> None:
    data = two_objects()
    prior = tiny_denoiser(tmp_path, data, encodes=True)
    frozen = {name: value.clone() for name, value in prior.unet.state_dict().items()}
    train_view_words(tmp_path, prior, [data], 60)
    assert all(torch.equal(value, frozen[name]) for name, value in prior.unet.state_dict().items())
    with torch.no_grad():
        words = prior.encode_views(prior.encode_images(data.images(slice(None))), data.cameras())
    assert float((words[0] - words[1]).norm() / words.norm()) > 0.1
