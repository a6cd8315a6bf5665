"""``invert3d evaluate``: quality, measured on objects and prompts that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Evaluate:
    """Measure quality and write table.md, table.json and pictures."""

    what: tyro.conf.Positional[Literal["prior", "inversion"]]
    """prior: does it obey words, on held-out combinations of class and colour. inversion: do the learnt words carry
    objects that the prior never saw, against the init word and a plain caption."""
    out: Path
    """Folder to write to."""
    quick: bool = False
    """A reduced version, in about a minute; too small to claim anything from."""
    prior: str = "bundled"
    """Name or path of the prior."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    prompts: int = 40
    """For prior: number of held-out prompts (there are fewer than that), and of seen ones beside them."""
    steps: int = 400
    """For inversion: optimiser steps."""
    vectors: int = 32
    """For inversion: number of pseudo-words N."""
    sampling_steps: int = 20
    """Denoising steps of generated views."""
    guidance_scale: float | None = None
    """Classifier-free guidance; the prior's own choice if not given."""
    per_view_timesteps: bool = False
    """For inversion: also with a timestep of its own for each view, as the official code does."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.errors import InputError
        from invert3d_ns.metrics.report import check_folder
        from invert3d_ns.prior.multiview import MultiViewPrior

        if not self.seeds or self.prompts < 1 or self.steps < 1 or self.sampling_steps < 1:
            raise InputError(
                "nothing to measure; give at least one seed and positive --prompts, --steps and --sampling-steps"
            )
        check_folder(self.out)
        prior = MultiViewPrior.from_pretrained(self.prior)
        return self._prior(prior) if self.what == "prior" else self._inversion(prior)

    def _command(self) -> str:
        seeds = " ".join(map(str, self.seeds))
        own = f"--prompts {self.prompts}" if self.what == "prior" else f"--steps {self.steps} --vectors {self.vectors}"
        extra = "" if self.guidance_scale is None else f" --guidance-scale {self.guidance_scale}"
        extra += " --per-view-timesteps" if self.per_view_timesteps else ""
        extra += " --quick" if self.quick else ""
        return (
            f"invert3d evaluate {self.what} --prior {Path(self.prior).name} --seeds {seeds} {own} "
            f"--sampling-steps {self.sampling_steps}{extra} --out ..."
        )

    def _prior(self, prior) -> int:
        from rich.progress import Progress

        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.prior_quality import evaluate_prior, grade_true_renders, prompts, summary
        from invert3d_ns.metrics.report import spread, write_report
        from invert3d_ns.pictures import write_grid

        judge = Judge.load()
        seeds, count = (list(self.seeds[:1]), 6) if self.quick else (list(self.seeds), self.prompts)
        true_class, true_colour = grade_true_renders(judge, 16 if self.quick else 128)
        rows = [
            {
                "prompts": "judge on true renders",
                "class %": f"{100 * true_class:.1f}",
                "colour %": f"{100 * true_colour:.1f}",
            }
        ]
        figures: dict[str, float] = {"judge_class": true_class, "judge_colour": true_colour}
        for label, side in (("held-out combinations", True), ("seen combinations", False)):
            cases = prompts(side, count)
            with Progress(transient=True) as bar:
                task = bar.add_task(label)
                graded, views = evaluate_prior(
                    prior, judge, cases, seeds, steps=self.sampling_steps, guidance_scale=self.guidance_scale,
                    progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),
                )  # fmt: skip
            means = summary(graded)
            rows.append({"prompts": f"{label} ({len(cases)})"} | {
                f"{key} %": spread([100 * v for v in values], 1) for key, values in means.items()
            })  # fmt: skip
            name = "held_out" if side else "seen"
            figures |= {f"{name}_{key}": sum(values) / len(values) for key, values in means.items()}
            write_grid(self.out / f"{name}.png", views.flatten(0, 1), columns=16, least=64)
        title = f"Views that show what the prompt says, prior {prior.info.name}"
        device = str(prior.device)
        write_report(self.out, title, rows, figures, command=self._command(), seeds=seeds, device=device)
        return 0

    def _inversion(self, prior) -> int:

        import torch
        from rich.progress import Progress

        from invert3d_ns.metrics.inversion_quality import OBJECTS, evaluate_object, tabulate
        from invert3d_ns.metrics.report import write_report
        from invert3d_ns.pictures import write_grid

        seeds = list(self.seeds[:1]) if self.quick else list(self.seeds)
        objects = list(OBJECTS)[:1] if self.quick else list(OBJECTS)
        steps, groups = (min(self.steps, 40), 8) if self.quick else (self.steps, 48)
        variants = [False, True] if self.per_view_timesteps else [False]
        graded, pictures = [], []
        with Progress() as bar:
            for name in objects:
                for seed in seeds:
                    for per_view in variants:
                        task = bar.add_task(f"{name}, seed {seed}", total=steps)
                        rows, views = evaluate_object(
                            prior, name, seed, steps=steps, vectors=self.vectors, sampling_steps=self.sampling_steps,
                            guidance_scale=self.guidance_scale, groups=groups, per_view_timesteps=per_view,
                            progress=lambda done, total, task=task: bar.update(task, completed=done),
                        )  # fmt: skip
                        if per_view:
                            rows = [row | {"words": "z*, a timestep a view"} for row in rows if row["words"] == "z*"]
                        graded += rows
                        if seed == seeds[0] and not per_view:
                            pictures.append(views)
        table, figures = tabulate(graded)
        # Each object in four rows of views: the truth, init word, caption, z*.
        write_grid(self.out / "views.png", torch.cat(pictures).flatten(0, 1), columns=4, least=96)
        title = f"Inversion of objects that prior {prior.info.name} never saw, held-out cameras"
        device = str(prior.device)
        write_report(self.out, title, table, figures, command=self._command(), seeds=seeds, device=device)
        return 0
