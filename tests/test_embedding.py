"""The embedding file: whole or not there, refused where it does not belong, and readable by diffusers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from invert3d_ns.base.errors import InputError
from invert3d_ns.words.embedding import CAMERA_FRAME, ObjectEmbedding


@pytest.fixture
def embedding(tiny_prior) -> ObjectEmbedding:
    vectors = 0.1 * torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    return ObjectEmbedding.for_prior(tiny_prior, vectors, init_word="object", steps=400)


def test_file_holds_everything(embedding: ObjectEmbedding, tiny_prior, tmp_path: Path) -> None:
    path = tmp_path / "embedding.safetensors"
    embedding.save(path)
    loaded = ObjectEmbedding.load(path)
    assert torch.equal(loaded.vectors, embedding.vectors)
    facts = [{**vars(e), "vectors": None} for e in (loaded, embedding)]
    assert facts[0] == facts[1]
    loaded.check_prior(tiny_prior)
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["<object>"]
        metadata = file.metadata()
    assert metadata["vectors"] == "3" and metadata["dimension"] == "24" and metadata["steps"] == "400"
    assert metadata["prior"] == "tiny-epsilon" and metadata["camera_frame"] == CAMERA_FRAME


def test_vectors_are_a_copy_on_the_cpu(tiny_prior) -> None:
    vectors = torch.zeros(2, 24, dtype=torch.float64, requires_grad=True)
    embedding = ObjectEmbedding.for_prior(tiny_prior, vectors, init_word="object", steps=0)
    assert embedding.vectors.dtype == torch.float32 and not embedding.vectors.requires_grad
    single = torch.zeros(2, 24)
    embedding = ObjectEmbedding.for_prior(tiny_prior, single, init_word="object", steps=0)
    single += 1
    assert embedding.vectors.sum() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_reads_it_and_encodes_the_same(tiny_prior, tmp_path: Path, count: int) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    vectors = 0.1 * torch.randn(count, 24, generator=torch.Generator().manual_seed(1))
    embedding = ObjectEmbedding.for_prior(tiny_prior, vectors, init_word="object", steps=1)
    path = tmp_path / "embedding.safetensors"
    embedding.save(path)
    pipeline = StableDiffusionPipeline(
        vae=tiny_prior.vae,
        text_encoder=copy.deepcopy(tiny_prior.text_encoder),
        tokenizer=copy.deepcopy(tiny_prior.tokenizer),
        unet=UNet2DConditionModel(
            sample_size=4,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=24,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.tokenizer.model_max_length = 77
    pipeline.load_textual_inversion(str(path))
    for prompt in ("<object>", "a photo of <object> on a mug"):
        with torch.no_grad():
            theirs, _ = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, do_classifier_free_guidance=False)
            ours = tiny_prior.encode_prompt(prompt, embedding.words)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_words_of_another_prior_are_refused(embedding: ObjectEmbedding, tiny_v_prior) -> None:
    with pytest.raises(InputError) as error:
        embedding.check_prior(tiny_v_prior)
    message = str(error.value)
    assert "tiny-epsilon" in message and "tiny-v_prediction" in message and "--prior" in message and "\n" not in message


def test_words_of_another_width_are_refused(tiny_prior) -> None:
    embedding = ObjectEmbedding(torch.zeros(2, 768), prior="mvdream-sd1.5")
    with pytest.raises(InputError) as error:
        embedding.check_prior(tiny_prior)
    message = str(error.value)
    assert "768" in message and "24" in message and "--prior mvdream-sd1.5" in message


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        ({"weight": torch.zeros(2, 2)}, None, "not an object embedding"),
        (
            {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)},
            {"format": "invert3d_ns.embedding"},
            "not an object embedding",
        ),
        ({"<object>": torch.zeros(2, 2)}, {"format": "invert3d_ns.embedding", "version": "2"}, "version 2"),
        ({"<object>": torch.zeros(2)}, {"format": "invert3d_ns.embedding", "version": "1"}, "damaged"),
        ({"<object>": torch.full((2, 2), torch.nan)}, {"format": "invert3d_ns.embedding", "version": "1"}, "damaged"),
        ({"<object>": torch.zeros(2, 2)}, {"format": "invert3d_ns.embedding", "version": "1", "steps": "x"}, "damaged"),
    ],
)
def test_bad_files(tmp_path: Path, tensors, metadata, says: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(InputError) as error:
        ObjectEmbedding.load(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_and_truncated_files(embedding: ObjectEmbedding, tmp_path: Path) -> None:
    path = tmp_path / "embedding.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        ObjectEmbedding.load(path)
    embedding.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="truncated"):
        ObjectEmbedding.load(path)


def test_no_space_leaves_the_old_file(embedding: ObjectEmbedding, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "embedding.safetensors"
    embedding.save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        embedding.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
