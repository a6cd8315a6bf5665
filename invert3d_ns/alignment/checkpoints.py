"""From a name or a path to CLIP towers: the bundled one, open_clip's pretrained table, the hub, a folder.

A folder has open_clip's own layout: ``open_clip_config.json``, weights as ``open_clip_model*.safetensors`` (or
``open_clip_pytorch_model.bin``, read as tensors only), and, where the config's ``tokenizer_kwargs`` name one, a file of
merges. Nothing that is downloaded is ever run.
"""

from __future__ import annotations

import difflib
import gzip
import json
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.weights.tensors import read_safetensors, read_weights

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
CONFIG = "open_clip_config.json"
MERGES = "merges.txt.gz"
MAX_SHARD_SIZE = "15MB"
"""Largest weight file; repositories and mirrors refuse or mangle bigger ones."""
_HUB = "hf-hub:"
_PICKLE = "open_clip_pytorch_model.bin"
_SAFE = "open_clip_model.safetensors"


def open_clip_towers(name: str) -> ClipTowers:
    """Load towers on the CPU in the precision of their files.

    Args:
        name: as for :func:`invert3d_ns.alignment.clip.load_clip`.

    Raises:
        InputError: unknown name, missing or damaged files, or a hub that cannot be reached.
    """
    if name == "bundled":
        if not (BUNDLED_FOLDER / CONFIG).is_file():
            raise InputError(
                "this installation has no bundled CLIP; reinstall invert3d-ns, run `invert3d train clip`, "
                "or give another model"
            )
        return load_folder(BUNDLED_FOLDER, "bundled")
    if name.startswith(_HUB):
        return load_folder(_fetch_repository(name.removeprefix(_HUB)), name)
    path = Path(name).expanduser()
    if path.is_dir():
        return load_folder(path, name)
    if path.is_file():
        raise InputError(f"{name} is a file; give the folder that holds {CONFIG} and the weights")
    return _load_pretrained(name)


def load_folder(folder: Path, name: str | None = None) -> ClipTowers:
    """Load a folder in open_clip's layout.

    Raises:
        InputError: a file is missing, truncated, does not fit its config, or asks for code of its own to be run.
    """
    from invert3d_ns.alignment.clip import ClipTowers

    config = _read_config(folder)
    model_cfg = config["model_cfg"]
    files = sorted(folder.glob("open_clip_model*.safetensors")) or sorted(folder.glob(_PICKLE))
    if not files:
        raise InputError(
            f"{folder} has no weights: open_clip_model.safetensors is missing; download it again or run "
            "`invert3d train clip`"
        )
    state: dict[str, Any] = {}
    for file in files:
        state |= read_safetensors(file)[0] if file.suffix == ".safetensors" else read_weights(file)
    try:
        model = _build_model(model_cfg)
        tokenizer = _tokenizer(folder, model_cfg["text_cfg"])
        _load_state(model, state)
    except InputError:
        raise
    except Exception as error:  # a damaged config makes open_clip's constructors fail in every way there is
        raise InputError(
            f"the CLIP model in {folder} is damaged: its weights or vocabulary do not fit {CONFIG} "
            f"({_reason(error)}); download it again"
        ) from error
    return ClipTowers(model, tokenizer, config, name or str(folder))


def save_clip(towers: ClipTowers, folder: Path | str, *, dtype: torch.dtype = torch.float16) -> None:
    """Write towers in open_clip's layout (the folder is replaced as a whole, or not at all), rounded to ``dtype``.

    Raises:
        InputError: the folder cannot be written, or the model's tokenizer is not open_clip's own.
    """
    from huggingface_hub import save_torch_state_dict
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(towers.tokenizer, SimpleTokenizer):
        raise InputError(f"CLIP model {towers.name} has a tokenizer of its own, which cannot be saved; keep its source")
    config = json.loads(json.dumps(towers.config))
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": MERGES}
    state = {
        key: value.detach().cpu().to(dtype) if value.is_floating_point() else value.detach().cpu()
        for key, value in towers.model.state_dict().items()
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_merges(temporary, (" ".join(pair) for pair in towers.tokenizer.bpe_ranks))
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_torch_state_dict(
            state, temporary, filename_pattern="open_clip_model{suffix}.safetensors", max_shard_size=MAX_SHARD_SIZE
        )
        # safetensors writes files that only their owner may read, also inside a package that others install.
        for file in temporary.glob("*.safetensors"):
            file.chmod(0o644)


def build_tokenizer(folder: Path, context_length: int, *, bpe_path: str | None = None, **kwargs: Any) -> Any:
    """open_clip's SimpleTokenizer over a file of merges in a folder, or over its own vocabulary where none is named.

    Raises:
        InputError: the merges are missing or damaged.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if bpe_path is None:
        return SimpleTokenizer(context_length=context_length, **kwargs)
    path = folder / Path(bpe_path).name
    if not path.is_file():
        raise InputError(f"{folder} has no vocabulary: {path.name} is missing; download it again")
    try:
        return SimpleTokenizer(str(path), context_length=context_length, **kwargs)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is damaged ({_reason(error)}); download it again") from error


def write_merges(folder: Path, merges: Iterable[str]) -> None:
    """Write byte-pair merges ("a b</w>", the most important first) as open_clip's SimpleTokenizer reads them."""
    # No time stamp and no last newline: the file is the same each time, and open_clip would take an empty line for a
    # token.
    text = "\n".join(["#version: 0.2", *merges])
    (folder / MERGES).write_bytes(gzip.compress(text.encode(), mtime=0))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model_cfg, preprocess = config["model_cfg"], config.get("preprocess_cfg") or {}
        if not all(key in model_cfg for key in ("embed_dim", "vision_cfg", "text_cfg")):
            raise KeyError("embed_dim, vision_cfg and text_cfg")
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a CLIP model: it has no {CONFIG}; give a folder in open_clip's layout"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read as open_clip's config ({_reason(error)}); download it again"
        ) from error
    if "trust_remote_code" in path.read_text(encoding="utf-8"):
        raise InputError(f"{path} was refused: it asks for code of the repository to be run; use another model")
    return {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(preprocess)}


def _preprocess(given: dict[str, Any]) -> dict[str, Any]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return {
        "mean": list(given.get("mean") or OPENAI_DATASET_MEAN),
        "std": list(given.get("std") or OPENAI_DATASET_STD),
        "interpolation": given.get("interpolation") or "bicubic",
        "resize_mode": given.get("resize_mode") or "shortest",
    }


def _build_model(model_cfg: dict[str, Any]) -> Any:
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = json.loads(json.dumps(model_cfg))
    # The weights come from the checkpoint; a second download for the text tower would be thrown away.
    config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or config["text_cfg"].get("hf_model_name")
    kind: Any = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    return kind(**config)


def _tokenizer(folder: Path, text_cfg: dict[str, Any]) -> Any:
    context, kwargs = text_cfg.get("context_length", 77), dict(text_cfg.get("tokenizer_kwargs") or {})
    if not text_cfg.get("hf_tokenizer_name"):
        tokenizer = build_tokenizer(folder, context, **kwargs)
        if "bpe_path" in kwargs and tokenizer.vocab_size != text_cfg["vocab_size"]:
            # The text tower reads its result at the highest token, so that even one merge too few ruins it in silence.
            raise ValueError(f"{tokenizer.vocab_size} tokens instead of {text_cfg['vocab_size']}")
        return tokenizer
    from open_clip.tokenizer import HFTokenizer

    wrapper = HFTokenizer(text_cfg["hf_tokenizer_name"], context_length=context, **kwargs)
    if not hasattr(wrapper.tokenizer, "batch_encode_plus"):
        # open_clip before 3 calls what transformers 5 has removed.
        wrapper.tokenizer.batch_encode_plus = wrapper.tokenizer.__call__
    return wrapper


def _load_state(model: Any, state: dict[str, Any]) -> None:
    # The steps of open_clip's load_checkpoint, which takes no shards and no tensors that were read safely.
    from open_clip.factory import convert_state_dict, convert_to_custom_text_state_dict, resize_pos_embed
    from open_clip.model import resize_text_pos_embed

    state = convert_state_dict(model, {key.removeprefix("module."): value for key, value in state.items()})
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    state.pop("text.transformer.embeddings.position_ids", None)
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    model.load_state_dict(state)


def _load_pretrained(name: str) -> ClipTowers:
    import open_clip

    from invert3d_ns.alignment.clip import ClipTowers

    architecture, _, tag = name.rpartition("/")
    architecture = architecture.replace("/", "-")
    entry = open_clip.get_pretrained_cfg(architecture, tag)
    model_cfg = open_clip.get_model_config(architecture)
    if not entry.get("hf_hub") or model_cfg is None:
        raise InputError(_not_found(name))
    repository, _, filename = entry["hf_hub"].rpartition("/")
    file = _fetch_weights(name, repository, filename or _PICKLE)
    if entry.get("quick_gelu"):
        model_cfg["quick_gelu"] = True
    state = read_weights(file)
    try:
        model = _build_model(model_cfg)
        tokenizer = open_clip.get_tokenizer(architecture)
        _load_state(model, state)
    except Exception as error:  # whatever open_clip, timm or transformers make of weights that do not fit
        raise InputError(f"CLIP model {name!r} cannot be built ({_reason(error)}); use another one") from error
    return ClipTowers(model, tokenizer, {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(entry)}, name)


def _fetch_weights(name: str, repository: str, filename: str) -> Path:
    """A file of open_clip's table in the hub's cache, as safetensors where the repository has that too."""
    safe = _SAFE if filename == _PICKLE else f"{Path(filename).stem}.safetensors"
    command = f"hf download {repository} {safe}"
    for choice in dict.fromkeys((safe, filename)):
        found = _download(repository, [choice], local_files_only=True)
        if found is not None and (found / choice).is_file():
            return found / choice
    folder = f"models--{repository.replace('/', '--')}"
    advice = f"run `{command}` on a connected machine and copy {folder} from its Hugging Face cache to this one's"
    for choice in dict.fromkeys((safe, filename)):
        found = _connected_download(name, repository, [choice], advice)
        if (found / choice).is_file():
            return found / choice
    raise InputError(f"cannot fetch CLIP model {name!r}: {repository} has no {filename}; use another model")


def _fetch_repository(repository: str) -> Path:
    """A repository's config and weights in the hub's cache, as a folder."""
    files = [CONFIG, "open_clip_model*.safetensors", MERGES]
    folder = _download(repository, files, local_files_only=True)
    if folder is None or not any((*folder.glob("open_clip_model*.safetensors"), *folder.glob(_PICKLE))):
        local = repository.split("/")[-1].lower()
        advice = (
            f"run `hf download {repository} {CONFIG} {_SAFE} --local-dir {local}` on a connected machine and give the "
            f"folder {local}"
        )
        folder = _connected_download(_HUB + repository, repository, files, advice)
        if not any(folder.glob("open_clip_model*.safetensors")):
            folder = _connected_download(_HUB + repository, repository, [CONFIG, _PICKLE], advice)
    return folder


def _download(repository: str, files: list[str], *, local_files_only: bool) -> Path | None:
    import huggingface_hub

    try:
        # Only data: a repository's own code is neither wanted nor fetched.
        return Path(
            huggingface_hub.snapshot_download(repository, allow_patterns=files, local_files_only=local_files_only)
        )
    except Exception:
        if local_files_only:  # not in the cache, in whatever way this version of huggingface_hub says so
            return None
        raise


def _connected_download(name: str, repository: str, files: list[str], advice: str) -> Path:
    try:
        host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
        if not urllib.request.getproxies():
            # huggingface_hub retries for half a minute before it gives up; a name that does not resolve is known now.
            socket.getaddrinfo(host, None)
        folder = _download(repository, files, local_files_only=False)
    except Exception as error:  # huggingface_hub raises its own, requests' or httpx' errors, by version
        raise InputError(
            f"cannot fetch CLIP model {name!r} from the Hugging Face hub ({_reason(error)}); {advice}, or use 'bundled'"
        ) from error
    assert folder is not None
    return folder


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _not_found(name: str) -> str:
    import open_clip

    architecture = name.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tags:
        return f"CLIP model {name!r} has several weights; name one of them: {name}/{f', {name}/'.join(tags)}"
    known = ["bundled", *("/".join(pair) for pair in open_clip.list_pretrained())]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown CLIP model {name!r}: no such folder, nor in open_clip's table; {hint}give 'bundled', a name like "
        "'ViT-B-32/laion2b_s34b_b79k', 'hf-hub:<owner>/<name>' or a folder"
    )
