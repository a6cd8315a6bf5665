"""The ray reader: drafts of views from the prompt alone, as a part of a prior that may be missing."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import load_prior, save_prior
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.memory import prior_networks
from invert3d_ns.prior.offload import Offload
from invert3d_ns.prior.rays import ray_features
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.views import generate_views


@pytest.fixture()
def cameras() -> torch.Tensor:
    return camera_condition(torch.tensor([[0.0, 80.0, 130.0], [20.0, 100.0, 300.0]]), torch.tensor([[12.0], [-5.0]]))


@pytest.fixture(scope="module")
def folder(tiny_encoding_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "reading"
    save_prior(tiny_encoding_prior, path, dtype=torch.float32)
    return path


def _plain(reader: Any, context: torch.Tensor, camera: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The reader's mathematics for one ray at a time, in double precision."""
    heads, context = reader.blocks[0].heads, reader.context_norm(context)
    places = []
    for ray in ray_features(camera, 4):
        x = reader.ray(ray)
        for block in reader.blocks:
            q = block.cross_q(block.cross_norm(x)).reshape(heads, -1)
            keys, values = (part.reshape(len(context), heads, -1) for part in block.cross_kv(context).chunk(2, -1))
            scores = torch.einsum("hd,lhd->hl", q, keys) / q.shape[-1] ** 0.5
            mixed = torch.einsum("hl,lhd->hd", scores.softmax(-1) * weights, values)
            x = x + block.cross_out(mixed.flatten())
            x = x + block.feed(block.feed_norm(x))
        places.append(reader.last(reader.last_norm(x)))
    return torch.stack(places, -1).unflatten(-1, (4, 4))


def test_it_is_the_plain_mathematics_in_values_and_gradients(tiny_encoding_prior, cameras: torch.Tensor) -> None:
    reader = copy.deepcopy(tiny_encoding_prior.ray_reader).double()
    context = torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.rand(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2
    fast = reader(context, cameras.double(), 4, weights)
    slow = torch.stack(
        [
            torch.stack([_plain(reader, context[b], cameras[b, f].double(), weights[b]) for f in range(3)])
            for b in range(2)
        ]
    )
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-8)
    gradients = [torch.autograd.grad(x.square().sum(), context, retain_graph=True)[0] for x in (fast, slow)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-8)
    ones = torch.ones_like(weights)
    torch.testing.assert_close(reader(context, cameras.double(), 4, ones), reader(context, cameras.double(), 4))


def test_each_view_may_have_a_context_of_its_own(tiny_encoding_prior, cameras: torch.Tensor) -> None:
    prior = tiny_encoding_prior
    context = prior.encode_prompt(["a red cube", "a blue ball"])
    weights = torch.rand(2, 77)
    shared = prior.draft(context, cameras, token_weights=weights)
    each = prior.draft(context[:, None].expand(-1, 3, -1, -1), cameras, token_weights=weights)
    torch.testing.assert_close(each, shared, atol=1e-5, rtol=0)
    assert shared.shape == (2, 3, 4, 4, 4) and float((shared[0] - shared[1]).abs().max()) > 1e-3
    assert prior.draft(context, cameras, 6).shape == (2, 3, 4, 6, 6)


def test_the_unet_is_given_the_draft_of_its_own_prompt_and_weights(tiny_encoding_prior, cameras: torch.Tensor) -> None:
    prior = tiny_encoding_prior
    noisy, t = torch.randn(2, 3, 4, 4, 4), torch.tensor([700, 700])
    contexts = torch.stack([prior.encode_prompt(["a red cube"] * 2), prior.encode_prompt(["a blue ball"] * 2)])
    together = prior.predict_each(noisy, t, contexts, cameras)
    for context, row in zip(contexts, together, strict=True):
        torch.testing.assert_close(prior.predict(noisy, t, context, cameras), row, atol=1e-5, rtol=0)
    other = prior.predict(noisy, t, contexts[0], cameras, draft=prior.draft(contexts[1], cameras))
    assert float((other - together[0]).abs().max()) > 1e-4
    # Re-weighted words are re-weighted in the draft as well.
    weights = torch.ones(1, 77)
    conditions = Conditions(contexts[0], contexts[1][:1], token_weights=weights)
    torch.testing.assert_close(conditions.predict(prior, noisy, t, cameras), together[0], atol=1e-5, rtol=0)
    weights = torch.rand(2, 77)
    seen = prior.predict_each(noisy, t, contexts[:1], cameras, token_weights=weights[None])[0]
    stale = prior.ray_reader
    try:
        plain = copy.deepcopy(stale)
        prior.ray_reader = plain
        plain.forward = lambda context, cameras, size, weights=None: type(stale).forward(plain, context, cameras, size)
        unweighted = prior.predict_each(noisy, t, contexts[:1], cameras, token_weights=weights[None])[0]
    finally:
        prior.ray_reader = stale
    assert float((seen - unweighted).abs().max()) > 1e-5


def test_it_is_saved_and_loaded_and_part_of_the_fingerprint(tiny_encoding_prior, folder: Path, cameras) -> None:
    again = load_prior(str(folder), "cpu", torch.bfloat16)
    assert again.ray_reader is not None and again.ray_reader.dtype == torch.float32
    assert again.info.fingerprint == tiny_encoding_prior.info.fingerprint
    full = load_prior(str(folder), "cpu", torch.float32)
    context = full.encode_prompt("a red cube").expand(2, -1, -1)
    torch.testing.assert_close(full.draft(context, cameras), tiny_encoding_prior.draft(context, cameras))
    before = full.fingerprint()
    assert full.ray_reader is not None
    full.ray_reader.last.bias.add_(1.0)
    assert full.fingerprint() != before == full.info.fingerprint


def test_sampling_may_start_from_the_draft(tiny_encoding_prior, cameras: torch.Tensor) -> None:
    prior, steps = tiny_encoding_prior, []
    context = prior.encode_prompt("a red cube").expand(2, -1, -1)
    drawn = prior.decode_latents(prior.draft(context, cameras))
    options: dict[str, Any] = {"guidance_scale": 1.0, "callback": lambda step, _: steps.append(step)}
    near = prior.sample(context, cameras, strength=0.02, steps=50, **options)
    assert steps == [0]
    far = prior.sample(context, cameras, strength=0.6, steps=10, **options)
    assert steps[1:] == list(range(6))
    assert float((near - drawn).square().mean()) < 0.4 * float((far - drawn).square().mean())
    others = [prior.sample(context, cameras, steps=10, seed=seed, strength=0.6) for seed in (0, 1)]
    assert float((others[0] - others[1]).abs().max()) > 1e-3


def test_views_of_words_are_sampled_as_the_prior_wants(tiny_encoding_prior, cameras: torch.Tensor) -> None:
    prior, wanted = tiny_encoding_prior, tiny_encoding_prior.info
    embedding = ObjectEmbedding.for_prior(prior, torch.randn(3, 24), init_word="object", steps=0)
    asked: list[float] = []
    sample = prior.sample
    try:
        prior.info = replace(wanted, words_strength=0.5)
        prior.sample = lambda *args, **options: (asked.append(options["strength"]), sample(*args, **options))[1]
        generate_views(prior, embedding, [0.0, 90.0])
        generate_views(prior, embedding, [0.0, 90.0], prompt="a red <object>")
        generate_views(prior, embedding, [0.0, 90.0], strength=0.8)
    finally:
        prior.info = wanted
        del prior.sample
    assert asked == [0.5, 1.0, 0.8]


def test_priors_without_one_have_no_drafts(tiny_v_prior, cameras: torch.Tensor) -> None:
    assert tiny_v_prior.draft(tiny_v_prior.encode_prompt("a red cube"), cameras) is None
    with pytest.raises(InputError, match="drafts no views; sample with strength 1"):
        tiny_v_prior.sample("a red cube", cameras, strength=0.5)


def _without_sizes(target: Path, part: str) -> None:
    manifest = target / "manifest.json"
    listed = json.loads(manifest.read_text())
    for files in (listed.get("files", listed),):
        for name in [name for name in files if name.startswith(part)]:
            del files[name]
    manifest.write_text(json.dumps(listed))


@pytest.mark.parametrize("entries", [{"context_dim": 32}, {"latent_channels": 8}, {"latent_size": 8}, {"heads": 0}])
def test_a_reader_of_another_prior_is_refused(folder: Path, tmp_path: Path, entries: dict[str, int]) -> None:
    target = Path(shutil.copytree(folder, tmp_path / "other"))
    config = target / "ray_reader" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | entries))
    _without_sizes(target, "ray_reader/config")
    with pytest.raises(InputError, match=r"ray[ _]reader"):
        load_prior(str(target), "cpu", torch.float32)


def test_a_unet_that_takes_drafts_is_refused_without_a_reader(folder: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(folder, tmp_path / "other"))
    shutil.rmtree(target / "ray_reader")
    _without_sizes(target, "ray_reader/")
    with pytest.raises(InputError, match="takes drafts of a ray reader, and it has none"):
        load_prior(str(target), "cpu", torch.float32)


@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_it_is_brought_where_it_computes(mode: Any, tiny_encoding_prior, cameras: torch.Tensor) -> None:
    prior = copy.deepcopy(tiny_encoding_prior)
    context = prior.encode_prompt("a red cube").expand(2, -1, -1)
    expected = prior.predict(torch.ones(2, 3, 4, 4, 4), torch.tensor([600, 600]), context, cameras)
    assert [prior.unet, prior.ray_reader] in prior_networks(prior)
    prior.offload = Offload(prior_networks(prior), torch.device("cpu"), mode)
    got = prior.predict(torch.ones(2, 3, 4, 4, 4), torch.tensor([600, 600]), context, cameras)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    prior.offload.remove()
