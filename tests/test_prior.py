"""The prior's mathematics: words, noise and v, zero terminal SNR, views."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo, fingerprint
from invert3d_ns.scenes.cameras import camera_condition


@pytest.fixture(params=["epsilon", "v_prediction"])
def prior(request: pytest.FixtureRequest, tiny_prior, tiny_v_prior):
    return tiny_prior if request.param == "epsilon" else tiny_v_prior


@pytest.fixture
def cameras() -> torch.Tensor:
    return camera_condition(torch.tensor([0.0, 90.0, 180.0, 270.0]), torch.tensor(10.0))[None]


def noise_like(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Words


def test_words_are_spliced_at_the_token_embeddings(tiny_prior) -> None:
    # Vectors that are the embeddings of real words must give what those words give.
    with torch.no_grad():
        red_cube = torch.cat([tiny_prior.word_vectors("red"), tiny_prior.word_vectors("cube")])
        spliced = tiny_prior.encode_prompt("a photo of <object> on the mug", {"<object>": red_cube})
        written = tiny_prior.encode_prompt("a photo of red cube on the mug")
    torch.testing.assert_close(spliced, written)


def test_several_placeholders_and_prompts(tiny_prior) -> None:
    words = {"<a>": tiny_prior.word_vectors("cat"), "<ab>": tiny_prior.word_vectors("one two")}
    with torch.no_grad():
        spliced = tiny_prior.encode_prompt(["<ab> and <a> and <a>", "a mug", "<a>"], words)
        written = tiny_prior.encode_prompt(["one two and cat and cat", "a mug", "cat"])
    torch.testing.assert_close(spliced, written)


def test_gradient_reaches_the_words_and_nothing_else(prior, cameras) -> None:
    vectors = (0.02 * noise_like(5, 24)).requires_grad_()
    context = prior.encode_prompt("a photo of <object>", {"<object>": vectors})
    prior.prediction_loss(
        noise_like(1, 4, 4, 4, 4), noise_like(1, 4, 4, 4, 4, seed=1), torch.tensor([400]), context, cameras
    ).backward()
    assert vectors.grad is not None and (vectors.grad.norm(dim=1) > 0).all()
    assert all(p.grad is None for p in prior.parameters())


def test_gradient_of_the_words_is_the_slope_of_the_loss(tiny_prior, cameras) -> None:
    def loss(vectors: torch.Tensor) -> torch.Tensor:
        context = tiny_prior.encode_prompt("<object> on a mug", {"<object>": vectors})
        return tiny_prior.prediction_loss(
            noise_like(1, 4, 4, 4, 4), noise_like(1, 4, 4, 4, 4, seed=1), torch.tensor([700]), context, cameras
        )

    vectors, direction = 0.05 * noise_like(2, 24), noise_like(2, 24, seed=2)
    leaf = vectors.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    with torch.no_grad():
        slope = (loss(vectors + 1e-2 * direction) - loss(vectors - 1e-2 * direction)) / 2e-2
    assert (leaf.grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.05)


def test_threads_do_not_see_each_others_words(tiny_prior) -> None:
    prompts = {f"<w{i}>": noise_like(3, 24, seed=i) for i in range(4)}
    with torch.no_grad():
        expected = {t: tiny_prior.encode_prompt(t, {t: v}) for t, v in prompts.items()}
        plain = tiny_prior.encode_prompt("a red cube")
    wrong: list[str] = []

    def encode(token: str) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(tiny_prior.encode_prompt(token, {token: prompts[token]}), expected[token]):
                    wrong.append(token)
                if not torch.allclose(tiny_prior.encode_prompt("a red cube"), plain):
                    wrong.append("plain")

    threads = [threading.Thread(target=encode, args=(token,)) for token in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_too_long_a_prompt_names_the_words_that_would_be_cut(tiny_prior) -> None:
    prompt = "a photo of <object> with " + "red " * 61 + "blue mug"
    with pytest.raises(InputError) as error:
        tiny_prior.encode_prompt(prompt, {"<object>": torch.zeros(10, 24)})
    message = str(error.value)
    assert "77 tokens" in message and "takes 75" in message and "'blue mug'" in message and "\n" not in message


def test_longest_prompt_that_fits(tiny_prior) -> None:
    with torch.no_grad():
        assert tiny_prior.encode_prompt("<object>", {"<object>": torch.zeros(75, 24)}).shape == (1, 77, 24)
        assert tiny_prior.encode_prompt("red " * 75).shape == (1, 77, 24)


@pytest.mark.parametrize("count", [0, 76, 300])
def test_more_words_than_the_context_takes(tiny_prior, count: int) -> None:
    with pytest.raises(InputError, match="between 1 and 75"):
        tiny_prior.encode_prompt("<object>", {"<object>": torch.zeros(count, 24)})


def test_words_of_another_width(tiny_prior) -> None:
    with pytest.raises(InputError, match=r"\(N, 24\)"):
        tiny_prior.encode_prompt("<object>", {"<object>": torch.zeros(3, 32)})


def test_empty_init_word(tiny_prior) -> None:
    with pytest.raises(InputError, match="empty"):
        tiny_prior.word_vectors(" ")


# Images


def test_images_keep_their_leading_shape_and_gradient(tiny_prior) -> None:
    images = torch.rand(2, 3, 3, 32, 32, requires_grad=True)
    latents = tiny_prior.encode_images(images)
    assert latents.shape == (2, 3, 4, 4, 4)
    latents.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    with torch.no_grad():
        assert tiny_prior.decode_latents(latents).shape == images.shape


def test_sampled_latents_follow_the_generator(tiny_prior) -> None:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        first, second, other = (
            tiny_prior.encode_images(images, sample=True, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
        )
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, other)


def test_odd_image_size(tiny_prior) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        tiny_prior.encode_images(torch.rand(1, 3, 30, 32))


# Noise


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noise_and_clean_latents_recombine_to_the_input(prior, cameras, t: int) -> None:
    noisy, steps = noise_like(1, 4, 4, 4, 4), torch.tensor([t])
    with torch.no_grad():
        context = prior.encode_prompt("a red cube")
        noise = prior.predict_noise(noisy, steps, context, cameras)
        clean = prior.predict_clean(noisy, steps, context, cameras)
    assert noise.isfinite().all() and clean.isfinite().all()
    torch.testing.assert_close(prior.add_noise(clean, noise, steps), noisy, rtol=1e-4, atol=1e-4)


def test_zero_terminal_snr_is_really_zero(tiny_v_prior, cameras) -> None:
    assert tiny_v_prior.alphas_cumprod[-1] == 0
    noisy, t = noise_like(1, 4, 4, 4, 4), torch.tensor([999])
    with torch.no_grad():
        context = tiny_v_prior.encode_prompt("a cube")
        assert torch.equal(tiny_v_prior.add_noise(noisy, noisy * 2, t), noisy * 2)
        assert torch.equal(tiny_v_prior.predict_noise(noisy, t, context, cameras), noisy)
        clean = tiny_v_prior.predict_clean(noisy, t, context, cameras)
        assert torch.equal(clean, -tiny_v_prior.predict(noisy, t, context, cameras))


def test_noise_agrees_with_diffusers(prior) -> None:
    latents, noise = noise_like(2, 4, 4, 4, 4), noise_like(2, 4, 4, 4, 4, seed=1)
    t = torch.tensor([3, 801])
    expected = prior.scheduler.add_noise(latents, noise, t)
    torch.testing.assert_close(prior.add_noise(latents, noise, t), expected)


def test_loss_is_zero_at_the_own_prediction(prior, cameras, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, noise, t = (
        noise_like(1, 4, 4, 4, 4),
        noise_like(1, 4, 4, 4, 4, seed=1),
        torch.tensor([[10, 200, 700, 999]]),
    )
    alpha_bar = prior.alphas_cumprod[t][..., None, None, None]
    perfect = (
        noise
        if prior.info.prediction_type == "epsilon"
        else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
    )
    monkeypatch.setattr(type(prior), "predict", lambda *_, **__: perfect)
    context = torch.zeros(1, 77, 24)
    each = prior.prediction_loss(latents, noise, t, context, cameras, reduction="none")
    assert each.shape == (1, 4) and each.max() < 1e-12
    monkeypatch.setattr(type(prior), "predict", lambda *_, **__: perfect + 2)
    assert prior.prediction_loss(latents, noise, t, context, cameras).item() == pytest.approx(4)


def test_one_timestep_means_the_same_for_every_view(prior, cameras) -> None:
    noisy = noise_like(1, 4, 4, 4, 4)
    with torch.no_grad():
        context = prior.encode_prompt("a cube")
        shared = prior.predict_noise(noisy, torch.tensor([300]), context, cameras)
        each = prior.predict_noise(noisy, torch.full((1, 4), 300), context, cameras)
    torch.testing.assert_close(shared, each)


# Sampling


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_samples_are_images_and_repeatable(prior, cameras, sampler: str) -> None:
    first, second, other = (prior.sample("a red cube", cameras, steps=4, seed=s, sampler=sampler) for s in (0, 0, 1))
    assert first.shape == (1, 4, 3, 32, 32)
    assert first.isfinite().all() and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, second) and not torch.allclose(first, other)


def test_an_objects_sample_does_not_depend_on_the_batch(tiny_prior, cameras) -> None:
    together = tiny_prior.sample(["a cube", "a mug"], cameras.expand(2, -1, -1), steps=3, seed=7)
    alone = tiny_prior.sample("a mug", cameras, steps=3, seed=8)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)


def test_any_number_of_views_and_callback(tiny_prior) -> None:
    cameras = camera_condition(torch.arange(5) * 72.0, torch.tensor(0.0))[None]
    seen: list[int] = []
    words = {"<object>": noise_like(4, 24)}
    images = tiny_prior.sample(
        "a <object>",
        cameras,
        words=words,
        steps=3,
        guidance_scale=1.0,
        callback=lambda step, latents: seen.append(step),
    )
    assert images.shape[1] == 5 and seen == [0, 1, 2]


# The prior as a part of other things


def test_a_frozen_prior_stays_frozen_inside_a_training_model(tiny_prior) -> None:
    outer = torch.nn.ModuleDict({"prior": tiny_prior}).train()
    assert outer.training and not tiny_prior.unet.training
    assert not any(p.requires_grad for p in outer.parameters())


def test_fingerprint_depends_on_weights_alone(tiny_prior, tiny_v_prior) -> None:
    again = fingerprint([tiny_prior.unet, tiny_prior.text_encoder])
    assert tiny_prior.info.fingerprint == again and len(again) == 16
    assert tiny_v_prior.info.fingerprint != again


def test_facts_are_read_from_the_components(tiny_v_prior) -> None:
    info = tiny_v_prior.info
    assert isinstance(info, PriorInfo)
    assert (info.image_size, info.latent_size, info.token_dim, info.context_length) == (32, 4, 24, 77)
    assert (info.prediction_type, info.guidance_rescale) == ("v_prediction", 0.7)


def test_importing_the_prior_imports_no_diffusion_library() -> None:
    modules = "prior.multiview, invert3d_ns.prior.checkpoints, invert3d_ns.words.embedding, invert3d_ns.commands.views"
    code = f"""if True:
        import sys, invert3d_ns.{modules}
        print(sorted({{"diffusers", "transformers", "open_clip", "huggingface_hub"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_inversion_benchmark_compares_with_the_bare_forward(tiny_prior) -> None:
    from invert3d_ns.metrics.bench_inversion import bench_inversion_step

    rows = bench_inversion_step(tiny_prior, quick=True, vectors=4)
    assert rows[0]["ratio"] == 1 and all(row["ms"] > 0 for row in rows)
    assert not any(p.requires_grad for p in tiny_prior.parameters())
