"""``invert3d evaluate text-to-3d``: do splats from words show what the words say, and which guidance does it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import SeededReport
from invert3d_ns.commands.options import PriorName, Seed


@dataclass
class EvaluateTextTo3D(PriorName, SeededReport):
    """Do splats from words show what the words say, from sides that they were not made from?

    Every prompt is a whole run of ns-train ge3d: 20 to 60 s on two cores for each variant.
    """

    seeds: tuple[Seed, ...] = (0, 1)
    """All prompts are made once with each; with --quick, with the first alone."""
    prompts: Annotated[int, at_least(1, 200)] = 6
    """How many held-out prompts: photos of held-out colors, and of held-out patterns, in turns."""
    variants: tuple[str, ...] = ("all",)
    """Which ways are compared: names, "default" (a run without flags), or "all"."""
    samples: tuple[Annotated[int, at_least(1)], ...] = (1440,)
    """Views that the UNet may be called for in guidance, the same for each variant; 72 a step of ge3d. Of several, a
    plot shows quality over time."""
    start: Literal["views", "blob"] = "views"
    """What the first splats are made from."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()
        from invert3d_ns.metrics.text_runs import VARIANTS, Variant

        known: dict[str, Variant | None] = {variant.name: variant for variant in VARIANTS} | {"default": None}
        asked = list(known)[:-1] if "all" in self.variants else list(self.variants)
        unknown = [name for name in asked if name not in known]
        if unknown or not asked:
            raise InputError(f"--variants {' '.join(unknown) or 'is empty'}; known are all, {', '.join(known)}")

        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.metrics.held_out import held_out_photos
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.text_quality import TextPlan, measure_text
        from invert3d_ns.prior.checkpoints import load_prior

        prior = load_prior(self.prior)
        cases = held_out_photos(1 if self.quick else self.prompts)
        if not self.samples:
            raise InputError("--samples is empty; give at least one number")
        samples = (72,) if self.quick else self.samples
        plan = TextPlan(self.prior, cases, self.used_seeds(), [known[name] for name in asked], samples, self.start)
        with progress_bar() as show:
            rows, figures = measure_text(prior, Judge.load(), load_clip("bundled", prior.device), self.out, plan, show)
        title = f"Splats from words: {len(cases)} held-out prompts, prior {prior.info.name}"
        self.write_table("text-to-3d", title, rows, figures, prior.device)
        return 0
