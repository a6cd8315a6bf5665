"""From a name or a path to a prior: the table of priors, conversion on first use, and its cache.

Another multi-view model is one entry in :data:`PRIORS`. Nothing that is downloaded is ever run: weights are read as
tensors and loaded into diffusers' and transformers' own classes.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import socket
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from invert3d_ns.errors import InputError
from invert3d_ns.prior.layouts import convert_file, convert_folder
from invert3d_ns.prior.storage import load_folder, read_info, save_prior

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

    @property
    def fetch_command(self) -> str:
        """What to run on a connected machine to have the weights as a local file or folder."""
        files = f" {self.filename}" if self.filename else ""
        return f"hf download {self.repository}{files} --local-dir {self.local_name}"

    @property
    def local_name(self) -> str:
        """Folder that :attr:`fetch_command` fills."""
        return (self.repository or "").split("/")[-1].lower()

    @property
    def local_path(self) -> str:
        """What to pass as the prior after :attr:`fetch_command`."""
        return f"{self.local_name}/{self.filename}" if self.filename else self.local_name


PRIORS: dict[str, PriorSource] = {
    "bundled": PriorSource("the small prior inside this package: 64x64 views of procedural objects, runs on a CPU"),
    "mvdream-sd1.5": PriorSource(
        "MVDream on Stable Diffusion 1.5, 256x256 views: the one that Invert3D used",
        "MVDream/MVDream",
        "sd-v1.5-4view.pt",
    ),
    "mvdream-sd2.1": PriorSource(
        "MVDream on Stable Diffusion 2.1, 256x256 views", "MVDream/MVDream", "sd-v2.1-base-4view.pt"
    ),
    "mvdream-sd2.1-diffusers": PriorSource(
        "the same weights in half precision, a smaller download", "ashawkey/mvdream-sd2.1-diffusers"
    ),
}
"""Priors by name."""


def load_prior(
    name_or_path: str | Path = "bundled",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> MultiViewPrior:
    """Load a prior by name or from a path; checkpoints are converted on first use and cached.

    Args:
        name_or_path: a name in :data:`PRIORS`; a folder that :func:`save_prior` wrote, or one in the community's
            layout; an MVDream checkpoint (``.pt``, ``.ckpt``, ``.safetensors``).
        device: CUDA if there is one, else the CPU.
        dtype: of UNet and autoencoder (the text encoder stays float32). If None, float32 on a CPU and for the bundled
            prior; else bfloat16, whose range keeps word gradients from vanishing, or float16 on GPUs without it.

    Raises:
        InputError: unknown name, missing or damaged files, weights of another kind, or a hub that cannot be reached.
    """
    name = str(name_or_path)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32
        if device.type == "cuda" and name != "bundled":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "bundled":
        _check_bundled()
        return load_folder(BUNDLED_FOLDER, device, dtype)
    if name in PRIORS:
        folder = cached_folder(name)
        if not (folder / "prior.json").is_file():
            return _convert_and_cache(fetch(name), name, folder, device, dtype)
        return load_folder(folder, device, dtype)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise InputError(_not_found(name))
    if (path / "prior.json").is_file():
        return load_folder(path, device, dtype)
    folder = _cache_root() / f"{path.stem}-{_stamp(path)}"
    if (folder / "prior.json").is_file():
        return load_folder(folder, device, dtype)
    return _convert_and_cache(path, path.stem, folder, device, dtype)


def open_source(name_or_path: str | Path) -> MultiViewPrior:
    """Convert a source on the CPU, without the cache: what ``invert3d prior convert`` writes down.

    Raises:
        InputError: as for :func:`load_prior`.
    """
    name = str(name_or_path)
    if name == "bundled":
        return load_prior("bundled", "cpu")
    path = fetch(name) if name in PRIORS else Path(name_or_path).expanduser()
    if not path.exists():
        raise InputError(_not_found(name))
    if (path / "prior.json").is_file():
        return load_folder(path, torch.device("cpu"), torch.float32)
    return _convert(path, name if name in PRIORS else path.stem)


def cached_folder(name: str) -> Path:
    """Where the converted prior of this name is kept, whether or not it is there yet."""
    return _cache_root() / name


def is_available(name: str) -> bool:
    """Whether a named prior loads without the hub."""
    if name == "bundled":
        return (BUNDLED_FOLDER / "prior.json").is_file()
    return (cached_folder(name) / "prior.json").is_file() or _find_downloaded(PRIORS[name]) is not None


def fetch(name: str) -> Path:
    """The named prior's checkpoint in the hub's cache, downloaded if it is not there.

    Raises:
        InputError: the hub cannot be reached; the message names the command that fetches, and the bundled prior.
    """
    source = PRIORS[name]
    downloaded = _find_downloaded(source)
    if downloaded is not None:
        return downloaded
    try:
        if not _hub_resolves():
            raise OSError("its name does not resolve")
        return _download(source, local_files_only=False)
    except Exception as error:  # huggingface_hub raises its own, requests' or httpx' errors, by version
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"cannot fetch prior {name!r} from the Hugging Face hub ({reason}); run `{source.fetch_command}` on a "
            f"connected machine and pass the path {source.local_path} as the prior, or use the prior 'bundled'"
        ) from error


def _download(source: PriorSource, *, local_files_only: bool) -> Path:
    import huggingface_hub

    assert source.repository is not None
    if source.filename is not None:
        path = huggingface_hub.hf_hub_download(source.repository, source.filename, local_files_only=local_files_only)
    else:
        # Only data: the repository's own pipeline code is neither wanted nor fetched.
        path = huggingface_hub.snapshot_download(
            source.repository,
            allow_patterns=["*.json", "*.txt", "*.safetensors"],
            ignore_patterns=["image_encoder/*", "feature_extractor/*"],
            local_files_only=local_files_only,
        )
    return Path(path)


def _find_downloaded(source: PriorSource) -> Path | None:
    try:
        path = _download(source, local_files_only=True)
    except Exception:  # not in the cache, in whatever way this version of huggingface_hub says so
        return None
    return path if path.is_file() or any((path / "unet").glob("*.safetensors")) else None


def _hub_resolves() -> bool:
    # huggingface_hub retries for half a minute before it gives up; a name that does not resolve is known at once.
    if urllib.request.getproxies():
        return True
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _convert_and_cache(
    source: Path, name: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> MultiViewPrior:
    prior = _convert(source, name)
    try:
        save_prior(prior, folder, max_shard_size="2GB")
    except InputError as error:
        warnings.warn(f"the converted prior is not cached and will be converted again: {error}", stacklevel=3)
    for part in (prior.unet, prior.vae):
        torch.nn.Module.to(part, dtype)  # diffusers' own `to` warns about an empty list of exceptions
    return prior.to(device)


def _convert(source: Path, name: str) -> MultiViewPrior:
    return convert_folder(source, name) if source.is_dir() else convert_file(source, name)


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
    return f"unknown prior {name!r}: no such file or folder; {hint}names are {names}"


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "invert3d_ns" / "priors"


def _stamp(path: Path) -> str:
    # A file's identity without reading gigabytes: where it is, how big, and when it was written.
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
