"""Splats as the tables of .ply files, to be spoiled the ways that people's tools do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement
from synthetic import make_cloud

from invert3d_ns.scenes.ply import write_splats


def splat_table(folder: Path, count: int = 200, sh_degree: int = 0) -> np.ndarray:
    """The rows of a 3DGS file of the synthetic object."""
    path = folder / "table.ply"
    write_splats(path, make_cloud(count, sh_degree))
    return read_table(path)


def read_table(path: Path) -> np.ndarray:
    """The rows of a file, writable."""
    return PlyData.read(str(path))["vertex"].data.copy()


def save(path: Path, table: np.ndarray, **options) -> Path:
    """Write rows as the vertices of a .ply."""
    PlyData([PlyElement.describe(table, "vertex")], **options).write(str(path))
    return path


def drop(table: np.ndarray, *prefixes: str) -> np.ndarray:
    """The rows without the columns whose names begin so."""
    return retype(table, {name: table.dtype[name] for name in table.dtype.names or () if not name.startswith(prefixes)})


def retype(table: np.ndarray, types: dict) -> np.ndarray:
    """Columns ``types`` of the rows, of these types."""
    kept = np.empty(len(table), dtype=list(types.items()))
    for name in types:
        kept[name] = table[name]
    return kept


def with_columns(table: np.ndarray, **columns: np.ndarray) -> np.ndarray:
    """The rows with more columns, or with others in their place."""
    names = [name for name in table.dtype.names or () if name not in columns]
    types = {**{name: table.dtype[name] for name in names}, **{name: column.dtype for name, column in columns.items()}}
    made = np.empty(len(table), dtype=list(types.items()))
    for name in types:
        made[name] = columns[name] if name in columns else table[name]
    return made
