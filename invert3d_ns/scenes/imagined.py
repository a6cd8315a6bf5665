"""The dataparser of scenes that words describe: cameras around nothing, or around something to start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.scenes.assets import SceneDataParser, SceneDataParserConfig, object_splats
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, orbit_cameras
from invert3d_ns.scenes.folders import scene_metadata
from invert3d_ns.scenes.ply_file import read_header

_FILLED = 0.8
"""Share of the object's sphere that points are scaled to."""


@dataclass
class ImaginedDataParserConfig(SceneDataParserConfig):
    """Nothing but cameras, or what a scene of words starts from."""

    _target: type = field(default_factory=lambda: ImaginedDataParser)
    data: Path | None = None  # type: ignore[assignment]
    """What to start from: splats (a file or a run), or a .ply of points with or without colors. Nothing: the prompt
    alone."""


class ImaginedDataParser(SceneDataParser):
    """See :class:`ImaginedDataParserConfig`.

    The outputs' metadata say ``imagined``: pictures show nothing that could be compared with. Of a scene with
    surroundings, the object alone is started from.
    """

    config: ImaginedDataParserConfig

    def __init__(self, config: ImaginedDataParserConfig) -> None:
        super().__init__(config)
        if config.data is None:
            self.path = Path()

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        data = self.config.data
        if data is not None and not _is_points(Path(data)):
            outputs = super()._generate_dataparser_outputs(split, **kwargs)
            if outputs.metadata.get("splats") is None:
                raise InputError(
                    f"{data} holds posed images; fit splats to them first (ns-train invert3d --data {data}) and give "
                    "the run, or leave --data out"
                )
            keep = object_splats(outputs.metadata["splats"])
            if keep is not None:
                outputs.metadata["splats"] = outputs.metadata["splats"].select(keep)
            outputs.metadata |= {"imagined": True, "surroundings": False}
            return outputs
        check_numbers(self.config, "--pipeline.datamanager.dataparser.")
        from invert3d_ns.scenes.posed_images import rising_orbit, spread_orbit

        count = self.config.num_train_views if split == "train" else self.config.num_eval_views
        azimuths, elevations = spread_orbit(count) if split == "train" else rising_orbit(count)
        points = {} if data is None else read_start_points(Path(data))
        return DataparserOutputs(
            image_filenames=[Path("prompt") / f"{split}_{index:04d}.png" for index in range(count)],
            cameras=orbit_cameras(azimuths, elevations, self.config.image_size),
            metadata=scene_metadata(has_alpha=True, imagined=True, **points),
        )


def read_start_points(path: Path) -> dict[str, torch.Tensor]:
    """Points of a ``.ply``, centered and scaled into the object frame (z up, as they are), and their colors.

    Returns:
        ``points3D_xyz`` [N 3] and ``points3D_rgb`` [N 3] (uint8), as nerfstudio's metadata name them.

    Raises:
        InputError: it holds fewer than four finite points.
    """
    from invert3d_ns.scenes.layouts.points import read_ply_points

    points = read_ply_points(path.parent, path.name)
    if points is None or len(points.positions) < 4:
        found = 0 if points is None else len(points.positions)
        raise InputError(f"{path} holds {found} points to start from; give a .ply with four or more, or no --data")
    positions = torch.from_numpy(np.asarray(points.positions)).float()
    center = (positions.amin(0) + positions.amax(0)) / 2
    radius = (positions - center).norm(dim=-1).max().clamp_min(1e-9)
    return {
        "points3D_xyz": (positions - center) * (_FILLED * OBJECT_RADIUS / radius),
        "points3D_rgb": torch.from_numpy(np.asarray(points.colors)).to(torch.uint8),
    }


def _is_points(path: Path) -> bool:
    """Whether a file is a ``.ply`` of points, not of splats."""
    if path.suffix.lower() != ".ply" or not path.is_file():
        return False
    vertex = read_header(path).elements.get("vertex")
    names = {} if vertex is None else vertex.types
    return "x" in names and not {"opacity", "packed_position"} & names.keys()
