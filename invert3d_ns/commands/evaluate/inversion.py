"""``invert3d evaluate inversion``: do learned words carry objects that the prior never saw."""

from __future__ import annotations

from dataclasses import dataclass

from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import InversionOptions, SampledViews, SeededReport


@dataclass
class EvaluateInversion(InversionOptions, SampledViews, SeededReport):
    """Do learned words carry objects that the prior never saw, against the init word and a plain caption?"""

    per_view_timesteps: bool = False
    """Also with a timestep of its own for each view, as the official code does."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()

        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.metrics.inversion_quality import OBJECTS, evaluate_objects, tabulate_inversions
        from invert3d_ns.prior.checkpoints import load_prior

        prior = load_prior(self.prior)
        with progress_bar(transient=False) as show:
            graded, views = evaluate_objects(
                prior,
                list(OBJECTS)[:1] if self.quick else list(OBJECTS),
                self.used_seeds(),
                both_timesteps=self.per_view_timesteps,
                progress=show,
                steps=min(self.steps, 40) if self.quick else self.steps,
                groups=8 if self.quick else 48,
                vectors=self.vectors,
                sampling_steps=self.sampling_steps,
                guidance_scale=self.guidance_scale,
            )
        rows, figures = tabulate_inversions(graded)
        # Each object in four rows of views: the truth, init word, caption, z*.
        write_grid(self.out / "views.png", views.flatten(0, 2), columns=4, least=96)
        title = f"Inversion of objects that prior {prior.info.name} never saw, held-out cameras"
        self.write_table("inversion", title, rows, figures, prior.device)
        return 0
