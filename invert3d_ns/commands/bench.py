"""``invert3d bench``: speed, as ratios against a named peer in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from invert3d_ns.base.outputs import check_folder
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.commands.console import command_line, progress_bar
from invert3d_ns.commands.options import PriorName, ReportOptions


@dataclass
class BenchRasterization(ReportOptions):
    """Time the CPU kernel of the rasterizer beside its torch twin."""

    ply: Path | None = None
    """Splats to draw as well."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.metrics.bench_rasterization import bench_rasterization

        check_folder(self.out)
        rows = bench_rasterization(self.quick, self.ply)
        figures = {
            f"{row['case']}_{row['splats']}_{row['pixels']}_{row['backend']}_ms": row["forward_backward_ms"]
            for row in rows
        }
        ratios = [row["ratio"] for row in rows if row["backend"] == "torch" and "ratio" in row]
        figures["least_speedup"] = min(ratios, default=0.0)
        _write_table("rasterization", self, rows, figures)
        return 0


@dataclass
class BenchInversion(PriorName, ReportOptions):
    """Time a step of inversion over a bare UNet forward."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.metrics.bench_inversion import bench_inversion_step
        from invert3d_ns.prior.checkpoints import load_prior

        check_folder(self.out)
        prior = load_prior(self.prior)
        rows = bench_inversion_step(prior, self.quick)
        figures = {"step_over_forward": next(row["ratio"] for row in rows if row["what"] == "inversion step")}
        _write_table("inversion", self, rows, figures, prior.device)
        return 0


@dataclass
class BenchEditing(PriorName, ReportOptions):
    """Time re-weighted words over plain ones, and the first views of a prompt."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.metrics.bench_editing import bench_editing
        from invert3d_ns.prior.checkpoints import load_prior

        check_folder(self.out)
        prior = load_prior(self.prior)
        rows = bench_editing(prior, self.quick)
        figures = {row["what"].replace(",", "").replace(" ", "_"): row["ms"] for row in rows}
        figures["weights_ratio"] = rows[1]["ratio"]
        _write_table("editing", self, rows, figures, prior.device)
        return 0


@dataclass
class BenchGuidance(PriorName, ReportOptions):
    """Time a step of each kind of guidance over its parts; or, with --size, count what a step costs at that size."""

    size: Literal["tiny", "small", "sd1.5", "sd2.1"] | None = None
    """Instead of --prior, one of this size with random weights. sd2.1 if only --device is given."""
    device: Literal["cuda", "cpu", "meta"] | None = None
    """With --size: cuda if there is one, else meta, which computes nothing and counts memory and operations."""
    groups: tuple[Annotated[int, at_least(1, 64)], ...] = (1, 2)
    """With --size: groups of four views in a step; a row for each number."""
    runs: Annotated[int, at_least(1, 1000)] = 3
    """With --size: runs that a time is the median of."""
    teraflops: Annotated[float, above(0)] | None = None
    """With --size: what a device carries out in a second, in 10^12 operations; adds the seconds that follow from it."""

    def run(self) -> int:
        """Measure, write, show."""
        check_folder(self.out)
        return self._time_parts() if self.size is None and self.device is None else self._count()

    def _count(self) -> int:
        import torch

        from invert3d_ns.metrics.guidance_cost import figures_of, guidance_cost

        device = self.device or ("cuda" if torch.cuda.is_available() else "meta")
        size, few = self.size or "sd2.1", {"groups": self.groups[:1], "runs": 1} if self.quick else {}
        chosen = replace(self, size=size, device=device, **few)
        with progress_bar() as show:
            rows = guidance_cost(
                size, device, groups=chosen.groups, runs=chosen.runs, teraflops=self.teraflops, progress=show
            )
        title = f"Cost of a step of guidance with a prior of size {size}"
        _write_table("guidance", chosen, rows, figures_of(rows), "cpu" if device == "meta" else device, title=title)
        return 0

    def _time_parts(self) -> int:
        from invert3d_ns.metrics.bench_guidance import bench_guidance
        from invert3d_ns.prior.checkpoints import load_prior
        from invert3d_ns.scenes.assets import DEMO_SCENE, read_object

        prior = load_prior(self.prior)
        rows = bench_guidance(prior, read_object(DEMO_SCENE)[0], self.quick)
        figures = {f"{row['guidance']}_over_parts": row["ratio"] for row in rows if row["what"] == "a step"}
        _write_table("guidance", self, rows, figures, prior.device)
        return 0


@dataclass
class BenchStartup(ReportOptions):
    """Time what the package adds to `ns-train --help`."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.metrics.bench_startup import bench_startup

        check_folder(self.out)
        rows, figures = bench_startup(self.quick)
        _write_table("startup", self, rows, figures)
        return 0


@dataclass
class BenchPrior(ReportOptions):
    """Measure time and memory of a prior of a given size, with random weights, and what each option saves."""

    size: Literal["tiny", "small", "sd1.5", "sd2.1"] | None = None
    """Full size with --device cuda or meta, else small, if not given."""
    device: Literal["cuda", "cpu", "meta"] | None = None
    """cuda if there is one, else cpu. meta computes nothing and counts memory, of full size in a minute."""
    options: tuple[str, ...] | None = None
    """Rows to measure beside the plain one, for example gradient-checkpointing; all if not given."""
    runs: Annotated[int, at_least(0, 1000)] = 5
    """Runs that a time is the median of; 0 takes the first, for full size on a CPU."""

    def run(self) -> int:
        """Measure, write, show."""
        import torch

        from invert3d_ns.metrics.bench_prior import bench_prior, figures_of

        check_folder(self.out)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        size = self.size or ("tiny" if self.quick else "small" if device == "cpu" else "sd1.5")
        chosen = replace(self, size=size, device=device, runs=min(self.runs, 1) if self.quick else self.runs)
        with progress_bar() as show:
            rows = bench_prior(size, device, self.options, runs=chosen.runs, progress=show)
        title = f"{'Memory' if device == 'meta' else 'Time and memory'} of a prior of size {size}"
        _write_table("prior", chosen, rows, figures_of(rows), "cpu" if device == "meta" else device, title=title)
        return 0


BenchCommand = (
    Annotated[BenchRasterization, tyro.conf.subcommand("rasterization", prefix_name=False)]
    | Annotated[BenchInversion, tyro.conf.subcommand("inversion", prefix_name=False)]
    | Annotated[BenchEditing, tyro.conf.subcommand("editing", prefix_name=False)]
    | Annotated[BenchGuidance, tyro.conf.subcommand("guidance", prefix_name=False)]
    | Annotated[BenchStartup, tyro.conf.subcommand("startup", prefix_name=False)]
    | Annotated[BenchPrior, tyro.conf.subcommand("prior", prefix_name=False)]
)


@dataclass
class Bench:
    """Measure speed and write table.md and table.json."""

    command: tyro.conf.OmitArgPrefixes[BenchCommand]

    def run(self) -> int:
        """Run the chosen measurement."""
        return self.command.run()


def _write_table(
    name: str,
    options: ReportOptions,
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Any],
    device: object = "cpu",
    title: str = "",
) -> None:
    from invert3d_ns.metrics.report import write_report

    command = command_line(f"bench {name}", options)
    write_report(options.out, title or f"Speed: {name}", rows, figures, command=command, device=str(device))
