"""A prior as a folder: ``prior.json`` beside diffusers' ``unet/ vae/ text_encoder/ tokenizer/ scheduler/``.

``view_encoder/`` and ``ray_reader/``, networks of our own, may stand beside them.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.inputs import read_json
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.repository import CONFIG, DESCRIPTION
from invert3d_ns.weights.manifest import check_sizes, write_manifest
from invert3d_ns.weights.network_config import check_network_config, read_network_config
from invert3d_ns.weights.tensors import read_shards

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

FORMAT_VERSION = 1
NETWORKS = ("unet", "vae", "text_encoder")
"""Parts of a prior that have weights; each is a folder of its name."""
_ADVICE = "convert or download it again"
VIEW_ENCODER, RAY_READER = "view_encoder", "ray_reader"
"""Parts that a prior may have or not."""
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
        InputError: the folder cannot be written, the disk is full, or see :func:`check_weights`.
    """
    check_weights(prior, dtype)
    with atomic_path(folder) as temporary, quiet_libraries():
        temporary.mkdir()
        for name in networks_of(prior):
            module = copy.deepcopy(getattr(prior, name)).to("cpu", dtype)
            module.save_pretrained(temporary / name, max_shard_size=max_shard_size, safe_serialization=True)
        prior.tokenizer.save_pretrained(temporary / "tokenizer")
        _forget_origin(temporary / "tokenizer" / "tokenizer_config.json")
        # transformers 5 writes tokenizer.json only; version 4 reads the vocabulary and merges.
        prior.tokenizer.backend_tokenizer.model.save(str(temporary / "tokenizer"))
        prior.scheduler.save_pretrained(temporary / "scheduler")  # type: ignore[attr-defined]
        document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(prior.info)}
        # safetensors writes files that only their owner may read, also inside a package that others install.
        for file in temporary.rglob("*.safetensors"):
            file.chmod(0o644)
        (temporary / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        write_manifest(temporary)


def _forget_origin(path: Path) -> None:
    """Take out of a tokenizer's config how it was loaded, which transformers writes into what it saves."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def networks_of(prior: MultiViewPrior) -> tuple[str, ...]:
    """Names of the parts of a prior that have weights."""
    return (*NETWORKS, *(name for name in (VIEW_ENCODER, RAY_READER) if getattr(prior, name) is not None))


def round_weights(prior: MultiViewPrior, dtype: torch.dtype) -> None:
    """Round every weight to what ``dtype`` can hold, in place; each keeps its own type.

    Raises:
        InputError: see :func:`check_weights`; nothing is rounded then.
    """
    check_weights(prior, dtype)
    for value in _weights(prior).values():
        value.copy_(value.to(dtype))


def check_weights(prior: MultiViewPrior, dtype: torch.dtype | None = None) -> None:
    """Refuse weights that are no numbers and, where a type is given, those that it cannot hold.

    Raises:
        InputError: a weight is not finite, or is too large for ``dtype``.
    """
    for name, value in _weights(prior).items():
        if not value.isfinite().all():
            raise InputError(f"the weights of the {name} are not finite; they are damaged, download them again")
        if dtype is not None and not value.to(dtype).isfinite().all():
            raise InputError(
                f"weights of the {name} are as large as {value.abs().max():.3g}, too large for {dtype}; use them as "
                "they are, in bfloat16 or float32"
            )


def _weights(prior: MultiViewPrior) -> dict[str, Tensor]:
    """Every weight, with its name for messages."""
    states = {part: getattr(prior, part).state_dict() for part in networks_of(prior)}
    return {
        f"{part}'s {name}": value
        for part, state in states.items()
        for name, value in state.items()
        if value.is_floating_point()
    }


def read_info(folder: Path) -> PriorInfo:
    """Read ``prior.json``.

    Raises:
        InputError: it is missing, damaged, or of a version that this package does not know.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(
            f"{folder} is not a prior: it has no prior.json; give a folder that `invert3d prior convert` wrote"
        )
    document = read_json(path, _ADVICE)
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{path} is no description of a prior: format_version is {version!r:.40}; {_ADVICE}")
    if version > FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, newer than this package knows; update invert3d-ns")
    try:
        return PriorInfo.from_document(document)
    except InputError as error:
        raise InputError(f"{path} is no description of a prior: {str(error).split('; ')[0]}; {_ADVICE}") from error


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> MultiViewPrior:
    """Load a folder that :func:`save_prior` wrote. No code from the folder is run and nothing is downloaded.

    Raises:
        InputError: a part is missing, truncated, not what the manifest says, or does not fit its config.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTokenizer

    from invert3d_ns.prior.conversion import build_text_encoder
    from invert3d_ns.prior.matching import check_parts_match
    from invert3d_ns.prior.multiview import MultiViewPrior

    info = read_info(folder)
    check_sizes(folder)
    part = "unet"
    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    networks: dict[str, Any] = {}
    try:
        with quiet_libraries():
            for part, kind in kinds.items():
                networks[part] = _load_network(kind, folder / part, dtype)
            part = "text_encoder"
            weights = _read_shards(folder / part, torch.float32)
            networks[part] = build_text_encoder(read_network_config(folder / part / CONFIG, len(weights)), weights)
            for part, kind in _optional_networks().items():
                if (folder / part).is_dir():
                    networks[part] = _load_network(kind, folder / part, torch.float32)
            part = "tokenizer"
            networks[part] = CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
            part = "scheduler"
            networks[part] = _load_scheduler(folder / part)
            part = DESCRIPTION
            check_parts_match(info, **networks)
            prior = MultiViewPrior(**networks, info=info)
    except Exception as error:  # a config that is no model's ends in errors of all kinds, by version of the library
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the prior in {folder} is damaged: {part} cannot be loaded ({reason}); {_ADVICE}") from error
    return prior.to(device)


def _optional_networks() -> dict[str, Any]:
    from invert3d_ns.prior.ray_reader import RayReader
    from invert3d_ns.prior.view_encoder import ViewEncoder

    return {VIEW_ENCODER: ViewEncoder, RAY_READER: RayReader}


def _load_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    # Not from_pretrained: it fills weights that a damaged folder lacks with random numbers, and takes time to draw
    # random numbers that it then overwrites.
    from invert3d_ns.prior.conversion import load_strictly

    weights = _read_shards(folder, dtype)
    config = read_network_config(folder / CONFIG, len(weights))
    with torch.device("meta"):
        network = kind.from_config(config)
    load_strictly(network, weights, folder.name, assign=True)
    return network


def _read_shards(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    state = read_shards(sorted(folder.glob("*.safetensors")))
    return {key: value.to(dtype) for key, value in state.items()}


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    # Among the defaults of schedulers is minus infinity, which they write as they are.
    config = read_json(folder / "scheduler_config.json", _ADVICE, finite=False)
    name = config.get("_class_name")
    kind = getattr(diffusers, name) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise TypeError(f"{name} is not a scheduler")
    usual = inspect.signature(kind.__init__).parameters
    chosen = {key: value for key, value in config.items() if key not in usual or value != usual[key].default}
    check_network_config(chosen, 1, folder / "scheduler_config.json")
    scheduler: Any = kind.from_config(config)  # type: ignore[attr-defined]
    if not hasattr(scheduler, "alphas_cumprod"):
        raise TypeError(f"{name} has no noise schedule of alphas")
    return scheduler
