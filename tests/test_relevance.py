"""Which splats words are about: attention that is read without disturbing anybody, and the mask it becomes."""

from __future__ import annotations

import threading

import pytest
import torch
from test_scene_editor import scene, words

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing import relevance as module
from invert3d_ns.editing.relevance import above_threshold, recorded_attention, relevant_splats, word_maps
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]


def inputs(prior, seed: int = 0):
    noisy = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return noisy, torch.tensor([500]), prior.encode_prompt("a red cube"), CAMERAS


@torch.no_grad()
def test_what_is_recorded_is_the_softmax_of_the_decoders_layers(tiny_prior) -> None:
    noisy, t, context, cameras = inputs(tiny_prior)
    layers = [m for name, m in tiny_prior.unet.up_blocks.named_modules() if name.endswith("attn2")]
    calls: list[tuple] = []
    handles = [
        projection.register_forward_hook(lambda _m, _i, out, layer=layer: calls.append((layer, out)))
        for layer in layers
        for projection in (layer.to_q, layer.to_k)
    ]
    with recorded_attention(tiny_prior, [2, 3]) as record:
        inside = tiny_prior.predict(noisy, t, context, cameras)
    for handle in handles:
        handle.remove()
    assert torch.equal(inside, tiny_prior.predict(noisy, t, context, cameras)), "the prediction is what it was"
    assert len(record) == len(layers) > 1
    for index, found in enumerate(record):
        # Each layer projects twice, the first time to be recorded.
        (layer, q), (_, k) = calls[4 * index : 4 * index + 2]
        q, k = (x[0].reshape(-1, layer.heads, x.shape[-1] // layer.heads) for x in (q, k))
        scores = torch.einsum("lhd,nhd->hln", q, k) * layer.scale
        expected = scores.softmax(-1)[..., [2, 3]].mean((0, 2))
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-6)


def test_processors_are_put_back_also_after_a_failure(tiny_prior) -> None:
    before = tiny_prior.unet.attn_processors
    with pytest.raises(KeyError), recorded_attention(tiny_prior, [1]):
        assert tiny_prior.unet.attn_processors != before
        raise KeyError
    assert tiny_prior.unet.attn_processors == before


@torch.no_grad()
def test_another_thread_samples_undisturbed_and_is_not_recorded(tiny_prior) -> None:
    noisy, t, context, cameras = inputs(tiny_prior)
    weights = torch.ones(1, 1, 77)
    weights[..., 2] = 5.0
    expected = tiny_prior.predict_each(noisy, t, context[None], cameras, token_weights=weights)
    assert not torch.equal(expected, tiny_prior.predict_each(noisy, t, context[None], cameras))
    found: list[torch.Tensor] = []

    @torch.no_grad()
    def sample() -> None:
        found.append(tiny_prior.predict_each(noisy, t, context[None], cameras, token_weights=weights))

    with recorded_attention(tiny_prior, [2]) as record:
        thread = threading.Thread(target=sample)
        thread.start()
        thread.join()
        assert not record
        sample()
        assert record
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)


def test_maps_are_of_the_phrase_and_repeat(tiny_v_prior) -> None:
    images = torch.rand(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = word_maps(tiny_v_prior, words(tiny_v_prior), "red", images, CAMERAS)
    assert maps.shape == (1, 4, 4, 4) and (maps >= 0).all()
    torch.testing.assert_close(maps.mean(), torch.tensor(1.0), rtol=0.05, atol=0)
    assert torch.equal(maps, word_maps(tiny_v_prior, words(tiny_v_prior), " red ", images, CAMERAS))
    assert not torch.equal(maps, word_maps(tiny_v_prior, words(tiny_v_prior), "blue cat", images, CAMERAS))


def test_splats_on_the_side_that_is_attended_to_are_chosen(tiny_v_prior, monkeypatch) -> None:
    """Attention to the upper half of every view means the upper half of the object."""
    cloud = scene(400)
    poses = orbit_camera_to_world(torch.arange(4) * 90.0, torch.tensor(0.0))[None]
    upper = torch.zeros(1, 4, 16, 16)
    upper[:, :, :8] = 1.0
    monkeypatch.setattr(module, "word_maps", lambda *_, **__: upper)
    images = torch.ones(1, 4, 3, 32, 32)
    arguments = (tiny_v_prior, words(tiny_v_prior), "hat", cloud, poses, images, CAMERAS)
    chosen = relevant_splats(*arguments)
    z = cloud.means[:, 2]
    assert chosen[z > 0.15].float().mean() > 0.8 and chosen[z < -0.15].float().mean() < 0.1
    among = cloud.means[:, 0] > 0
    assert torch.equal(relevant_splats(*arguments, among=among) & ~among, torch.zeros(400, dtype=torch.bool))
    monkeypatch.setattr(module, "word_maps", lambda *_, **__: torch.zeros_like(upper))
    with pytest.raises(InputError, match="'hat' are about no splat"):
        relevant_splats(*arguments)


def test_the_threshold_lies_between_least_and_greatest() -> None:
    values, all_ = torch.arange(101.0), torch.ones(101, dtype=torch.bool)
    assert above_threshold(values, all_, 0.5).sum() == 51
    assert above_threshold(values, all_, 0.9).sum() < above_threshold(values, all_, 0.2).sum()
    assert above_threshold(values, values < 50, 0.5).nonzero().flatten().tolist() == list(range(25, 50))
    assert not above_threshold(values, ~all_, 0.5).any() and not above_threshold(torch.ones(101), all_, 0.5).any()


def test_no_words_are_refused(tiny_v_prior) -> None:
    with pytest.raises(InputError, match="words to look for are empty"):
        word_maps(tiny_v_prior, words(tiny_v_prior), "  ", torch.ones(1, 4, 3, 32, 32), CAMERAS)
