"""Gaussian splats in .ply files: every layout in use is read, the original 3DGS layout is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import SH_C0

_REQUIRED = ["x", "y", "z", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
_REST_COUNTS = {0: 0, 9: 1, 24: 2, 45: 3}
_UP_COMMENT, _MODE_COMMENT = "Vertical Axis", "Rasterize Mode"


def read_splats(path: Path | str) -> SplatCloud:
    """Read Gaussian splats from a .ply file: ascii or binary of either byte order, spherical harmonics of degree 0 to
    3.

    Understands 3DGS and gsplat (normals and ``f_rest_*`` channel by channel), nerfstudio (the same, or plain ``red
    green blue``), and LGM (no normals, degree 0). How splats must be drawn is known of files of :func:`write_splats`
    only; others are taken to be classic.

    Raises:
        InputError: the file is missing, not a .ply, truncated, a mesh or point cloud, compressed, empty, or has NaN or
            infinity.
    """
    path = Path(path)
    vertex, comments = _read_vertices(path)
    names = {prop.name for prop in vertex.properties}

    def columns(prefix: str, count: int) -> Tensor:
        stacked = np.stack([np.asarray(vertex[f"{prefix}{i}"], dtype=np.float32) for i in range(count)], axis=-1)
        return torch.from_numpy(stacked)

    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _REST_COUNTS or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise InputError(
            f"{path} has {rest} f_rest_* properties; spherical harmonics of degree 0-3 have 0, 9, 24 or 45"
        )
    count = len(vertex.data)
    if "f_dc_0" in names:
        features_dc = columns("f_dc_", 3)
    else:
        rgb = np.stack([np.asarray(vertex[c], dtype=np.float32) / 255 for c in ("red", "green", "blue")], axis=-1)
        features_dc = (torch.from_numpy(rgb) - 0.5) / SH_C0
    cloud = SplatCloud(
        means=torch.from_numpy(np.stack([np.asarray(vertex[c], dtype=np.float32) for c in "xyz"], axis=-1)),
        scales=columns("scale_", 3),
        quats=columns("rot_", 4),
        opacities=torch.from_numpy(np.asarray(vertex["opacity"], dtype=np.float32).copy())[:, None],
        features_dc=features_dc,
        features_rest=(
            columns("f_rest_", rest).reshape(count, 3, rest // 3).transpose(1, 2).contiguous()
            if rest
            else torch.zeros(count, 0, 3)
        ),
        rasterize_mode="antialiased" if comments.get(_MODE_COMMENT.lower()) == "antialiased" else "classic",
    )
    bad = torch.zeros(count, dtype=torch.bool)
    for tensor in cloud.tensors().values():
        bad |= ~tensor.flatten(1).isfinite().all(dim=1)
    if bad.any():
        raise InputError(
            f"{path} has NaN or infinity in {int(bad.sum())} of {count} splats; remove them or export the file again"
        )
    norm = cloud.quats.norm(dim=-1, keepdim=True)
    if not (norm > 0).all():
        raise InputError(f"{path} has splats whose rotation is all zeros; remove them or export the file again")
    cloud.quats = cloud.quats / norm
    return cloud


def _read_vertices(path: Path) -> tuple[Any, dict[str, str]]:
    """The ``vertex`` element of a .ply file, checked to hold splats, and its comments "name: value" in lower case."""
    from plyfile import PlyData, PlyParseError

    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a .ply file of Gaussian splats")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a .ply file of Gaussian splats")
    try:
        ply = PlyData.read(str(path))
    except PlyParseError as error:
        reason = "is truncated" if "early end" in str(error) else f"is not a readable .ply file ({error})"
        raise InputError(f"{path} {reason}; copy or export the file again") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not a readable .ply file ({error}); copy or export the file again") from error
    elements = {element.name: element for element in ply.elements}
    if "chunk" in elements or ("vertex" in elements and "packed_position" in _names(elements["vertex"])):
        raise InputError(f"{path} is a compressed splat .ply; export it as an ordinary (uncompressed) .ply")
    if "vertex" not in elements:
        raise InputError(f"{path} has no vertex element; give a .ply of Gaussian splats")
    vertex = elements["vertex"]
    names = _names(vertex)
    missing = [name for name in _REQUIRED if name not in names]
    if not missing and "f_dc_0" not in names and "red" not in names:
        missing = ["f_dc_0"]
    if missing:
        kind = "a mesh" if "face" in elements else "a point cloud" if {"x", "y", "z"} <= names else "no splat file"
        listed = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise InputError(
            f"{path} is {kind}, without the splat properties {listed};"
            " give a .ply of Gaussian splats, or a folder of posed images to reconstruct from"
        )
    if vertex.count == 0:
        raise InputError(f"{path} has 0 splats; export the scene again")
    parts = (comment.lower().partition(":") for comment in ply.comments)
    return vertex, {name.strip(): value.strip() for name, _, value in parts}


def _names(element) -> set[str]:
    return {prop.name for prop in element.properties}


def declared_up_axis(path: Path | str) -> str | None:
    """The axis that a .ply file says points up, as nerfstudio's exports and :func:`write_splats` do: "z", "-y", ...

    Raises:
        InputError: the file is not a .ply of splats.
    """
    up = _read_vertices(Path(path))[1].get(_UP_COMMENT.lower())
    return up if up in get_args(UpAxis) else None


def write_splats(path: Path | str, cloud: SplatCloud, up: UpAxis | None = None) -> None:
    """Write splats in the 3DGS layout (binary little-endian, with zero normals), which every viewer reads.

    The file appears under its name only when complete. A comment says so if the splats are not drawn the classic way.

    Args:
        path: the file.
        cloud: the splats.
        up: the axis of ``cloud`` that points up, noted in a comment if given.

    Raises:
        InputError: the file cannot be written.
    """
    from plyfile import PlyData, PlyElement

    rest = cloud.features_rest.transpose(1, 2).flatten(1)  # channel by channel: [N, 3 * K]
    columns = {
        **{name: cloud.means[:, i] for i, name in enumerate("xyz")},
        **{name: torch.zeros(len(cloud)) for name in ("nx", "ny", "nz")},
        **{f"f_dc_{i}": cloud.features_dc[:, i] for i in range(3)},
        **{f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])},
        "opacity": cloud.opacities[:, 0],
        **{f"scale_{i}": cloud.scales[:, i] for i in range(3)},
        **{f"rot_{i}": cloud.quats[:, i] for i in range(4)},
    }
    table = np.empty(len(cloud), dtype=[(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values.detach().cpu().numpy()
    with atomic_path(path) as temporary:
        comments = [f"{_UP_COMMENT}: {up}"] if up else []
        comments += [f"{_MODE_COMMENT}: {cloud.rasterize_mode}"] if cloud.rasterize_mode != "classic" else []
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<", comments=comments).write(str(temporary))
