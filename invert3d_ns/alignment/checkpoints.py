"""From a name or a path to CLIP towers: the bundled one, open_clip's pretrained table, the hub, a folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.alignment.storage import (
    CONFIG,
    MERGES,
    PICKLED_WEIGHTS,
    SAFE_WEIGHTS,
    build_model,
    fetch_tokenizer,
    load_folder,
    load_state,
    preprocess_config,
    reason_of,
    weight_files,
)
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import user_path
from invert3d_ns.weights.download import fetch_weights
from invert3d_ns.weights.hub import (
    HubReference,
    NotInRepositoryError,
    RepositoryKind,
    check_download,
    find_local,
    parse_reference,
    some_of,
)
from invert3d_ns.weights.precision import automatic_dtype
from invert3d_ns.weights.tensors import read_weights

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
CROPS = "bundled-crops"
"""Bundled towers that know crops, slants and soft views, and withstand small changes: the ones that stylize."""
_HUB = "hf-hub:"


def load_clip(
    name: str | Path = "bundled",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ClipTowers:
    """Load a CLIP model, frozen and in evaluation mode. Code from a repository is never run.

    Args:
        name: "bundled"; "bundled-crops", which stylizes; a model of open_clip with its pretrained tag,
            "ViT-B-32/laion2b_s34b_b79k"; a repository of the Hugging Face hub in open_clip's layout,
            "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", with @revision at will; or a folder in that layout
            (``open_clip_config.json`` beside the weights), as :func:`~invert3d_ns.alignment.storage.save_clip` writes
            it. What comes from the hub goes the way of priors: see
            :func:`~invert3d_ns.weights.download.fetch_weights`.
        device: CUDA if there is one, else the CPU.
        dtype: of the towers. If None, float32 on a CPU and for the bundled model, else bfloat16, or float16 on GPUs
            without it.

    Raises:
        InputError: unknown name, missing or damaged files, a repository that wants its own code run, or a hub that
            cannot be reached (the message says what to run on a connected machine).
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    towers = _load(str(name))
    towers.model.to(target, dtype or automatic_dtype(str(name), target))
    return towers.to(target).freeze()


def select_clip_files(names: Sequence[str], reference: HubReference) -> list[str]:
    """Of a repository's files, those of CLIP towers in open_clip's layout: config, weights, merges.

    Raises:
        InputError: the config or the weights are missing.
    """
    weights = weight_files(names)
    if CONFIG not in names or not weights:
        raise NotInRepositoryError(
            f"{reference.repository} holds no CLIP model in open_clip's layout: it has no "
            f"{CONFIG if weights else SAFE_WEIGHTS}; it has {some_of(names)}"
        )
    return [CONFIG, *weights, *(name for name in names if name == MERGES)]


def _by_hand(reference: HubReference) -> str:
    if reference.filename is not None:
        folder = f"models--{reference.repository.replace('/', '--')}"
        return (
            f"run `hf download {reference.repository} {reference.filename}` on a connected machine and copy {folder} "
            "from its Hugging Face cache to this one's"
        )
    local = reference.repository.split("/")[-1].lower()
    revision = f" --revision {reference.revision}" if reference.revision else ""
    return (
        f"run `hf download {reference.repository} {CONFIG} {SAFE_WEIGHTS}{revision} --local-dir {local}` on a "
        f"connected machine and give the folder {local}"
    )


def _is_whole(selected: Sequence[str]) -> bool:
    # Shards say how many they are: open_clip_model-00001-of-00003.safetensors.
    weights = [name for name in selected if name.endswith(".safetensors")]
    counts = {int(match[1]) for name in weights if (match := re.search(r"-of-(\d+)\.", name))}
    return not counts or counts == {len(weights)}


CLIP_REPOSITORY = RepositoryKind("CLIP model", select_clip_files, _is_whole, _by_hand, cache="clip")
"""How CLIP towers are fetched."""


def _load(name: str) -> ClipTowers:
    if name in ("bundled", CROPS):
        folder = BUNDLED_FOLDER if name == "bundled" else BUNDLED_FOLDER / "crops"
        if not (folder / CONFIG).is_file():
            command = "invert3d train clip" + (" --crops" if name == CROPS else "")
            raise InputError(
                f"this installation has no bundled CLIP ({name}); reinstall invert3d-ns, run `{command}`, or give "
                "another model"
            )
        return load_folder(folder, name)
    if name.startswith(_HUB):
        reference = parse_reference(f"hf:{name.removeprefix(_HUB)}")
        if reference is None or reference.filename is not None:
            raise InputError(f"{name!r} names no repository; give {_HUB}<owner>/<name>, with @<revision> at will")
        return load_folder(fetch_weights(reference, CLIP_REPOSITORY, name), name)
    path = user_path(name)
    if path.is_dir():
        return load_folder(path, name)
    if path.is_file():
        raise InputError(f"{name} is a file; give the folder that holds {CONFIG} and the weights")
    return _load_pretrained(name)


def _load_pretrained(name: str) -> ClipTowers:
    import open_clip

    architecture, _, tag = name.rpartition("/")
    architecture = architecture.replace("/", "-")
    entry = open_clip.get_pretrained_cfg(architecture, tag)
    model_cfg = open_clip.get_model_config(architecture)
    if not entry.get("hf_hub") or model_cfg is None:
        raise InputError(_not_found(name))
    repository, _, filename = entry["hf_hub"].rpartition("/")
    file = _fetch_file(name, repository, filename or PICKLED_WEIGHTS)
    if entry.get("quick_gelu"):
        model_cfg["quick_gelu"] = True
    check_download(file, [file])
    state = read_weights(file)
    text_cfg = model_cfg["text_cfg"]
    try:
        model = build_model(model_cfg)
        if text_cfg.get("hf_tokenizer_name"):
            tokenizer = fetch_tokenizer(
                text_cfg["hf_tokenizer_name"],
                text_cfg.get("context_length", 77),
                **text_cfg.get("tokenizer_kwargs") or {},
            )
        else:
            tokenizer = open_clip.get_tokenizer(architecture)
        load_state(model, state)
    except InputError:
        raise
    except Exception as error:  # whatever open_clip, timm or transformers make of weights that do not fit
        raise InputError(f"CLIP model {name!r} cannot be built ({reason_of(error)}); use another one") from error
    return ClipTowers(model, tokenizer, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_config(entry)}, name)


def _fetch_file(name: str, repository: str, filename: str) -> Path:
    """A file of open_clip's table on this machine, as safetensors where the repository has that too."""
    safe = SAFE_WEIGHTS if filename == PICKLED_WEIGHTS else f"{Path(filename).stem}.safetensors"
    choices = [HubReference(repository, None, choice) for choice in dict.fromkeys((safe, filename))]
    for reference in choices:
        if (path := find_local(reference, CLIP_REPOSITORY)) is not None:
            return path
    for reference in choices[:-1]:
        try:
            return fetch_weights(reference, CLIP_REPOSITORY, name)
        except NotInRepositoryError:
            continue
    return fetch_weights(choices[-1], CLIP_REPOSITORY, name)


def _not_found(name: str) -> str:
    import open_clip

    architecture = name.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tags:
        return f"CLIP model {name!r} has several weights; name one of them: {name}/{f', {name}/'.join(tags)}"
    known = ["bundled", CROPS, *("/".join(pair) for pair in open_clip.list_pretrained())]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown CLIP model {name!r}: no such folder, nor in open_clip's table; {hint}give 'bundled', a name like "
        "'ViT-B-32/laion2b_s34b_b79k', 'hf-hub:<owner>/<name>' or a folder"
    )
