"""Pseudo-words in the diet: what the view encoder sees, what the target is, and that words are learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import tiny_denoiser, two_objects

from invert3d_ns.training.batches import (
    ALL_SHOWN_SHARE,
    CHANGED_SHARE,
    CHANGES_SHARE,
    DROP_CAPTION,
    RESTYLED_SHARE,
    WORDS_SHARE,
    Batches,
    Captions,
    Shown,
    draw_orbits,
    turn,
)
from invert3d_ns.training.latents import LatentCache
from invert3d_ns.training.reading import train_reading
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.words.cti import TOKEN
from invert3d_ns.world.data import WorldViews, world_views
from invert3d_ns.world.vocabulary import STYLES

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def sets(small_networks, tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldViews, WorldViews, WorldViews]:
    folder = tmp_path_factory.mktemp("data")
    named = world_views(folder, 10, seed=3, views=8, photos=True)
    assemblies = world_views(folder, 6, seed=3, views=8, photos=True, kind="assemblies")
    return named, assemblies, world_views(folder, 8, seed=3, views=8, kind="changes")


@pytest.fixture(scope="module")
def drawn(small_networks, sets, tmp_path_factory: pytest.TempPathFactory):
    """A prior, its sets by their first camera, and many batches."""
    folder = tmp_path_factory.mktemp("drawn")
    prior = tiny_denoiser(folder, sets[0], encodes=True)
    caches = [LatentCache(folder, data, prior.vae, 8, 4) for data in sets]
    others = {name: (sets[index], caches[index]) for index, name in ((1, "assemblies"), (2, "changes"))}
    batches = Batches((sets[0], caches[0]), 16, 5, 1000, **others, words=True)  # type: ignore[arg-type]
    return prior, caches, [batches.draw(step) for step in range(150)]


def _source(batch, caches) -> LatentCache:
    """Cameras tell the sets apart, however they are turned: every object has an elevation of its own."""
    return next(
        cache
        for cache in caches
        if int(batch.objects.max()) < len(cache.data)
        and torch.allclose(_heights(cache.data.cameras()[batch.objects[:, None], batch.views]), _heights(batch.cameras))
    )


def _heights(cameras: torch.Tensor) -> torch.Tensor:
    return cameras[..., 11]


def test_the_encoder_sees_photos_of_other_views_and_the_target_is_what_the_prompt_says(drawn) -> None:
    _, caches, batches = drawn
    shown = [batch for batch in batches if isinstance(batch.condition, Shown)]
    assert abs(len(shown) - WORDS_SHARE * len(batches)) < 4 * (len(batches) * 0.25) ** 0.5
    kinds, styled, changed, whole = set(), 0, 0, 0
    for batch in shown:
        cache, condition = _source(batch, caches), batch.condition
        kinds.add(id(cache))
        cameras = cache.data.cameras()[batch.objects]
        turns = batch.cameras[:, :1].unflatten(-1, (4, 4)) @ (
            cache.data.cameras()[batch.objects[:, None], batch.views[:, :1]].unflatten(-1, (4, 4)).inverse()
        )
        seen = torch.cdist((turns.inverse() @ condition.cameras.unflatten(-1, (4, 4))).flatten(-2), cameras).argmin(-1)
        assert not (seen[:, :, None] == batch.views[:, None]).any(), "targets are shown"
        whole += seen.shape[1] == 4
        photos = cache.encoded(batch.objects, seen, as_photos=True)
        torch.testing.assert_close(condition.latents, photos, rtol=0, atol=0)
        for row, (item, prompt) in enumerate(zip(batch.objects.tolist(), condition.prompts, strict=True)):
            style, changes = list(STYLES)[int(cache.data.styles[item])], cache.data.changes
            wordings = STYLES[style] if changes is None else (changes[item],)
            asked = (style != "photo" or changes is not None) and prompt in [one.format(TOKEN) for one in wordings]
            changed += asked and changes is not None
            assert asked or prompt in ("", *(wording.format(TOKEN) for wording in STYLES["photo"]))
            expected = cache.encoded(batch.objects[row : row + 1], batch.views[row : row + 1], as_photos=not asked)[0]
            if prompt:  # a dropped prompt does not say which of the two it was
                torch.testing.assert_close(batch.latents[row], expected, rtol=0, atol=0)
            styled += asked and changes is None
    share = CHANGED_SHARE * (1 - DROP_CAPTION) * CHANGES_SHARE * sum(len(batch.objects) for batch in shown)
    assert 0.4 * share < changed < 2 * share
    assert len(kinds) == 3 and 0.4 * ALL_SHOWN_SHARE < whole / len(shown) < 1
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


def test_the_stage_of_reading_trains_both_ends_and_nothing_else(tmp_path: Path) -> None:
    data = two_objects()
    prior = tiny_denoiser(tmp_path, data, encodes=True)
    parts = torch.nn.ModuleDict({"unet": prior.unet, "text": prior.text_encoder})
    frozen = {name: value.clone() for name, value in parts.state_dict().items()}
    train_reading(tmp_path, prior, TrainingSets(data), 200)
    assert all(torch.equal(value, frozen[name]) for name, value in parts.state_dict().items())
    assert all(parameter.requires_grad for parameter in prior.text_encoder.parameters())
    cameras = data.cameras()
    with torch.no_grad():
        latents = prior.encode_images(data.images(slice(None)))
        words = prior.encode_views(latents[:, ::2], cameras[:, ::2])
        drafts = prior.draft(prior.encode_prompt(["<object>"] * 2, {"<object>": words}), cameras[:, 1::2])
        captioned = prior.draft(prior.encode_prompt([options[0] for options in data.captions]), cameras[:, 1::2])
    for drawn in (drafts, captioned):
        assert drawn is not None
        error = (drawn - latents[:, 1::2]).square().mean()
        assert error < 0.9 * float(latents.var())
        assert error < 0.95 * (drawn.flip(0) - latents[:, 1::2]).square().mean()


def test_objects_without_a_front_are_turned_with_both_their_orbits(drawn) -> None:
    _, caches, batches = drawn
    known = caches[1].data.cameras()
    turned = [b for b in batches if isinstance(b.condition, Shown) and _source(b, caches) is caches[1]]
    for batch in turned[:20]:
        seen = batch.condition.cameras.unflatten(-1, (4, 4))
        stored = known[batch.objects[:, None], batch.views].unflatten(-1, (4, 4))
        rotation = batch.cameras.unflatten(-1, (4, 4)) @ stored.inverse()
        torch.testing.assert_close(rotation, rotation[:, :1].expand_as(rotation), atol=1e-4, rtol=0)
        torch.testing.assert_close(rotation[..., 2, :3], torch.tensor([0.0, 0, 1]).expand(*rotation.shape[:2], 3))
        back = (rotation[:, :1].inverse() @ seen).flatten(-2)
        assert float(torch.cdist(back, known[batch.objects]).amin(-1).max()) < 1e-3
    assert turned
    torch.testing.assert_close(turn(known, torch.zeros(len(known))), known)
