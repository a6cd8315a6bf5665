"""Flags that several evaluations take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.outputs import check_folder
from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import command_line
from invert3d_ns.commands.options import GuidanceScale, PriorName, ReportOptions, SamplingSteps, Seed


@dataclass(kw_only=True)
class SeededReport(ReportOptions):
    """A report of means and spreads over seeds."""

    seeds: tuple[Seed, ...] = (0, 1, 2)
    """One run each; of a quick one the first alone."""

    def check_report(self) -> None:
        """Refuse numbers and folders that no report can be made with, before anything is measured.

        Raises:
            InputError: there is no seed, or the folder cannot be written to.
        """
        if not self.seeds:
            raise InputError("--seeds is empty; give at least one seed")
        check_folder(self.out)

    def used_seeds(self) -> list[int]:
        """The seeds that are run."""
        return list(self.seeds[:1] if self.quick else self.seeds)

    def write_table(
        self,
        name: str,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        figures: Mapping[str, Any],
        device: object,
    ) -> None:
        """Write the report of ``invert3d evaluate NAME`` and show its table."""
        from invert3d_ns.metrics.report import write_report

        command = command_line(f"evaluate {name}", self)
        write_report(self.out, title, rows, figures, command=command, seeds=self.used_seeds(), device=str(device))


@dataclass(kw_only=True)
class SampledViews(PriorName):
    """Views that the prior makes."""

    sampling_steps: SamplingSteps | None = None
    """Denoising steps of generated views; the prior's own number if not given."""
    guidance_scale: GuidanceScale | None = None
    """Classifier-free guidance, 1 to 50; the prior's own choice if not given."""


@dataclass(kw_only=True)
class InversionOptions:
    """Inversions that an evaluation makes."""

    steps: Annotated[int, at_least(0)] | None = None
    """Optimizer steps of an inversion; the prior's own number if not given."""
    vectors: Annotated[int, at_least(1, 75)] | None = None
    """Number of pseudo-words N; the view encoder's, or 32 from a word, if not given."""
