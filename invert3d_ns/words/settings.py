"""Settings of inversions, of scenes and of photographs; free of torch, so that ``invert3d --help`` starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from invert3d_ns.base.errors import InputError

Method = Literal["imagined", "direct", "direct-anywhere"]
EXTENTS = (0.52, 0.6, 0.68, 0.76)
"""Shares of the frame that an object may span. Renders of objects of radius 0.9 span 0.55 to 0.78 of it, less when seen
along their length, as a car from the front."""


@dataclass(frozen=True)
class Objective:
    """Settings of the CTI loss, see :class:`.cti.CameraTextInversion`."""

    per_view_timesteps: bool = False
    """Draw a timestep for each view, as the official code does, rather than one for all views of a group."""
    timestep_range: tuple[float, float] = (0.0, 1.0)
    """Fractions of the diffusion process between which timesteps are drawn (0: clean, 1: pure noise)."""
    norm_penalty: float = 0.0
    """Weight of the mean squared length of the vectors, in units of the squared mean length of the prior's words."""


@dataclass(frozen=True)
class ImageSettings:
    """Settings of the inversion of photographs."""

    init_word: str = ""
    """What the object is, such as "chair" or "blue car": where the words start from. If empty, the prior chooses among
    all words that it knows where these are few (the bundled one), and starts from its own word for anything else."""
    vectors: int = 8
    """Number of pseudo-words."""
    steps: int = 60
    """Optimization steps."""
    method: Method = "imagined"
    """imagined: the prior completes each photograph to orbits, from plain words, and the orbits are inverted. direct:
    only the photographs are inverted, each from the camera that explains it. direct-anywhere: from random cameras."""
    orbits: int = 2
    """Orbits that are imagined."""
    batch: int = 4
    """Photographs (with their own noise and cameras) in each step of direct inversion."""
    searches: int = 3
    """How often direct inversion looks for the cameras again, with the words learned so far; evenly spaced over the
    first two thirds."""
    azimuths: tuple[float, ...] = ()
    """Azimuths in degrees that the photographs are known to show, one for each; searched if not given."""
    elevations: tuple[float, ...] = ()
    """Elevations in degrees that they are known to show, one for each; searched if not given."""
    extents: tuple[float, ...] = EXTENTS
    """Shares of the frame that the object may span; which one it is is found together with the camera."""
    learning_rate: float | None = None
    """Learning rate of the first step; the prior's own choice if None."""

    def check(self, photographs: int) -> None:
        """Refuse settings that are out of range or do not fit the number of photographs.

        Raises:
            InputError: a number is out of range, or the cameras given are not one for each photograph.
        """
        for name in ("vectors", "steps", "orbits", "batch", "searches"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; give 1 or more")
        for name, given, limit in (("azimuths", self.azimuths, 1e6), ("elevations", self.elevations, 89.0)):
            if given and len(given) != photographs:
                raise InputError(f"{len(given)} --{name} for {photographs} photographs; give one for each, or none")
            if not all(abs(value) <= limit for value in given):
                raise InputError(f"--{name} {given} are out of range; give degrees, elevations between -89 and 89")
        if not self.extents or not all(0.1 <= value <= 1 for value in self.extents):
            raise InputError(f"--extents {self.extents} are no shares of the frame; give numbers from 0.1 to 1")
