"""``invert3d evaluate prior``: does the prior obey words, and do its views show one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import SampledViews, SeededReport
from invert3d_ns.commands.options import LARGEST_SEED


@dataclass
class EvaluatePrior(SampledViews, SeededReport):
    """Does the prior obey words, on held-out combinations of class, color, pattern and style, and do its views show one
    object?
    """

    seeds: tuple[Annotated[int, at_least(0, LARGEST_SEED)], ...] = (0, 1)
    """One run of all prompts each; of a quick one the first alone."""
    prompts: Annotated[int, at_least(1, 200)] = 200
    """How many of the 200 fixed held-out prompts."""
    no_cross_view: bool = False
    """Also the same network with views that attend only to themselves."""
    consistency_objects: Annotated[int, at_least(0, 200)] = 12
    """How many prompts' views splats are fitted to; 0 leaves this out."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()

        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.prior_table import PriorPlan, measure_prior
        from invert3d_ns.prior.checkpoints import load_prior

        prior = load_prior(self.prior)
        plan = PriorPlan(
            seeds=self.used_seeds(),
            prompts=6 if self.quick else self.prompts,
            consistency_objects=min(self.consistency_objects, 1) if self.quick else self.consistency_objects,
            fit_steps=60 if self.quick else 250,
            views_apart=self.no_cross_view,
            sampling_steps=self.sampling_steps,
            guidance_scale=self.guidance_scale,
        )
        with progress_bar() as show:
            rows, figures = measure_prior(prior, Judge.load(), self.out, plan, show)
        title = f"Views that show what the prompt says, prior {prior.info.name}"
        self.write_table("prior", title, rows, figures, prior.device)
        return 0
