"""CLIP towers that are not what they should be: nothing is fetched past the mirror, no code is run, one line each."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import FakeHub, serve_hub
from tiny_priors import tiny_tokenizer

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.alignment.storage import CONFIG, SAFE_WEIGHTS, build_model, save_clip
from invert3d_ns.base.errors import InputError
from invert3d_ns.weights.network_config import check_network_config

VISION = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 32}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve_hub(tmp_path / "hub") as served:
        monkeypatch.setenv("INVERT3D_MIRROR", served.url)
        yield served


def write_text_tower(folder: Path, **changes: Any) -> Path:
    """The config and the tokenizer of a tiny text tower of transformers, as in a repository of its own."""
    from transformers import BertConfig

    tokenizer = tiny_tokenizer(folder / "vocabulary")
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(vocab_size=len(tokenizer), intermediate_size=16, **sizes).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def write_towers(folder: Path, text_tower: Path) -> Path:
    """Towers whose text tower is transformers', by a name on the hub."""
    from safetensors.torch import save_file

    text = {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "context_length": 16}
    torch.manual_seed(0)
    local = {"hf_model_name": str(text_tower), "hf_tokenizer_name": str(text_tower)}
    model = build_model({"embed_dim": 8, "vision_cfg": VISION, "text_cfg": text | local})
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / SAFE_WEIGHTS)
    named = {"hf_model_name": "someone/words", "hf_tokenizer_name": "someone/words"}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": text | named}}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_clip(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_tower_of_transformers_comes_through_the_mirror(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    folder = write_towers(tmp_path / "towers", write_text_tower(tmp_path / "hub" / "someone" / "words"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # where nobody answers
    first = load_clip(folder, "cpu").encode_text(["a red cube", "a cat"])
    assert first.shape == (2, 8) and {name for name, _ in hub.requests} >= {"config.json", "tokenizer.json"}
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(load_clip(folder, "cpu").encode_text(["a red cube", "a cat"]), first) and not hub.requests


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "of my own"},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
    ],
)
def test_a_text_tower_with_code_is_refused(hub: FakeHub, tmp_path: Path, changes: dict) -> None:
    tower = write_text_tower(tmp_path / "hub" / "someone" / "words")
    folder = write_towers(tmp_path / "towers", tower)
    write_text_tower(tower, **changes)
    assert "asks for code" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vision_cfg": {"timm_model_name": "hf-hub:someone/tower"}}, "would come from elsewhere"),
        ({"vision_cfg": {"timm_model_name": "local-dir:/etc"}}, "would come from elsewhere"),
        ({"text_cfg": {"hf_model_name": "../../etc"}}, "is no repository"),
        ({"text_cfg": {"hf_model_name": "/etc/passwd"}}, "is no repository"),
        ({"text_cfg": {"hf_model_name": 7}}, "is no repository"),
        ({"text_cfg": {"hf_tokenizer_name": "a/b:/etc/passwd"}}, "is no repository"),
        ({"vision_cfg": {"layers": 10**9}}, "vision_cfg.layers is 1000000000"),
        ({"vision_cfg": {"width": -16}}, "vision_cfg.width is -16"),
        ({"text_cfg": {"layers": 10**9}}, "describes"),
        ({"text_cfg": {"heads": 0}}, "do not fit"),
        ({"text_cfg": 3}, "does not describe two towers"),
        ({"embed_dim": "wide"}, "embed_dim is 'wide'"),
        ({"embed_dim": 0}, "embed_dim is 0"),
    ],
)
def test_towers_that_cannot_be(hub: FakeHub, tmp_path: Path, changes: dict, says: str) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "towers"
    folder.mkdir()
    save_file({"logit_scale": torch.zeros(())}, folder / SAFE_WEIGHTS)
    config: dict[str, Any] = {"embed_dim": 8, "vision_cfg": dict(VISION), "text_cfg": {"width": 32, "heads": 1}}
    for name, change in changes.items():
        config[name] = config[name] | change if isinstance(change, dict) else change
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config}))
    assert says in refused(folder)
    assert hub.requests == []


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 50_000, '{"model_cfg": NaN}', '{"model_cfg": 3}'])
def test_configs_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG).write_text(content)
    assert CONFIG in refused(tmp_path)


def test_towers_that_find_the_disk_full_leave_nothing(tmp_path: Path) -> None:
    towers = load_clip("bundled", "cpu")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            save_clip(towers, tmp_path / "clip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in str(error.value) and "free some space" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_every_architecture_of_open_clip_passes() -> None:
    from importlib.resources import files

    configs = [file for file in files("open_clip").joinpath("model_configs").iterdir() if file.name.endswith(".json")]
    assert len(configs) > 100
    for file in configs:
        check_network_config(json.loads(file.read_text()), 10_000, Path(file.name))
