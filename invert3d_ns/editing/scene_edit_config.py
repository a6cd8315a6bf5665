"""What a user can choose about how splats follow an edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.regions import Box
from invert3d_ns.guidance.configs import AnyGuidanceConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig


@dataclass
class SceneEditConfig:
    """How splats follow an edit."""

    change: Literal["colors", "geometry"] = "colors"
    """colors: splats stay where they are. geometry: they may move, turn, grow and fade as well."""
    orbits: int = 3
    """Rings of cameras, at elevations of their own, whose views are edited."""
    views: int = 4
    """Views of each ring."""
    at_once: bool = True
    """Edit all rings in one pass of the prior, so that they agree; else ring by ring, which takes less memory."""
    fit_steps: int = 60
    """Steps of fitting the splats to the edited views."""
    refine_steps: int = 0
    """Steps of score distillation towards the edited words after that, from new cameras at each."""
    batch: int = 4
    """Views in a step of the fit."""
    details: bool = True
    """Keep what the prior's autoencoder cannot show: apply the change of the views to the views as they were."""
    tolerance: float = 1.5
    """A view counts less once its error exceeds this many times the median view's, after a third of the fit."""
    latent_weight: float = 0.0
    """Weight of the squared distance of the views' latents (what the prior's encoder sees), beside that of colors."""
    color_rate: float = 0.03
    """Learning rate of colors (spherical-harmonic coefficients of degree 0; a twentieth for higher ones)."""
    geometry_rate: float = 1.0
    """Factor on the learning rates of geometry."""
    refine_rate: float = 0.3
    """Factor on all learning rates while distilling."""
    supersampling: int = 2
    """Samples along each side of a pixel of the prior's view, as when the words were learned."""
    sds: AnyGuidanceConfig = field(default_factory=lambda: ScoreDistillationConfig(t_max=0.7, t_max_end=0.3))
    """Guidance of the refinement: score distillation."""
    box: Box | None = None
    """Only what lies in this box changes: xmin ymin zmin xmax ymax zmax in the object frame."""
    box_holds: Literal["auto", "object", "part"] = "auto"
    """object: all of what the words describe, in a scene of several; it is shown to the prior alone and as large as
    the prior knows objects. part: a part of it. auto: whichever the words explain better."""
    relevance: str | None = None
    """Only splats that these words are about change, as "wheels"; found by the prior's attention to them."""
    relevance_threshold: float = 0.5
    """Share of the greatest relevance from which on a splat changes, 0 to 1: high chooses few."""

    def check(self) -> None:
        """Raise InputError by name for each setting that is out of range."""
        for name, least in (
            ("orbits", 1),
            ("views", 1),
            ("batch", 1),
            ("supersampling", 1),
            ("fit_steps", 0),
            ("refine_steps", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}; give {least} or more")
        for name in ("color_rate", "geometry_rate", "refine_rate", "latent_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}; give a number of 0 or more")
        if not 1 <= self.tolerance < float("inf"):
            raise InputError(f"tolerance is {self.tolerance:g}; give 1 or more")
        if not 0 < self.relevance_threshold < 1:
            raise InputError(f"relevance-threshold is {self.relevance_threshold:g}; give a number between 0 and 1")
        if self.relevance is not None and not self.relevance.strip():
            raise InputError("the words of the region are empty; name a part, or leave them out")
        self.sds.check()
