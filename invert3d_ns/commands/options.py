"""Flags that several subcommands take, as small groups to inherit from, with the ranges of their numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.prior.settings import PriorOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MOST_VIEWS = 3600
"""Ten views a degree all around; more is a slip of the keyboard, and would take hours."""
LARGEST_SEED = 2**31 - 1
"""Seeds are multiplied and added to on their way to random number generators, which take 64 bits."""
Seed = Annotated[int, at_least(0, LARGEST_SEED)]
"""A seed of a command."""
SamplingSteps = Annotated[int, at_least(1, 1000)]
"""Denoising steps."""
GuidanceScale = Annotated[float, at_least(1, 50)]
"""Classifier-free guidance."""


@dataclass(kw_only=True)
class ReportOptions:
    """A report that a command writes."""

    out: Path
    """Folder to write to: table.md, table.json, and pictures if there are any."""
    quick: bool = False
    """A reduced version, in a minute or less; too small to claim anything from."""


@dataclass(kw_only=True)
class PriorName:
    """The prior that a command loads."""

    prior: str = "bundled"
    """Name or path of the prior."""


@dataclass(kw_only=True)
class PriorComputation:
    """How the prior that a command loads computes."""

    prior_options: PriorOptions = field(default_factory=PriorOptions)
    """How the prior computes: precision, and what lowers its memory."""


@dataclass(kw_only=True)
class EmbeddingPrior(PriorComputation):
    """The prior of a command that reads an embedding."""

    prior: str | None = None
    """Name or path of the prior. Default: the one that the embedding was made with."""


@dataclass(kw_only=True)
class OrbitOptions:
    """Cameras on an orbit around the object, and how many views the prior makes at once."""

    azimuths: tuple[Annotated[float, at_least(-1e6, 1e6)], ...] = (0.0, 90.0, 180.0, 270.0)
    """Camera azimuths in degrees; 0 sees the front, 90 the side that faces +x."""
    count: Annotated[int, at_least(1, MOST_VIEWS)] | None = None
    """Evenly spaced azimuths, this many, instead of --azimuths: 24 make a smooth turntable."""
    elevation: Annotated[float, above(-90, 90)] = 15.0
    """Camera elevation in degrees; priors know about -30 to 30."""
    joint_views: Annotated[int, at_least(1, MOST_VIEWS)] | None = None
    """Views that are denoised together and agree with each other. Default: as many as the prior was trained with."""

    def check_orbit(self) -> None:
        """Raise InputError if there are no cameras."""
        if not self.azimuths:
            raise InputError("no azimuths are given; give at least one, in degrees")

    def orbit_azimuths(self) -> list[float]:
        """Azimuth of each camera in degrees."""
        return [i * 360 / self.count for i in range(self.count)] if self.count else list(self.azimuths)

    def orbit_angles(self) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
        """Azimuth and elevation of each camera in degrees."""
        import torch

        azimuths = torch.tensor(self.orbit_azimuths(), dtype=torch.float32)
        return azimuths, torch.full_like(azimuths, self.elevation)
