"""Checkpoints of every layout end up as the same networks; everything else is refused in one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from ldm_checkpoints import (
    assert_one_line,
    assert_same_networks,
    mvdream_state,
    tiny_clip,
    tiny_open_clip,
    write_checkpoint,
    write_community_folder,
)

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior import checkpoints, layouts
from invert3d_ns.prior.checkpoints import PRIORS, load_prior, open_source, save_prior


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted priors go here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "invert3d_ns" / "priors"


@pytest.fixture(scope="module")
def sd15_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "sd-v1.5-4view.pt", "sd1.5")


@pytest.fixture(scope="module")
def sd21_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "sd-v2.1.safetensors", "sd2.1")


def test_sd15_checkpoint_becomes_the_same_networks(sd15_file: Path, cache: Path) -> None:
    prior = load_prior(sd15_file, "cpu")
    assert_same_networks(prior, "sd1.5")
    ids = torch.tensor([[49406, 320, 2368] + [49407] * 74])
    with torch.no_grad():
        torch.testing.assert_close(prior.encode_prompt("a cat"), tiny_clip()(ids).last_hidden_state)
    assert prior.info.prompt_suffix == ", 3d asset" and prior.info.image_size == 256
    assert all(not p.requires_grad for p in prior.parameters())


def test_sd21_checkpoint_uses_open_clips_penultimate_layer_and_zero_padding(sd21_file: Path) -> None:
    prior = load_prior(sd21_file, "cpu")
    assert_same_networks(prior, "sd2.1")
    tower = tiny_open_clip()
    ids = torch.tensor([[49406, 320, 2368, 49407] + [0] * 73])
    with torch.no_grad():
        x = tower.token_embedding(ids) + tower.positional_embedding
        for block in list(tower.transformer.resblocks)[:-1]:
            x = block(x, attn_mask=tower.attn_mask)
        torch.testing.assert_close(prior.encode_prompt("a cat"), tower.ln_final(x), rtol=1e-4, atol=1e-5)


def test_second_load_comes_from_the_cache(sd15_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_prior(sd15_file, "cpu")
    (folder,) = cache.iterdir()
    assert not list(folder.rglob("*.bin")) and list(folder.rglob("*.safetensors"))
    monkeypatch.setattr(layouts, "convert_source", lambda *_: pytest.fail("converted again"))
    second = load_prior(sd15_file, "cpu")
    assert second.info == first.info
    assert_same_networks(second, "sd1.5")


def test_unwritable_cache_is_a_warning(sd15_file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_same_networks(load_prior(sd15_file, "cpu"), "sd1.5")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert "not cached" in line and "XDG_CACHE_HOME" in line and "a file is in the way" in line


@pytest.mark.parametrize("cached", [True, False])
def test_every_load_of_a_checkpoint_in_full_precision_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in mvdream_state("sd1.5").items():  # as published: not what half precision holds
        state[key] = value * (1 + 1e-4 * torch.rand(value.shape, generator=generator))
    torch.save(state, tmp_path / "full.pt")
    if not cached:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first, second = (load_prior(tmp_path / "full.pt", "cpu") for _ in range(2))
    if cached:
        save_prior(open_source(tmp_path / "full.pt"), tmp_path / "converted")
        second = load_prior(tmp_path / "converted", "cpu")
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.unet.conv_in.weight, state["model.diffusion_model.input_blocks.0.0.weight"])
    cameras = torch.randn(1, 2, 16, generator=generator)
    assert torch.equal(*(p.sample("a cat", cameras, steps=2) for p in (first, second)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, tiny_prior, value: float) -> None:
    state = mvdream_state("sd1.5")
    state["model.diffusion_model.input_blocks.0.0.weight"].view(-1)[3] = value
    torch.save(state, tmp_path / "full.pt")
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "full.pt", "cpu")
    assert_one_line(error, "unet's conv_in.weight", "not finite", "damaged")


def test_weights_beyond_half_precision_are_used_as_they_are(tmp_path: Path, cache: Path, capsys) -> None:
    state = mvdream_state("sd1.5")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    state[key] = state[key] * (1 + 1e-4)
    state[key].view(-1)[3] = 1e6
    torch.save(state, tmp_path / "full.pt")
    prior = load_prior(tmp_path / "full.pt", "cpu")
    assert torch.equal(prior.unet.conv_in.weight, state[key]) and not cache.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert "not cached" in line and "unet's conv_in.weight are as large as 1e+06" in line and "CACHE" not in line
    with pytest.raises(InputError, match=r"too large for .*float16; use them as they are"):
        load_prior(tmp_path / "full.pt", "cpu", torch.float16)
    with pytest.raises(InputError, match=r"too large for torch\.float16"):
        save_prior(prior, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("given", [".", "..", "../community/."])
def test_a_folder_that_is_named_by_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    folder = write_community_folder(tmp_path / "community")
    monkeypatch.chdir(folder / "unet" if given == ".." else folder)
    assert load_prior(given, "cpu").info.name == open_source(given).info.name == "community"


def test_saved_prior_loads_the_same(tiny_v_prior, tmp_path: Path) -> None:
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    prior = load_prior(tmp_path / "prior", "cpu")
    assert prior.info == tiny_v_prior.info
    for a, b in zip(prior.state_dict().values(), tiny_v_prior.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with torch.no_grad():
        prompt = "a red cube on the mug"
        torch.testing.assert_close(prior.encode_prompt(prompt), tiny_v_prior.encode_prompt(prompt), rtol=0, atol=0)
    cameras = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(0))
    for sampler in ("ddim", "dpm++"):
        ours, loaded = (p.sample("a cube", cameras, steps=3, sampler=sampler) for p in (tiny_v_prior, prior))
        torch.testing.assert_close(ours, loaded)


def test_saved_weights_are_half_precision_shards(tiny_prior, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_prior(tiny_prior, tmp_path / "prior", max_shard_size="60KB")
    shards = list((tmp_path / "prior" / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_mode & 0o044 for shard in shards)
    assert {value.dtype for shard in shards for value in load_file(shard).values()} == {torch.float16}
    loaded = load_prior(tmp_path / "prior", "cpu")
    for a, b in zip(loaded.unet.state_dict().values(), tiny_prior.unet.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b.half().float(), rtol=0, atol=0)
    assert next(tiny_prior.unet.parameters()).dtype == torch.float32


def test_failed_save_leaves_nothing(tiny_prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tiny_prior.tokenizer), "save_pretrained", no_space)
    with pytest.raises(InputError, match="No space left"):
        save_prior(tiny_prior, tmp_path / "prior")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [None, 0])
def test_untrained_prior_is_never_the_bundled_one(
    tiny_prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None
) -> None:
    save_prior(tiny_prior, tmp_path / "bundled")
    path = tmp_path / "bundled" / "prior.json"
    document = json.loads(path.read_text()) | {"name": "bundled"}
    document["training"] = {} if steps is None else {"steps": steps}
    path.write_text(json.dumps(document))
    monkeypatch.setattr(checkpoints, "BUNDLED_FOLDER", tmp_path / "bundled")
    with pytest.raises(InputError, match="not a trained one"):
        load_prior("bundled", "cpu")


# Bad input


def test_unknown_name_lists_names() -> None:
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd15")
    assert_one_line(error, *PRIORS, "did you mean 'mvdream-sd1.5'")


def test_named_prior_is_fetched_converted_and_kept(
    sd15_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints.download, "fetch_weights", lambda *_, **__: sd15_file)
    prior = load_prior("mvdream-sd1.5", "cpu")
    assert prior.info.name == "mvdream-sd1.5"
    digest = hashlib.sha256(sd15_file.read_bytes()).hexdigest()
    assert prior.info.sources == {sd15_file.name: {"sha256": digest, "size": sd15_file.stat().st_size}}
    monkeypatch.setattr(checkpoints.download, "fetch_weights", lambda *_, **__: pytest.fail("asked the hub again"))
    assert (cache / "mvdream-sd1.5" / "prior.json").is_file()
    assert_same_networks(load_prior("mvdream-sd1.5", "cpu"), "sd1.5")


class Exploit:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "evil.pt"
    torch.save({**{"w": torch.zeros(1)}, "x": Exploit(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError) as error:
        load_prior(path)
    assert_one_line(error, "refused", "code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.6])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float, sd15_file: Path, sd21_file: Path) -> None:
    source = sd15_file if suffix == ".pt" else sd21_file
    path = tmp_path / f"weights{suffix}"
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError) as error:
        load_prior(path)
    assert_one_line(error, str(path), "download it again")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".safetensors", ".ply", ""])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<!doctype html><html>404</html>", "a web page (HTML), not"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        ('{"a": 1}', "a JSON file, not"),
        ("ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "a .ply point cloud, not"),
    ],
)
def test_files_that_are_no_weights_are_named(tmp_path: Path, suffix: str, content: str, says: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        load_prior(path, "cpu")
    assert_one_line(error, f"{path} is {says}", "; ")
    assert ("git lfs pull" in str(error.value)) == ("LFS" in says and suffix not in (".ply", ""))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    state = mvdream_state("sd1.5")
    del state["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    torch.save(state, tmp_path / "partial.pt")
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "partial.pt")
    assert_one_line(error, "mid_block.resnets.0.conv1.weight", "missing")


def test_damaged_folder(tiny_prior, tmp_path: Path) -> None:
    save_prior(tiny_prior, tmp_path / "prior")
    (weights,) = (tmp_path / "prior" / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "prior")
    assert_one_line(error, "unet", "truncated")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_shard_is_never_filled_with_random_weights(tiny_prior, tmp_path: Path, part: str) -> None:
    save_prior(tiny_prior, tmp_path / "prior", max_shard_size="20KB")
    sorted((tmp_path / "prior" / part).glob("*.safetensors"))[-1].unlink()
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "prior")
    assert_one_line(error, part, "missing")


def test_scheduler_of_another_kind(tiny_prior, tmp_path: Path) -> None:
    save_prior(tiny_prior, tmp_path / "prior")
    path = tmp_path / "prior" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "DiffusionPipeline"}))
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "prior")
    assert_one_line(error, "not a scheduler")


def test_newer_folder_format(tiny_prior, tmp_path: Path) -> None:
    save_prior(tiny_prior, tmp_path / "prior")
    path = tmp_path / "prior" / "prior.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "prior")
    assert_one_line(error, "99", "update")


def test_clip_vocabulary_agrees_with_open_clips() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    from invert3d_ns.prior.vocabulary import clip_tokenizer

    ours, theirs = clip_tokenizer(), SimpleTokenizer()
    for text in [
        "a photo of a cat",
        "A Red  chair, with BLACK legs!",
        "don't stop: 3d-asset 2024 #1",
        "naïve café",
        "日本語 🐱",
        "<object>, 3d asset",
    ]:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text)


def test_a_checkpoint_with_the_longest_name_is_cached(tmp_path: Path, cache: Path) -> None:
    path = write_checkpoint(tmp_path / ("ü" * 125 + ".pt"), "sd1.5")
    assert load_prior(path, "cpu").info.name == path.stem
    (folder,) = cache.iterdir()
    assert folder.name.startswith("ü" * 100 + "-")
