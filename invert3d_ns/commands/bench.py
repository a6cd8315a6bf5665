"""``invert3d bench``: speed, as ratios against a named peer in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Bench:
    """Measure speed and write table.md and table.json."""

    what: tyro.conf.Positional[Literal["rasterization", "inversion", "startup"]]
    """rasterization: the CPU kernel beside its torch twin. inversion: a step over a bare UNet forward. startup: what
    the package adds to `ns-train --help`."""
    out: Path
    """Folder to write to."""
    quick: bool = False
    """A reduced version, in seconds."""
    prior: str = "bundled"
    """For inversion: name or path of the prior."""
    ply: Path | None = None
    """For rasterization: splats to draw as well."""

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
            from invert3d_ns.prior.multiview import MultiViewPrior

            prior = MultiViewPrior.from_pretrained(self.prior)
            rows, device = bench_inversion_step(prior, self.quick), str(prior.device)
            figures = {"step_over_forward": next(row["ratio"] for row in rows if row["what"] == "inversion step")}
        else:
            from invert3d_ns.metrics.bench_startup import bench_startup

            rows, figures = bench_startup(self.quick)
        command = f"invert3d bench {self.what}{' --quick' if self.quick else ''} --out ..."
        write_report(self.out, f"Speed: {self.what}", rows, figures, command=command, device=device)
        return 0
