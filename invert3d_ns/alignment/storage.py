"""CLIP towers as a folder in open_clip's layout, and the parts that they are built from.

A folder holds ``open_clip_config.json``, weights as ``open_clip_model*.safetensors`` (or
``open_clip_pytorch_model.bin``, read as tensors only), and, where the config's ``tokenizer_kwargs`` name one, a file of
merges. Nothing from a folder or a repository is ever run.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.inputs import read_json
from invert3d_ns.weights.download import fetch_weights
from invert3d_ns.weights.hub import (
    HubReference,
    NotInRepositoryError,
    RepositoryKind,
    check_download,
    parse_reference,
)
from invert3d_ns.weights.network_config import check_network_config, whole_number
from invert3d_ns.weights.tensors import read_shards

CONFIG = "open_clip_config.json"
TEXT_TOWER = "config.json"
"""What describes a text tower of transformers, in a repository of its own."""
MERGES = "merges.txt.gz"
SAFE_WEIGHTS = "open_clip_model.safetensors"
PICKLED_WEIGHTS = "open_clip_pytorch_model.bin"
MAX_SHARD_SIZE = "15MB"
"""Largest weight file; repositories and mirrors refuse or mangle bigger ones."""
_TOKENIZER_FILES = (
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def load_folder(folder: Path, name: str | None = None) -> ClipTowers:
    """Load a folder in open_clip's layout.

    Raises:
        InputError: a file is missing, truncated, does not fit its config, or asks for code of its own to be run.
    """
    config = _read_config(folder)
    model_cfg = config["model_cfg"]
    files = [folder / name for name in weight_files([file.name for file in folder.iterdir()])]
    if not files:
        raise InputError(
            f"{folder} has no weights: {SAFE_WEIGHTS} is missing; download it again or run `invert3d train clip`"
        )
    check_download(folder, files)
    state: dict[str, Any] = read_shards(files)
    check_network_config(model_cfg, len(state), folder / CONFIG)
    try:
        model = build_model(model_cfg)
        tokenizer = _tokenizer(folder, model_cfg["text_cfg"])
        load_state(model, state)
    except InputError:
        raise
    except Exception as error:  # a damaged config makes open_clip's constructors fail in every way there is
        raise InputError(
            f"the CLIP model in {folder} is damaged: its weights or vocabulary do not fit {CONFIG} "
            f"({reason_of(error)}); download it again"
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


def weight_files(names: Iterable[str]) -> list[str]:
    """Of a folder's file names, the weights: safetensors (one file or shards) where there are any, else the pickle."""
    names = sorted(names)
    safe = [name for name in names if name.startswith("open_clip_model") and name.endswith(".safetensors")]
    return safe or [name for name in names if name == PICKLED_WEIGHTS]


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
        raise InputError(f"{path} is damaged ({reason_of(error)}); download it again") from error


def write_merges(folder: Path, merges: Iterable[str]) -> None:
    """Write byte-pair merges ("a b</w>", the most important first) as open_clip's SimpleTokenizer reads them."""
    # No time stamp and no last newline: the file is the same each time, and open_clip would take an empty line for a
    # token.
    text = "\n".join(["#version: 0.2", *merges])
    (folder / MERGES).write_bytes(gzip.compress(text.encode(), mtime=0))


def fetch_tokenizer(repository: str, context_length: int, **kwargs: Any) -> Any:
    """open_clip's wrapper of a tokenizer of transformers, from a folder or fetched from the hub.

    Raises:
        InputError: the hub cannot be reached, or the repository has no tokenizer.
    """
    from open_clip.tokenizer import HFTokenizer

    folder = _local_folder(repository, _TOKENIZER_REPOSITORY)
    # Said outright: asked for code that is not there, transformers would put the question to the user.
    kwargs = {**kwargs, "trust_remote_code": False, "local_files_only": True}
    wrapper = HFTokenizer(str(folder), context_length=context_length, **kwargs)
    if not hasattr(wrapper.tokenizer, "batch_encode_plus"):
        # open_clip before 3 calls what transformers 5 has removed.
        wrapper.tokenizer.batch_encode_plus = wrapper.tokenizer.__call__
    return wrapper


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} is not a CLIP model: it has no {CONFIG}; give a folder in open_clip's layout")
    config = read_json(path, "download it again")
    model_cfg, preprocess = config.get("model_cfg"), config.get("preprocess_cfg") or {}
    towers = [model_cfg.get(key) for key in ("vision_cfg", "text_cfg")] if isinstance(model_cfg, dict) else [None]
    if not isinstance(model_cfg, dict) or not all(isinstance(tower, dict) for tower in (*towers, preprocess)):
        raise InputError(f"{path} is not open_clip's config: it does not describe two towers; download it again")
    whole_number(model_cfg, "embed_dim", least=1, most=1_000_000, default=0, path=path)
    _refuse_code(config, path)
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess_config(preprocess)}


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    """Refuse configs that ask for code of a repository: to build a model, to read text, to compute attention."""
    if re.search("trust_remote_code|auto_map|attn_implementation", json.dumps(config)):  # however it is spelled
        raise InputError(f"{path} was refused: it asks for code of a repository to be run; use another model")


def preprocess_config(given: dict[str, Any]) -> dict[str, Any]:
    """open_clip's ``preprocess_cfg`` with its defaults for what is not given."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return {
        "mean": list(given.get("mean") or OPENAI_DATASET_MEAN),
        "std": list(given.get("std") or OPENAI_DATASET_STD),
        "interpolation": given.get("interpolation") or "bicubic",
        "resize_mode": given.get("resize_mode") or "shortest",
    }


def build_model(model_cfg: dict[str, Any]) -> Any:
    """open_clip's model of a ``model_cfg``, with random weights.

    All that is fetched is the config of a text tower of transformers, where priors' files come from too.

    Raises:
        InputError: the hub cannot be reached, or a tower would be fetched past it.
    """
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = json.loads(json.dumps(model_cfg))
    vision, text = config["vision_cfg"], config["text_cfg"]
    # The weights come from the checkpoint; second downloads for the towers would be thrown away.
    text["hf_model_pretrained"] = vision["timm_model_pretrained"] = False
    if ":" in str(vision.get("timm_model_name") or ""):
        raise InputError(f"the image tower {vision['timm_model_name']!r} would come from elsewhere; use another model")
    if text.get("hf_model_name"):
        folder = _local_folder(text["hf_model_name"], _TEXT_TOWER_REPOSITORY)
        _refuse_code(read_json(folder / TEXT_TOWER, "download it again"), folder / TEXT_TOWER)
        text["hf_model_name"] = str(folder)
    custom = config.pop("custom_text", False) or text.get("hf_model_name")
    kind: Any = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    return kind(**config)


def _local_folder(repository: Any, kind: RepositoryKind) -> Path:
    """A folder that a config names, from where it is and not upwards, or a repository of that name, fetched."""
    if isinstance(repository, str) and ".." not in Path(repository).parts and Path(repository).is_dir():
        return Path(repository)
    reference = parse_reference(f"hf:{repository}")
    if reference is None and isinstance(repository, str) and re.fullmatch(r"[\w-][\w.-]*", repository):
        reference = HubReference(repository)  # old repositories have no owner: roberta-base
    if reference is None or reference.filename is not None:
        raise InputError(f"the config names {repository!r:.80}, which is no repository; use another CLIP model")
    path = fetch_weights(reference, kind, str(repository))
    return path if path.is_dir() else path.parent


def _tokenizer(folder: Path, text_cfg: dict[str, Any]) -> Any:
    context, kwargs = text_cfg.get("context_length", 77), dict(text_cfg.get("tokenizer_kwargs") or {})
    if not text_cfg.get("hf_tokenizer_name"):
        tokenizer = build_tokenizer(folder, context, **kwargs)
        if "bpe_path" in kwargs and tokenizer.vocab_size != text_cfg["vocab_size"]:
            # The text tower reads its result at the highest token, so that even one merge too few ruins it in silence.
            raise ValueError(f"{tokenizer.vocab_size} tokens instead of {text_cfg['vocab_size']}")
        return tokenizer
    return fetch_tokenizer(text_cfg["hf_tokenizer_name"], context, **kwargs)


def load_state(model: Any, state: dict[str, Any]) -> None:
    """Load the weights of a model of open_clip, of whatever age and with whatever prefixes."""
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


def reason_of(error: BaseException) -> str:
    """An error's message in one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _select_tokenizer(names: Sequence[str], reference: HubReference) -> list[str]:
    selected = [name for name in names if name in _TOKENIZER_FILES]
    if not _is_tokenizer(selected):
        raise InputError(f"{reference.repository} has no tokenizer; use another CLIP model")
    return selected


def _is_tokenizer(selected: Sequence[str]) -> bool:
    return "tokenizer_config.json" in selected and len(selected) > 1


def _tokenizer_by_hand(reference: HubReference) -> str:
    return (
        f"run `hf download {reference.repository}` on a connected machine and copy its Hugging Face cache to this one's"
    )


def _select_text_tower(names: Sequence[str], reference: HubReference) -> list[str]:
    if TEXT_TOWER not in names:
        raise NotInRepositoryError(f"{reference.repository} has no {TEXT_TOWER}; use another CLIP model")
    return [TEXT_TOWER]


_TOKENIZER_REPOSITORY = RepositoryKind(
    "CLIP model", _select_tokenizer, _is_tokenizer, _tokenizer_by_hand, cache="tokenizers"
)
_TEXT_TOWER_REPOSITORY = RepositoryKind(
    "CLIP model", _select_text_tower, lambda selected: True, _tokenizer_by_hand, cache="text_towers"
)
