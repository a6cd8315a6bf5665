"""Where a scene lay before it was brought into the object frame: kept with every run, so that it can go back there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import transform_splats

_FILE = "dataparser_transforms.json"
"""What nerfstudio calls the file of a run that says how its scene was moved."""
_FAR = 1000.0
"""Distance from the origin, in units of the object's radius, from which on float32 is too coarse."""


@dataclass(frozen=True)
class Placement:
    """How a scene was moved from the coordinates of its input into the object frame, in double precision."""

    transform: Float[Tensor, "4 4"]
    """The similarity that was applied to what is relative to :attr:`origin`, float64."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What was subtracted before, in the input's coordinates."""

    @classmethod
    def of_run(cls, path: Path) -> Placement:
        """The placement of a run's scene; that of the object frame itself if the run does not say.

        Args:
            path: the run's folder, or the ``config.yml`` in it.
        """
        recorded = _recorded(path)
        return cls(torch.eye(4, dtype=torch.float64) if recorded is None else recorded)

    @property
    def scale(self) -> float:
        """Size in the object frame over size in the input."""
        return float(torch.linalg.det(self.transform[:3, :3]).pow(1 / 3))

    @property
    def unscaled(self) -> Float[Tensor, "3 4"]:
        """The move without its scale, as nerfstudio writes it, from the input's own coordinates; float64."""
        linear = self.transform[:3, :3]
        shift = self.transform[:3, 3] - linear @ torch.tensor(self.origin, dtype=torch.float64)
        return torch.cat([linear, shift[:, None]], dim=-1) / self.scale

    def then(self, transform: Float[Tensor, "4 4"]) -> Placement:
        """The same, and after it another similarity."""
        return replace(self, transform=transform.double() @ self.transform)

    def up_axis(self) -> UpAxis | None:
        """The axis of the input that points up, if it is one of its axes."""
        up = self.transform[2, :3] / self.scale
        axis = int(up.abs().argmax())
        if float(up[axis].abs()) < 1 - 1e-4:
            return None
        return cast(UpAxis, ("-" if up[axis] < 0 else "") + "xyz"[axis])

    @property
    def inverse(self) -> Float[Tensor, "4 4"]:
        """The similarity from the object frame to the input's own coordinates, float64."""
        back = torch.linalg.inv(self.transform)
        back[:3, 3] += torch.tensor(self.origin, dtype=torch.float64)
        return back

    def put_back(self, cloud: SplatCloud) -> SplatCloud:
        """Splats of the object frame where they lay in the input, relative to an origin if that is far away."""
        linear = self.transform[:3, :3]
        center = torch.tensor(self.origin, dtype=torch.float64) - torch.linalg.solve(linear, self.transform[:3, 3])
        origin = center.round() if center.abs().max() * self.scale > _FAR else torch.zeros(3, dtype=torch.float64)
        back = torch.eye(4, dtype=torch.float64)
        back[:3, :3], back[:3, 3] = torch.linalg.inv(linear), center - origin
        x, y, z = origin.tolist()
        return replace(transform_splats(cloud, back.float()), origin=(x, y, z))


def placement_of_run(path: Path) -> Placement:
    """The placement of a run's scene, which must be known.

    Args:
        path: the run's folder, or the ``config.yml`` in it.

    Raises:
        InputError: the run does not say where its scene lay.
    """
    recorded = _recorded(path)
    if recorded is None:
        raise InputError(f"{path} does not say where its scene lay: it has no readable {_FILE}; export it centered")
    return Placement(recorded)


def _recorded(path: Path) -> Float[Tensor, "4 4"] | None:
    try:
        saved = json.loads(((path if path.is_dir() else path.parent) / _FILE).read_text(encoding="utf-8"))
        transform = torch.eye(4, dtype=torch.float64)
        transform[:3] = float(saved["scale"]) * torch.tensor(saved["transform"], dtype=torch.float64)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    usable = bool(transform.isfinite().all()) and float(torch.linalg.det(transform[:3, :3])) > 0
    return transform if usable else None


@dataclass
class PlacedOutputs(DataparserOutputs):
    """Outputs of a dataparser that write down the placement of the scene in double precision."""

    placement: Placement | None = None
    """Where the scene lay."""

    def save_dataparser_transform(self, path: Path) -> None:
        """Write nerfstudio's file of the transform; nothing of a far origin is rounded away."""
        if self.placement is None:
            return super().save_dataparser_transform(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"transform": self.placement.unscaled.tolist(), "scale": self.placement.scale}
        path.write_text(json.dumps(content, indent=4), encoding="utf-8")
