"""``invert3d bench``: speed, as ratios against a named peer in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Bench:
    """Measure speed and write table.md and table.json."""

    what: tyro.conf.Positional[Literal["rasterization", "inversion", "editing", "startup", "prior"]]
    """rasterization: the CPU kernel beside its torch twin. inversion: a step over a bare UNet forward. editing: words
    re-weighted over plain ones, and the first views of a prompt. startup: what the package adds to `ns-train --help`.
    prior: time and memory of a prior of a given size, with random weights, and what each option saves."""
    out: Path
    """Folder to write to."""
    quick: bool = False
    """A reduced version, in seconds."""
    prior: str = "bundled"
    """For inversion and editing: name or path of the prior."""
    ply: Path | None = None
    """For rasterization: splats to draw as well."""
    size: Literal["tiny", "small", "sd1.5", "sd2.1"] | None = None
    """For prior: full size with --device cuda or meta, else small, if not given."""
    device: Literal["cuda", "cpu", "meta"] | None = None
    """For prior: cuda if there is one, else cpu. meta computes nothing and counts memory, of full size in a minute."""
    options: tuple[str, ...] | None = None
    """For prior: rows to measure beside the plain one, for example gradient-checkpointing; all if not given."""
    runs: int = 5
    """For prior: runs that a time is the median of; 0 takes the first, for full size on a CPU."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.metrics.report import check_folder, write_report

        check_folder(self.out)
        device = "cpu"
        if self.what == "rasterization":
            from invert3d_ns.metrics.bench_rasterization import bench_rasterization

            rows = bench_rasterization(self.quick, self.ply)
            figures = {
                f"{row['case']}_{row['splats']}_{row['pixels']}_{row['backend']}_ms": row["forward_backward_ms"]
                for row in rows
            }
            figures["least_speedup"] = min(
                (row["ratio"] for row in rows if row["backend"] == "torch" and "ratio" in row), default=0.0
            )
        elif self.what == "inversion":
            from invert3d_ns.metrics.bench_inversion import bench_inversion_step
            from invert3d_ns.prior.checkpoints import load_prior

            prior = load_prior(self.prior)
            rows, device = bench_inversion_step(prior, self.quick), str(prior.device)
            figures = {"step_over_forward": next(row["ratio"] for row in rows if row["what"] == "inversion step")}
        elif self.what == "editing":
            from invert3d_ns.metrics.bench_editing import bench_editing
            from invert3d_ns.prior.checkpoints import load_prior

            prior = load_prior(self.prior)
            rows, device = bench_editing(prior, self.quick), str(prior.device)
            figures = {row["what"].replace(",", "").replace(" ", "_"): row["ms"] for row in rows}
            figures["weights_ratio"] = rows[1]["ratio"]
        elif self.what == "prior":
            return self._prior()
        else:
            from invert3d_ns.metrics.bench_startup import bench_startup

            rows, figures = bench_startup(self.quick)
        command = f"invert3d bench {self.what}{' --quick' if self.quick else ''} --out ..."
        write_report(self.out, f"Speed: {self.what}", rows, figures, command=command, device=device)
        return 0

    def _prior(self) -> int:
        import torch
        from rich.progress import Progress

        from invert3d_ns.base.errors import InputError
        from invert3d_ns.metrics.bench_prior import bench_prior, figures_of
        from invert3d_ns.metrics.report import write_report

        if self.runs < 0:
            raise InputError(f"--runs is {self.runs}; give 0 or more")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        size = self.size or ("tiny" if self.quick else "small" if device == "cpu" else "sd1.5")
        runs = min(self.runs, 1) if self.quick else self.runs
        with Progress(transient=True) as bar:
            task = bar.add_task("measuring", total=None)
            rows = bench_prior(
                size, device, self.options, runs=runs, progress=lambda name: bar.update(task, description=name)
            )
        command = f"invert3d bench prior --size {size} --device {device} --runs {runs}"
        if self.options is not None:
            command += f" --options {' '.join(self.options)}"
        place = "cpu" if device == "meta" else device
        title = f"{'Memory' if device == 'meta' else 'Time and memory'} of a prior of size {size}"
        write_report(self.out, title, rows, figures_of(rows), command=f"{command} --out ...", device=place)
        return 0
