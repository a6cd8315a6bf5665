"""``invert3d evaluate a3d``: are objects that are made together alike part by part, and each what its prompt says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import SeededReport
from invert3d_ns.commands.options import PriorName, Seed


@dataclass
class EvaluateA3D(PriorName, SeededReport):
    """Are objects that are made together alike, part by part, and is each still what its prompt says?

    Every pair is a run of ns-train a3d, or two of ge3d: 40 to 90 s on one core for each way. A run that was stopped
    goes on where its folder's rows end.
    """

    seeds: tuple[Seed, ...] = (0, 1)
    """All pairs are made once with each; with --quick, the first pair with the first alone."""
    pairs: Annotated[int, at_least(1, 10)] = 10
    """How many of the fixed pairs of held-out prompts."""
    ways: tuple[str, ...] = ("a3d", "a3d, P(edge) = 0", "independent", "sequential, 1 to 2", "sequential, 2 to 1")
    """How they are made: names, or "all"."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()
        from invert3d_ns.metrics.aligned_runs import PAIRINGS, pair_cases

        known = {pairing.name: pairing for pairing in PAIRINGS}
        asked = list(known) if "all" in self.ways else list(self.ways)
        unknown = [name for name in asked if name not in known]
        if unknown or not asked:
            raise InputError(f"--ways {' '.join(unknown) or 'is empty'}; known are all, {'; '.join(known)}")

        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.metrics.aligned_quality import AlignedPlan, measure_aligned, tabulate
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.prior.checkpoints import load_prior

        prior = load_prior(self.prior)
        cases = pair_cases(1 if self.quick else self.pairs)
        plan = AlignedPlan(self.prior, cases, [known[name] for name in asked], self.used_seeds())
        with progress_bar() as show:
            rows = measure_aligned(prior, Judge.load(), load_clip("bundled", prior.device), self.out, plan, show)
        table, figures = tabulate(rows, plan)
        title = f"Aligned objects: {len(cases)} held-out pairs, prior {prior.info.name}"
        self.write_table("a3d", title, table, figures, prior.device)
        return 0
