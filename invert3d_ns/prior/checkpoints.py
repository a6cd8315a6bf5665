"""From a name or a path to a prior."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from invert3d_ns.errors import InputError
from invert3d_ns.prior.storage import load_folder, read_info, save_prior

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

__all__ = ["BUNDLED_FOLDER", "load_prior", "save_prior"]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def load_prior(
    name_or_path: str | Path = "bundled", device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> MultiViewPrior:
    """Load a prior by name or from a path.

    Args:
        name_or_path: a name in the table of priors, or a folder or file.
        device: CUDA if there is one, else the CPU.
        dtype: float32 if None.

    Raises:
        InputError: unknown name, missing or damaged files.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or torch.float32
    if str(name_or_path) == "bundled":
        info = read_info(BUNDLED_FOLDER)
        if not info.training.get("steps", 0) > 0:
            raise InputError(f"{BUNDLED_FOLDER} holds an untrained prior; reinstall invert3d-ns or pass --prior a path")
        return load_folder(BUNDLED_FOLDER, device, dtype)
    return load_folder(Path(name_or_path), device, dtype)
