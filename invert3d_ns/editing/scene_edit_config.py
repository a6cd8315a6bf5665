"""Settings of how splats follow an edit; what is edited, and where, is the edit's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from invert3d_ns.base.errors import InputError
from invert3d_ns.guidance.configs import AnyGuidanceConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig


@dataclass
class SceneEditConfig:
    """How splats follow an edit."""

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

    @property
    def total_steps(self) -> int:
        """Steps of fit and refinement."""
        return self.fit_steps + self.refine_steps

    def check(self) -> None:
        """Refuse settings that are out of range.

        Raises:
            InputError: by name.
        """
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
        self.sds.check()
