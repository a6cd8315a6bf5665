"""A prior as a folder: ``prior.json`` beside diffusers' ``unet/ vae/ text_encoder/ tokenizer/ scheduler/``."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.weights.manifest import check_sizes, write_manifest
from invert3d_ns.weights.tensors import read_safetensors

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

FORMAT_VERSION = 1
MAX_SHARD_SIZE = "15MB"
"""Largest weight file of the bundled prior; repositories and mirrors refuse or mangle bigger ones."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers and transformers from logging and drawing progress bars while small files are read and written."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()


def save_prior(
    prior: MultiViewPrior,
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float16,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write the prior to ``folder`` (replaced as a whole, or not at all), its weights rounded to ``dtype``.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    with atomic_path(folder) as temporary, quiet_libraries(), _disk_errors():
        temporary.mkdir()
        for name in ("unet", "vae", "text_encoder"):
            module = copy.deepcopy(getattr(prior, name)).to("cpu", dtype)
            module.save_pretrained(temporary / name, max_shard_size=max_shard_size, safe_serialization=True)
        prior.tokenizer.save_pretrained(temporary / "tokenizer")
        # transformers 5 writes tokenizer.json only; version 4 reads the vocabulary and merges.
        prior.tokenizer.backend_tokenizer.model.save(str(temporary / "tokenizer"))
        prior.scheduler.save_pretrained(temporary / "scheduler")  # type: ignore[attr-defined]
        document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(prior.info)}
        # safetensors writes files that only their owner may read, also inside a package that others install.
        for file in temporary.rglob("*.safetensors"):
            file.chmod(0o644)
        (temporary / "prior.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        write_manifest(temporary)


@contextmanager
def _disk_errors() -> Iterator[None]:
    # safetensors reports a full disk as an error of its own kind.
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, " ".join(str(error).split())[:120]) from error


def read_info(folder: Path) -> PriorInfo:
    """Read ``prior.json``.

    Raises:
        InputError: it is missing, damaged, or of a version that this package does not know.
    """
    path = folder / "prior.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document.pop("format_version")
        if version > FORMAT_VERSION:
            raise InputError(f"{path} has format version {version}, newer than this package knows; update invert3d-ns")
        known = {field.name for field in dataclasses.fields(PriorInfo)}
        # JSON has no tuples.
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
        }
        return PriorInfo(**{key: value for key, value in values.items() if key in known})
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a prior: it has no prior.json; give a folder that `invert3d prior convert` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as the description of a prior ({error}); convert or download it again"
        ) from error


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> MultiViewPrior:
    """Load a folder that :func:`save_prior` wrote. No code from the folder is run and nothing is downloaded.

    Raises:
        InputError: a part is missing, truncated, not of the size in the manifest, or does not fit its config.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from invert3d_ns.prior.conversion import load_strictly, load_text_encoder
    from invert3d_ns.prior.multiview import MultiViewPrior

    info = read_info(folder)
    check_sizes(folder)
    part = "unet"
    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    networks: dict[str, Any] = {}
    try:
        with quiet_libraries():
            # Not from_pretrained: it fills weights that a damaged folder lacks with random numbers, and takes time to
            # draw random numbers that it then overwrites.
            for part, kind in kinds.items():
                with torch.device("meta"):
                    networks[part] = kind.from_config(kind.load_config(folder / part, local_files_only=True))
                load_strictly(networks[part], _read_shards(folder / part, dtype), part, assign=True)
            part = "text_encoder"
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / part, local_files_only=True))
            load_text_encoder(text_encoder, _read_shards(folder / part, torch.float32))
            part = "tokenizer"
            tokenizer = CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
            part = "scheduler"
            scheduler = _load_scheduler(folder / part)
    except Exception as error:  # a config that is no model's ends in errors of all kinds, by version of the library
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the prior in {folder} is damaged: {part} cannot be loaded ({reason}); convert or download it again"
        ) from error
    prior = MultiViewPrior(**networks, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, info=info)
    return prior.to(device)


def _read_shards(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state.update(read_safetensors(file)[0])
    return {key: value.to(dtype) for key, value in state.items()}


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    kind = getattr(diffusers, name)
    if not issubclass(kind, diffusers.SchedulerMixin):
        raise TypeError(f"{name} is not a scheduler")
    return kind.from_pretrained(folder, local_files_only=True)
