"""CLIP towers: the bundled one, tiny random ones, open_clip's folder layout, hubs and mirrors."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import FakeHub, serve_hub
from torch import Tensor

from invert3d_ns.alignment import checkpoints, storage
from invert3d_ns.alignment.checkpoints import BUNDLED_FOLDER, load_clip
from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.alignment.storage import CONFIG, MERGES, PICKLED_WEIGHTS, SAFE_WEIGHTS, save_clip
from invert3d_ns.base.errors import InputError
from invert3d_ns.training import clip as training
from invert3d_ns.weights.hub import HubReference

pytestmark = pytest.mark.usefixtures("small_networks")
TEXTS = ["a red chair with blue legs", "a photo of a green ball", "a small cat"]
bundled = pytest.mark.skipif(not (BUNDLED_FOLDER / CONFIG).is_file(), reason="no weights are bundled")


@pytest.fixture(scope="module")
def towers(small_networks, tmp_path_factory: pytest.TempPathFactory) -> ClipTowers:
    torch.manual_seed(0)
    made = training.build_clip(tmp_path_factory.mktemp("clip"), [TEXTS] * 4)
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    return made.freeze()


@pytest.fixture
def folder(towers: ClipTowers, tmp_path: Path) -> Path:
    save_clip(towers, tmp_path / "clip", dtype=torch.float32)
    return tmp_path / "clip"


def _refused(name: object) -> str:
    with pytest.raises(InputError) as caught:
        load_clip(str(name), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_views_and_texts_become_unit_vectors_of_one_space(towers: ClipTowers) -> None:
    images, views = towers.encode_image(torch.rand(5, 3, 32, 32)), towers.encode_views(torch.rand(2, 4, 3, 40, 40))
    words = towers.encode_text(TEXTS)
    assert images.shape == (5, 16) and views.shape == (2, 16) and words.shape == (3, 16)
    assert towers.dimension == 16 and towers.size == (32, 32)
    for vectors in (images, views, words):
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    scores = towers.classify(images, [TEXTS[:2], TEXTS[2:]])
    torch.testing.assert_close(scores[:, 1], images @ words[2])
    mean = torch.nn.functional.normalize(words[:2].mean(0), dim=0)
    torch.testing.assert_close(scores[:, 0], images @ mean)


def test_views_are_the_direction_of_their_mean(towers: ClipTowers) -> None:
    views = torch.rand(2, 3, 3, 32, 32)
    each = torch.stack([towers.encode_image(v) for v in views])
    expected = each.mean(1) / each.mean(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(towers.encode_views(views), expected)


def test_gradients_reach_the_images_and_no_weight(towers: ClipTowers) -> None:
    images = torch.rand(2, 3, 50, 40, requires_grad=True)
    (towers.encode_image(images) @ towers.encode_text(TEXTS[:1]).T).sum().backward()
    assert images.grad is not None and (images.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in towers.parameters())
    assert not any(m.training for m in towers.modules())
    # Along the gradient the image comes closer to the text.
    with torch.no_grad():
        before = towers.encode_image(images) @ towers.encode_text(TEXTS[:1]).T
        step = images + 1e-2 * images.grad / images.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        after = towers.encode_image(step) @ towers.encode_text(TEXTS[:1]).T
    assert (after > before).all()


def test_an_item_does_not_depend_on_its_batch(towers: ClipTowers) -> None:
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(towers.encode_image(images)[2:3], towers.encode_image(images[2:3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(towers.encode_text(TEXTS)[1:2], towers.encode_text(TEXTS[1:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (33, 200), (16, 20)])
def test_preprocessing_agrees_with_open_clip(towers: ClipTowers, shape: tuple[int, int]) -> None:
    from open_clip.transform import image_transform
    from torchvision.transforms.functional import to_pil_image

    height, width = shape
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    image = torch.stack([rows.sin(), columns.cos(), (rows + columns).sin()]).mul(100).add(128).round() / 255
    transform: Any = image_transform(32, is_train=False)
    theirs = transform(to_pil_image(image))
    # PIL rounds to bytes in between.
    torch.testing.assert_close(towers.preprocess(image[None])[0], theirs, atol=0.03, rtol=0)


def test_a_checkerboard_is_averaged_by_resizing(towers: ClipTowers) -> None:
    board = ((torch.arange(256).view(-1, 1) + torch.arange(256)) % 2).float().expand(1, 3, -1, -1)
    flat = towers.preprocess(torch.full((1, 3, 256, 256), 0.5))
    torch.testing.assert_close(towers.preprocess(board), flat, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(3, 32, 32),
        torch.rand(2, 4, 32, 32),
        torch.rand(2, 32, 32, 3),
        torch.rand(0, 3, 8, 8),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_images_of_another_shape_are_refused(towers: ClipTowers, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"give RGB in \[0, 1\]"):
        towers.encode_image(images)


def test_single_images_as_views_and_no_text_are_refused(towers: ClipTowers) -> None:
    with pytest.raises(InputError, match="views"):
        towers.encode_views(torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match="no text"):
        towers.encode_text([])


def test_any_text_has_tokens_and_long_ones_end_in_the_last(towers: ClipTowers) -> None:
    tokens = towers.tokenizer(["", "Zebra's xylophone, 42! — ünïcode", "a red chair " * 40])
    assert tokens.shape == (3, 24) and tokens.dtype == torch.int64
    assert int(tokens.max()) == towers.model.vocab_size - 1 == int(tokens[2, -1])
    short = towers.tokenizer(TEXTS[:1])
    assert int((short != 0).sum()) == 2 + len(TEXTS[0].split())


def test_saved_towers_come_back(towers: ClipTowers, folder: Path) -> None:
    back = load_clip(folder, "cpu")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(back.encode_image(images), towers.encode_image(images))
    torch.testing.assert_close(back.encode_text(TEXTS), towers.encode_text(TEXTS))
    assert not any(p.requires_grad for p in back.parameters())
    assert {p.name for p in folder.iterdir()} == {CONFIG, MERGES, "open_clip_model.safetensors"}
    # In the package's own precision the directions stay.
    save_clip(back, folder)
    half = load_clip(folder, "cpu")
    assert (half.encode_text(TEXTS) * towers.encode_text(TEXTS)).sum(1).min() > 0.9999


def test_shards_and_plain_state_dicts_load_too(towers: ClipTowers, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(storage, "MAX_SHARD_SIZE", 60_000)
    save_clip(towers, folder, dtype=torch.float32)
    assert len(list(folder.glob("*.safetensors"))) > 1
    torch.testing.assert_close(load_clip(folder, "cpu").encode_text(TEXTS), towers.encode_text(TEXTS))
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    wrapped = {"state_dict": {f"module.{key}": value for key, value in towers.model.state_dict().items()}}
    torch.save(wrapped, folder / "open_clip_pytorch_model.bin")
    torch.testing.assert_close(load_clip(folder, "cpu").encode_text(TEXTS), towers.encode_text(TEXTS))


def test_a_reduced_precision_still_gives_unit_vectors(folder: Path, towers: ClipTowers) -> None:
    low = load_clip(folder, "cpu", torch.bfloat16)
    assert low.dtype == torch.bfloat16
    vectors = low.encode_text(TEXTS)
    assert vectors.dtype == torch.float32
    assert (vectors * towers.encode_text(TEXTS)).sum(1).min() > 0.99


def test_damaged_folders_are_named(folder: Path) -> None:
    weights = folder / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in _refused(folder) and weights.name in _refused(folder)
    weights.unlink()
    assert "has no weights" in _refused(folder)
    weights.write_bytes(whole)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["width"] = 64
    (folder / CONFIG).write_text(json.dumps(config))
    assert "do not fit" in _refused(folder)
    (folder / CONFIG).write_text("{")
    assert CONFIG in _refused(folder)
    (folder / CONFIG).unlink()
    assert f"has no {CONFIG}" in _refused(folder)
    assert "is a file" in _refused(weights)


def test_a_damaged_vocabulary_is_named(folder: Path) -> None:
    (folder / MERGES).write_bytes(b"no gzip")
    assert MERGES in _refused(folder) and "damaged" in _refused(folder)
    (folder / MERGES).write_bytes(gzip.compress(b"#version: 0.2\na b</w>", mtime=0))
    assert "do not fit" in _refused(folder)
    (folder / MERGES).unlink()
    assert f"{MERGES} is missing" in _refused(folder)


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_code_is_never_run(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"a": _Bomb()}))
    assert "refused" in _refused(folder)
    torch.save({"a": _Bomb()}, folder / "open_clip_pytorch_model.bin")
    assert "refused" in _refused(folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / CONFIG).write_text(json.dumps(config))
    assert "code" in _refused(folder) and CONFIG in _refused(folder)
    escaped = (folder / CONFIG).read_text().replace("trust_remote_code", "trust_remote\\u005fcode")
    (folder / CONFIG).write_text(escaped)
    assert "code" in _refused(folder), "however it is spelled"
    assert not Path("exploded").exists()


def test_unknown_names_get_a_suggestion() -> None:
    assert "did you mean 'bundled'?" in _refused("bundeld")
    assert "did you mean 'ViT-B-32/laion2b_s34b_b79k'?" in _refused("ViT-B-32/laion2b_s34b_b79")
    message = _refused("ViT-B-32")
    assert "name one of them" in message and "ViT-B-32/laion2b_s34b_b79k" in message
    assert "no such folder" in _refused("outputs/nowhere")


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> None:
    """No name resolves, and the hub's cache is empty."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    _alone(monkeypatch, tmp_path)


def _alone(monkeypatch, tmp_path: Path) -> None:
    """Caches of this test's own, and nothing of the user's settings."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "INVERT3D_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_message_says_what_to_run() -> None:
    message = _refused("ViT-B-32/laion2b_s34b_b79k")
    assert "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors" in message
    message = _refused("hf-hub:someone/clip-of-mine")
    assert "hf download someone/clip-of-mine open_clip_config.json" in message and "--local-dir clip-of-mine" in message


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch) -> Iterator[FakeHub]:
    """A hub on this machine with one repository, someone/tiny, and its code beside it."""
    _alone(monkeypatch, tmp_path)
    shutil.copytree(folder, tmp_path / "hub" / "someone" / "tiny")
    (tmp_path / "hub" / "someone" / "tiny" / "model.py").write_text("raise SystemExit")
    with serve_hub(tmp_path / "hub") as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_a_tower_comes_from_the_hub_once_and_without_its_code(towers: ClipTowers, hub: FakeHub, monkeypatch) -> None:
    expected = towers.encode_text(TEXTS)
    torch.testing.assert_close(load_clip("hf-hub:someone/tiny", "cpu").encode_text(TEXTS), expected)
    assert {name for name, _ in hub.requests} == {CONFIG, MERGES, SAFE_WEIGHTS}
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.testing.assert_close(load_clip("hf-hub:someone/tiny", "cpu").encode_text(TEXTS), expected)
    assert not hub.requests


@pytest.mark.parametrize("mirror", ["{url}", "file://{root}", "{root}"])
def test_a_tower_comes_through_a_mirror(towers: ClipTowers, hub: FakeHub, monkeypatch, mirror: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # where nobody answers
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("INVERT3D_MIRROR", mirror.format(url=hub.url, root=hub.root))
    loaded = load_clip("hf-hub:someone/tiny", "cpu")
    torch.testing.assert_close(loaded.encode_text(TEXTS), towers.encode_text(TEXTS))
    assert hub.tokens <= {None} and bool(hub.requests) == (mirror == "{url}")


def test_an_interrupted_tower_goes_on_and_a_damaged_one_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    served = hub.root / "someone" / "tiny" / SAFE_WEIGHTS
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    kept = tmp_path / "cache" / "invert3d_ns" / "clip" / HubReference("someone/tiny").folder_name
    partial = kept / f"{SAFE_WEIGHTS}.{digest[:16]}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(served.read_bytes()[:100])
    load_clip("hf-hub:someone/tiny", "cpu")
    assert (SAFE_WEIGHTS, "bytes=100-") in hub.requests
    changed = bytearray((kept / SAFE_WEIGHTS).read_bytes())
    changed[-1] ^= 1
    (kept / SAFE_WEIGHTS).write_bytes(changed)
    assert "wrong sha256" in _refused("hf-hub:someone/tiny")
    shutil.rmtree(kept)
    hub.lies[SAFE_WEIGHTS] = "0" * 64
    assert "the hub says" in _refused("hf-hub:someone/tiny")


def test_a_tower_with_a_tokenizer_of_transformers_in_its_repository(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    from tiny_priors import tiny_tokenizer

    repository = hub.root / "someone" / "tiny"
    config = json.loads((repository / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "someone/tiny", "tokenizer_kwargs": {}}
    (repository / CONFIG).write_text(json.dumps(config))
    assert "has no tokenizer" in _refused("hf-hub:someone/tiny")
    tiny_tokenizer(tmp_path / "vocabulary").save_pretrained(repository)
    tokens = load_clip("hf-hub:someone/tiny", "cpu").tokenizer(TEXTS)
    assert tokens.shape == (3, 24)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(load_clip("hf-hub:someone/tiny", "cpu").tokenizer(TEXTS), tokens)


def test_repositories_that_hold_no_towers_are_named(hub: FakeHub) -> None:
    assert "no such repository" in _refused("hf-hub:someone/else")
    assert "no such revision" in _refused("hf-hub:someone/tiny@v9")
    assert "names no repository" in _refused("hf-hub:tiny")
    (hub.root / "someone" / "tiny" / SAFE_WEIGHTS).unlink()
    assert f"has no {SAFE_WEIGHTS}" in _refused("hf-hub:someone/tiny")


@pytest.mark.parametrize("tokenizer", ["own", "someone/words"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_of_open_clips_table_comes_from_the_hub(
    hub: FakeHub, tmp_path: Path, monkeypatch, tokenizer: str, pickled: bool
) -> None:
    import open_clip
    from open_clip.pretrained import _PRETRAINED
    from safetensors.torch import save_file

    repository = hub.root / "someone" / "tiny"
    config = json.loads((repository / CONFIG).read_text())["model_cfg"]
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 16}
    config["text_cfg"].pop("tokenizer_kwargs")
    if tokenizer != "own":
        from tiny_priors import tiny_tokenizer

        tiny_tokenizer(tmp_path / "vocabulary").save_pretrained(hub.root / tokenizer)
        config["text_cfg"]["hf_tokenizer_name"] = tokenizer
    plain = {**config, "text_cfg": {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}}
    model = open_clip.CLIP(**plain).eval()
    (repository / SAFE_WEIGHTS).unlink()
    if pickled:
        torch.save(model.state_dict(), repository / PICKLED_WEIGHTS)
    else:
        save_file(model.state_dict(), repository / SAFE_WEIGHTS)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", config)
    monkeypatch.setitem(
        _PRETRAINED, "Tiny", {"mine": {"hf_hub": "someone/tiny/", "mean": (0.5,) * 3, "std": (0.5,) * 3}}
    )
    loaded = load_clip("Tiny/mine", "cpu")
    if tokenizer == "own":
        tokens = open_clip.get_tokenizer("Tiny")(TEXTS)
        torch.testing.assert_close(loaded.encode_text(TEXTS), model.encode_text(tokens, normalize=True).detach())
    else:
        assert loaded.tokenizer(TEXTS).shape == (3, 16)
    assert loaded.mean.unique().tolist() == [0.5]
    # Again without a hub, from what was kept.
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.testing.assert_close(load_clip("Tiny/mine", "cpu").encode_text(TEXTS), loaded.encode_text(TEXTS))
    assert not hub.requests


def test_a_missing_bundled_model_is_said_to_be_missing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "BUNDLED_FOLDER", tmp_path)
    assert "no bundled CLIP" in _refused("bundled")


@bundled
def test_the_bundled_towers_are_small_and_know_their_world() -> None:
    from invert3d_ns.metrics.clip_quality import evaluate_clip

    assert sum(file.stat().st_size for file in BUNDLED_FOLDER.iterdir()) <= 5 * 2**20
    measured = evaluate_clip(load_clip("bundled", "cpu"), seed=5, count=32)
    assert measured["recall_1"] >= 0.75
    assert measured["zero_shot_style"] >= 0.85 and measured["zero_shot_class"] >= 0.75
