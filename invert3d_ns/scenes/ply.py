"""Gaussian splats in .ply files: every layout in use is read, the original 3DGS layout is written."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cloud import RasterizeMode, SplatCloud
from invert3d_ns.scenes.ply_file import PlyHeader, read_columns, read_header, white_of
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.scenes.splat_values import checked

_SHAPES = ["opacity", "scale_0", "scale_1", *(f"rot_{i}" for i in range(4))]
_RGB = ("red", "green", "blue")
_REST_COUNTS = (0, 9, 24, 45)
_UP_COMMENT, _MODE_COMMENT = "Vertical Axis", "Rasterize Mode"
_FAR = 1000.0
"""How many times its own extent a scene lies from the origin before it is read around an origin of its own."""


def read_splats(path: Path | str) -> SplatCloud:
    """Read Gaussian splats from an ordinary .ply file: ascii or binary of either byte order, spherical harmonics of
    degree 0 to 3.

    Understands 3DGS and gsplat (normals and ``f_rest_*`` channel by channel), nerfstudio (the same, or plain ``red
    green blue`` of 8 or 16 bits, or between 0 and 1), LGM (no normals, degree 0) and 2DGS (two scales: flat splats).
    How splats must be drawn is known of files of :func:`write_splats` only; others are taken to be classic. Positions
    in double precision that lie far from their origin are read around a nearer one, see :attr:`SplatCloud.origin`.

    Raises:
        InputError: the file is missing, not a .ply, truncated, a mesh or point cloud, compressed or empty, or most of
            its splats are unusable, see :func:`~invert3d_ns.scenes.splat_values.checked`.
    """
    return read_ply(path)[0]


def declared_up_axis(path: Path | str) -> UpAxis | None:
    """The axis that a .ply file says points up, as nerfstudio's exports and :func:`write_splats` do: "z", "-y", ...

    Raises:
        InputError: the file is not a .ply.
    """
    return up_axis(read_header(Path(path)))


def read_ply(path: Path | str, name: Path | None = None) -> tuple[SplatCloud, UpAxis | None]:
    """Read :func:`read_splats` and :func:`declared_up_axis` of a file at once.

    Args:
        path: the file.
        name: what messages call it, if it was made from another one.

    Raises:
        InputError: see :func:`read_splats`.
    """
    path = Path(path)
    header = read_header(path)
    name = name or path
    _check_splats(name, header)
    columns = read_columns(path, header)
    means, origin = _positions(columns)
    cloud = SplatCloud(
        means=means,
        scales=_stacked(columns, "scale_0", "scale_1", *(["scale_2"] if "scale_2" in columns else [])),
        quats=_stacked(columns, *(f"rot_{i}" for i in range(4))),
        opacities=_stacked(columns, "opacity"),
        features_dc=_colors(name, columns),
        features_rest=_harmonics(columns),
        rasterize_mode=rasterize_mode(header),
        origin=origin,
    )
    return checked(cloud, name), up_axis(header)


def is_compressed(header: PlyHeader) -> bool:
    """Whether a .ply is of SuperSplat's compressed kind."""
    vertex = header.elements.get("vertex")
    return "chunk" in header.elements or (vertex is not None and "packed_position" in vertex.types)


def is_mesh(header: PlyHeader) -> bool:
    """Whether a .ply has faces between its vertices, and no property of splats."""
    return "vertex" in header.elements and not is_compressed(header) and _kind(header) == "a mesh"


def up_axis(header: PlyHeader) -> UpAxis | None:
    """The axis that a .ply says points up, if it does."""
    up = header.comments.get(_UP_COMMENT.lower())
    return cast(UpAxis, up) if up in get_args(UpAxis) else None


def rasterize_mode(header: PlyHeader) -> RasterizeMode:
    """How the splats of a .ply are to be drawn, classic unless it says otherwise."""
    return "antialiased" if header.comments.get(_MODE_COMMENT.lower()) == "antialiased" else "classic"


def _check_splats(path: Path, header: PlyHeader) -> None:
    """Refuse a .ply that holds something else than splats, by the name of what it holds."""
    if is_compressed(header):
        raise InputError(f"{path} is a compressed splat .ply; export it as an ordinary one")
    vertex = header.elements.get("vertex")
    if vertex is None:
        raise InputError(f"{path} has no vertex element; give a .ply of Gaussian splats")
    names = vertex.types.keys()
    missing = [name for name in ["x", "y", "z", *_SHAPES] if name not in names]
    if not missing and "f_dc_0" not in names and not set(_RGB) <= names:
        missing = ["f_dc_0"]
    if "f_dc_0" in names:
        missing += [name for name in ("f_dc_1", "f_dc_2") if name not in names]
    if missing:
        listed = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise InputError(f"{path} is {_kind(header)}, without the splat properties {listed}; {_advice(header)}")
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _REST_COUNTS or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise InputError(
            f"{path} has {rest} f_rest_* properties; spherical harmonics of degree 0-3 have 0, 9, 24 or 45: export it "
            "with one of these degrees"
        )
    if vertex.count == 0:
        raise InputError(f"{path} has 0 splats; export the scene again")


def _kind(header: PlyHeader) -> str:
    names = header.elements["vertex"].types.keys()
    if any(name in names for name in _SHAPES):
        return "no splat file that is known here"
    faces = header.elements.get("face")
    if faces is not None and faces.count:
        return "a mesh"
    return "a point cloud" if {"x", "y", "z"} <= names else "no splat file"


def _advice(header: PlyHeader) -> str:
    kind = _kind(header)
    if kind == "a mesh":
        return "read it with read_splat_file, which makes splats of it"
    if kind == "a point cloud":
        return "give the splats that were trained from it, or the folder of posed images that it came from"
    return "export it in the layout of 3DGS, as .ply"


def _stacked(columns: dict[str, npt.NDArray], *names: str) -> Float[Tensor, "N c"]:
    return torch.stack([_single(columns[name]) for name in names], dim=-1)


def _positions(columns: dict[str, npt.NDArray]) -> tuple[Float[Tensor, "N 3"], tuple[float, float, float]]:
    """Centers in float32, and the origin in the file's coordinates that they are relative to."""
    if all(columns[axis].dtype.itemsize < 8 and columns[axis].dtype.kind == "f" for axis in "xyz"):
        return _stacked(columns, *"xyz"), (0.0, 0.0, 0.0)
    exact = np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=-1)
    finite = exact[np.isfinite(exact).all(axis=-1)]
    if len(finite):
        center = np.median(finite, axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # of outliers
            extent = np.quantile(np.linalg.norm(finite - center, axis=-1), 0.9)
        if np.abs(center).max() > _FAR * extent:
            x, y, z = center.round().tolist()
            return _single(exact - (x, y, z)), (x, y, z)
    return _single(exact), (0.0, 0.0, 0.0)


def _single(values: npt.NDArray) -> Tensor:
    """In single precision; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32))


def _colors(path: Path, columns: dict[str, npt.NDArray]) -> Float[Tensor, "N 3"]:
    """Harmonics of degree 0, also of a file that has plain colors: their type says what is white."""
    if "f_dc_0" in columns:
        return _stacked(columns, *(f"f_dc_{i}" for i in range(3)))
    colors = _stacked(columns, *_RGB)
    white, guessed = white_of(colors.numpy(), [columns[name].dtype for name in _RGB])
    if guessed and white > 1:
        brightest = float(colors[colors.isfinite()].max())
        warn(f"the colors of {path} go up to {brightest:g}: {white:g} is taken for white")
    return (colors / white - 0.5) / SH_C0


def _harmonics(columns: dict[str, npt.NDArray]) -> Float[Tensor, "N K 3"]:
    names = [name for name in columns if name.startswith("f_rest_")]
    if not names:
        return torch.zeros(len(columns["x"]), 0, 3)
    flat = _stacked(columns, *(f"f_rest_{i}" for i in range(len(names))))
    return flat.unflatten(1, (3, -1)).transpose(1, 2).contiguous()


def write_splats(path: Path | str, cloud: SplatCloud, up: UpAxis | None = None) -> None:
    """Write splats in the 3DGS layout (binary little-endian, with zero normals), which every viewer reads.

    The file appears under its name only when complete. A comment says so if the splats are not drawn the classic way.
    Positions are in double precision if the splats have an origin of their own.

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
    wide = "xyz" if any(cloud.origin) else ""
    table = np.empty(len(cloud), dtype=[(name, "<f8" if name in wide else "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values.detach().cpu().numpy()
    for axis, shift in zip(wide, cloud.origin, strict=False):
        table[axis] += shift
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<", comments=comments_of(cloud, up)).write(
            str(temporary)
        )


def comments_of(cloud: SplatCloud, up: UpAxis | None) -> list[str]:
    """What a .ply says in comments that its numbers do not: the axis that points up, and how splats are drawn."""
    comments = [f"{_UP_COMMENT}: {up}"] if up else []
    return comments + ([f"{_MODE_COMMENT}: {cloud.rasterize_mode}"] if cloud.rasterize_mode != "classic" else [])
