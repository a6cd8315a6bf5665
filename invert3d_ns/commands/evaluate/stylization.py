"""``invert3d evaluate stylization``: are styles by words recognized from all sides, and is the scene still there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import SeededReport
from invert3d_ns.commands.options import Seed


@dataclass
class EvaluateStylization(SeededReport):
    """Are styles by words recognized from sides that no step saw, by the judge and by a tower that was not followed?

    Objects times styles times ways times seeds: 6 x 8 x 6 x 1 are 288 styles, of about half a minute of one core each,
    two and a half hours in all; --ways "directional + patch" plain takes a third. A run of ns-train clip-splat makes
    all styles of an object; an evaluation that was stopped goes on after the last run in its folder's rows.
    """

    seeds: tuple[Seed, ...] = (0,)
    """All styles are made once with each; with --quick, the first style of the first object in a few steps."""
    objects: Annotated[int, at_least(1, 6)] = 6
    """How many of the fixed objects, whose colors training holds back."""
    styles: tuple[str, ...] = ("all",)
    """Which styles: some of the eight that color alone can carry, such as "van gogh" night, or "all"."""
    ways: tuple[str, ...] = (
        "directional + patch",
        "plain",
        "augmented",
        "directional + patch, reach 0",
        "directional + patch, SH + opacity",
        "directional + patch, all",
    )
    """Which losses, and what may change besides colors: names, or "all" (12)."""
    towers: tuple[str, ...] | None = None
    """CLIP towers that are followed; the method's own if not given."""
    judge_towers: str = "bundled"
    """The second CLIP tower, which judges and is not followed."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()
        from invert3d_ns.metrics.stylization_runs import WAYS, color_styles, followed_towers, stylization_cases

        known = {way.name: way for way in WAYS}
        ways = _chosen(self.ways, list(known), "--ways")
        styles = _chosen(self.styles, list(color_styles()), "--styles")
        names = followed_towers() if self.towers is None else self.towers
        if not names:
            raise InputError("--towers is empty; leave it out, or give at least one")

        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.base.notices import warn
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.stylization_quality import Graders, StylizationPlan, measure_stylization, tabulate

        graders = Graders(Judge.load(), [load_clip(name) for name in names], load_clip(self.judge_towers))
        if not graders.independent():
            warn(
                f"the tower that judges, {self.judge_towers}, is one that is followed, too: what it says of styles is "
                "no evidence; give another with --judge-towers"
            )
        cases = stylization_cases(1 if self.quick else self.objects)
        styles, steps = (styles[:1], 10) if self.quick else (styles, None)
        plan = StylizationPlan(cases, styles, [known[name] for name in ways], self.used_seeds(), names, steps)
        with progress_bar() as show:
            rows = measure_stylization(graders, self.out, plan, show)
        table, figures = tabulate(rows, plan)
        title = f"Styles by words: {plan.total} of {len(cases)} objects, {' and '.join(names)} followed"
        self.write_table("stylization", title, table, figures, graders.second.mean.device)
        return 0


def _chosen(asked: tuple[str, ...], known: list[str], flag: str) -> list[str]:
    unknown = [name for name in asked if name not in (*known, "all")]
    if unknown or not asked:
        raise InputError(f"{flag} {'; '.join(unknown) or 'is empty'}; known are all; {'; '.join(known)}")
    return known if "all" in asked else list(dict.fromkeys(asked))
