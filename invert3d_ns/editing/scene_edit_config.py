"""Settings of how splats follow an edit; what is edited, and where, is the edit's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from invert3d_ns.base.ranges import at_least, check_numbers
from invert3d_ns.guidance.sds import ScoreDistillationConfig


@dataclass
class SceneEditConfig:
    """How splats follow an edit."""

    orbits: Annotated[int, at_least(1, 100)] = 3
    """Rings of cameras, at elevations of their own, whose views are edited."""
    views: Annotated[int, at_least(1, 100)] = 4
    """Views of each ring."""
    at_once: bool = True
    """Edit all rings in one pass of the prior, so that they agree; else ring by ring, which takes less memory."""
    fit_steps: Annotated[int, at_least(0)] = 60
    """Steps of fitting the splats to the edited views."""
    refine_steps: Annotated[int, at_least(0)] = 0
    """Steps of score distillation towards the edited words after that, from new cameras at each."""
    batch: Annotated[int, at_least(1)] = 4
    """Views in a step of the fit."""
    details: bool = True
    """Keep what the prior's autoencoder cannot show: apply the change of the views to the views as they were."""
    tolerance: Annotated[float, at_least(1)] = 1.5
    """A view counts less once its error exceeds this many times the median view's, after a third of the fit."""
    latent_weight: Annotated[float, at_least(0)] = 0.0
    """Weight of the squared distance of the views' latents (what the prior's encoder sees), beside that of colors."""
    color_rate: Annotated[float, at_least(0)] = 0.03
    """Learning rate of colors (spherical-harmonic coefficients of degree 0; a twentieth for higher ones)."""
    geometry_rate: Annotated[float, at_least(0)] = 1.0
    """Factor on the learning rates of geometry."""
    refine_rate: Annotated[float, at_least(0)] = 0.3
    """Factor on all learning rates while distilling."""
    supersampling: Annotated[int, at_least(1, 16)] = 2
    """Samples along each side of a pixel of the prior's view, as when the words were learned."""
    sds: ScoreDistillationConfig = field(default_factory=lambda: ScoreDistillationConfig(t_max=0.7, t_max_end=0.3))
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
        check_numbers(self, "")
        self.sds.check()
