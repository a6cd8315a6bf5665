"""Settings of inversions, of scenes and of photographs; free of torch, so that ``invert3d --help`` starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least, check_numbers

Method = Literal["encoder", "imagined", "direct", "direct-anywhere"]
VECTORS, STEPS = 8, 60
"""Pseudo-words and steps of photographs, where no view encoder says the words."""
EXTENTS = (0.52, 0.6, 0.68, 0.76)
"""Shares of the frame that an object may span. Renders of objects of radius 0.9 span 0.55 to 0.78 of it, less when seen
along their length, as a car from the front."""


@dataclass(frozen=True)
class Objective:
    """Settings of the CTI loss, see :class:`.cti.CameraTextInversion`."""

    per_view_timesteps: bool = False
    """Draw a timestep for each view, as the official code does, rather than one for all views of a group."""
    timestep_range: tuple[Annotated[float, at_least(0, 1)], Annotated[float, at_least(0, 1)]] = (0.0, 1.0)
    """Fractions of the diffusion process between which timesteps are drawn (0: clean, 1: pure noise)."""
    norm_penalty: Annotated[float, at_least(0)] = 0.0
    """Weight of the mean squared length of the vectors, in units of the squared mean length of the prior's words."""


@dataclass(frozen=True)
class ImageSettings:
    """Settings of the inversion of photographs."""

    init_word: str = ""
    """What the object is, such as "chair" or "blue car": where words and cameras are searched from. If empty, CLIP says
    it."""
    clip: str = "bundled"
    """CLIP towers that say what the object is: bundled, a model of open_clip with its tag, a folder, or none."""
    vectors: Annotated[int, at_least(1)] | None = None
    """Number of pseudo-words: 8 if not given; the view encoder has a number of its own."""
    steps: Annotated[int, at_least(0)] | None = None
    """Optimization steps: none after the view encoder, else 60, if not given."""
    method: Method | None = None
    """encoder: one look by the prior's view encoder; the default where it has one. imagined: the prior completes each
    photograph to orbits, from plain words, and the orbits are inverted. direct: only the photographs are inverted, each
    from the camera that explains it. direct-anywhere: from random cameras."""
    orbits: Annotated[int, at_least(1)] = 2
    """Orbits that are imagined."""
    batch: Annotated[int, at_least(1)] = 4
    """Photographs (with their own noise and cameras) in each step of direct inversion."""
    searches: Annotated[int, at_least(1)] = 3
    """How often direct inversion looks for the cameras again, with the words learned so far; evenly spaced over the
    first two thirds."""
    azimuths: tuple[Annotated[float, at_least(-1e6, 1e6)], ...] = ()
    """Azimuths in degrees that the photographs are known to show, one for each; searched if not given."""
    elevations: tuple[Annotated[float, at_least(-89, 89)], ...] = ()
    """Elevations in degrees that they are known to show, one for each; searched if not given."""
    extents: tuple[Annotated[float, at_least(0.1, 1)], ...] = EXTENTS
    """Shares of the frame that the object may span; which one it is is found together with the camera."""
    learning_rate: Annotated[float, above(0)] | None = None
    """Learning rate of the first step; the prior's own choice if None."""

    def check(self, photographs: int) -> None:
        """Refuse settings that are out of range or do not fit the number of photographs.

        Raises:
            InputError: a number is out of range, or the cameras given are not one for each photograph.
        """
        check_numbers(self)
        for name, given in (("azimuths", self.azimuths), ("elevations", self.elevations)):
            if given and len(given) != photographs:
                raise InputError(f"{len(given)} --{name} for {photographs} photographs; give one for each, or none")
        if self.method == "encoder" and self.vectors is not None:
            raise InputError("--method encoder has a number of words of its own; leave --vectors out")
        if self.steps == 0 and self.method not in (None, "encoder"):
            raise InputError(f"--steps is 0, which --method {self.method} learns nothing in; give 1 or more")
        if not self.extents:
            raise InputError("--extents are none; give shares of the frame from 0.1 to 1")
