"""``invert3d evaluate``: quality, measured on objects and prompts that were not trained on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Evaluate:
    """Measure quality and write table.md, table.json and pictures."""

    what: tyro.conf.Positional[Literal["prior", "inversion", "edit", "clip"]]
    """prior: does it obey words, on held-out combinations of class, color, pattern and style, and do its views show
    one object. inversion: do the learned words carry objects that the prior never saw, against the init word and a
    plain caption. edit: do edits of held-out objects change what they name and nothing else. clip: do the bundled
    towers find held-out objects and styles by words."""
    out: Path
    """Folder to write to."""
    quick: bool = False
    """A reduced version, in about a minute; too small to claim anything from."""
    prior: str = "bundled"
    """Name or path of the prior."""
    seeds: tuple[int, ...] | None = None
    """One run each; 0 1 for prior and 0 1 2 for the others if not given."""
    prompts: int = 200
    """For prior: how many of the 200 fixed held-out prompts."""
    no_cross_view: bool = False
    """For prior: also the same network with views that attend only to themselves."""
    consistency_objects: int = 12
    """For prior: how many prompts' views splats are fitted to; 0 leaves this out."""
    steps: int = 400
    """For inversion and edit: optimizer steps of an inversion."""
    vectors: int = 32
    """For inversion and edit: number of pseudo-words N."""
    sampling_steps: int = 20
    """Denoising steps of generated views."""
    guidance_scale: float | None = None
    """Classifier-free guidance; the prior's own choice if not given."""
    per_view_timesteps: bool = False
    """For inversion: also with a timestep of its own for each view, as the official code does."""

    objects: tuple[str, ...] | None = None
    """For edit: some of the six objects, such as chair_red."""
    edits: tuple[str, ...] | None = None
    """For edit: some of each object's twelve edits, by kind (color, pattern, part, style) or by target (blue)."""
    methods: tuple[str, ...] = ("default",)
    """For edit: ways of editing by name, "all", or settings such as space=encoded,amount=2. Names: default, prediction,
    encoded, pooled, input, "prompt only", re-weighted, noun, described, "free silhouette", "sdedit 0.5", "sdedit 0.7",
    "sdedit 0.9", ddim, "from noise"."""
    splats: bool = False
    """For edit: also carry the edits, by the first method, into splats, which takes longer than everything else."""
    words: Path | None = None
    """For edit: folder of inversions to use again and to add to; "words" in the report's folder if not given."""
    one_inversion: bool = False
    """For edit: all seeds share the first one's inversion, and differ in noise and cameras alone."""

    def run(self) -> int:
        """Measure, write, show."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.metrics.report import check_folder

        seeds = [*((0, 1) if self.what == "prior" else (0, 1, 2))] if self.seeds is None else list(self.seeds)
        if not seeds or self.prompts < 1 or self.steps < 1 or self.sampling_steps < 1 or self.consistency_objects < 0:
            raise InputError(
                "nothing to measure; give at least one seed, positive --prompts, --steps and --sampling-steps, and no "
                "negative --consistency-objects"
            )
        check_folder(self.out)
        seeds = seeds[:1] if self.quick else seeds
        if self.what == "clip":
            from invert3d_ns.metrics import clip_quality

            clip_quality.run(self.out, self.quick, seeds)
            return 0
        from invert3d_ns.prior.multiview import MultiViewPrior

        prior = MultiViewPrior.from_pretrained(self.prior)
        runs = {"prior": self._prior, "inversion": self._inversion, "edit": self._edit}
        return runs[self.what](prior, seeds)

    def _command(self, seeds: list[int]) -> str:
        own = f"--steps {self.steps} --vectors {self.vectors}"
        if self.what == "prior":
            own = f"--prompts {self.prompts} --consistency-objects {self.consistency_objects}"
        if self.what == "edit":
            own += "".join(
                f" --{name} {' '.join(map(shlex.quote, values))}"
                for name in ("objects", "edits", "methods")
                if (values := getattr(self, name)) is not None
            )
        extra = "" if self.guidance_scale is None else f" --guidance-scale {self.guidance_scale}"
        for flag in ("no_cross_view", "per_view_timesteps", "splats", "one_inversion", "quick"):
            extra += f" --{flag.replace('_', '-')}" if getattr(self, flag) else ""
        return (
            f"invert3d evaluate {self.what} --prior {Path(self.prior).name} --seeds {' '.join(map(str, seeds))} {own} "
            f"--sampling-steps {self.sampling_steps}{extra} --out ..."
        )

    def _prior(self, prior, seeds: list[int]) -> int:
        from rich.progress import Progress

        from invert3d_ns.base.files import atomic_path
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.metrics.consistency import evaluate_consistency, tabulate_consistency
        from invert3d_ns.metrics.held_out import held_out_prompts, photo_prompts
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.prior_quality import (
            aspect_means,
            attribute_table,
            evaluate_prior,
            grade_true_renders,
            table_row,
        )
        from invert3d_ns.metrics.report import write_report

        judge = Judge.load()
        count, fitted, fit_steps = (
            (6, min(self.consistency_objects, 1), 60)
            if self.quick
            else (
                self.prompts,
                self.consistency_objects,
                250,
            )
        )
        asked, photos = held_out_prompts(count), photo_prompts(True, count)
        sampling = {"steps": self.sampling_steps, "guidance_scale": self.guidance_scale}
        truth = grade_true_renders(judge, asked, seeds)
        rows = [table_row(f"judge on true renders ({len(asked)})", truth)]
        graded: dict[str, list] = {"judge": truth}
        runs = [("held_out", "held-out combinations", asked, True)]
        if self.no_cross_view:
            runs.append(("views_apart", "held-out combinations, views apart", asked, False))
        runs.append(("photo", "plain photos of held-out class and color", photos, True))
        with Progress(transient=True) as bar:

            def watch(label: str):
                task = bar.add_task(label)
                return lambda done, total: bar.update(task, completed=done, total=total)

            for name, label, cases, cross_view in runs:
                graded[name], views = evaluate_prior(
                    prior, judge, cases, seeds, cross_view=cross_view, progress=watch(label), **sampling
                )
                rows.append(table_row(f"{label} ({len(cases)})", graded[name]))
                write_grid(self.out / f"{name}.png", views.flatten(0, 1), columns=16, least=64)
            figures = {
                f"{name}_{aspect}": round(sum(values) / len(values), 4)
                for name, of in graded.items()
                for aspect, values in aspect_means(of).items()
            }
            if fitted:
                measured, views = evaluate_consistency(
                    prior,
                    asked[:fitted],
                    seeds,
                    apart=self.no_cross_view,
                    fit_steps=fit_steps,
                    progress=watch("multi-view consistency"),
                    **sampling,
                )
                lines, behind = tabulate_consistency(measured)
                rows, figures = rows + lines, figures | behind
                write_grid(self.out / "consistency.png", views.flatten(0, 1), columns=8, least=64)
        rows += attribute_table(graded["held_out"], truth)
        with atomic_path(self.out / "prompts.txt") as temporary:
            temporary.write_text("\n".join(case.text for case in asked) + "\n", encoding="utf-8")
        title = f"Views that show what the prompt says, prior {prior.info.name}"
        device = str(prior.device)
        write_report(self.out, title, rows, figures, command=self._command(seeds), seeds=seeds, device=device)
        return 0

    def _inversion(self, prior, seeds: list[int]) -> int:
        import torch
        from rich.progress import Progress

        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.metrics.inversion_quality import OBJECTS, evaluate_object, tabulate_inversions
        from invert3d_ns.metrics.report import write_report

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
                            prior,
                            name,
                            seed,
                            steps=steps,
                            vectors=self.vectors,
                            sampling_steps=self.sampling_steps,
                            guidance_scale=self.guidance_scale,
                            groups=groups,
                            per_view_timesteps=per_view,
                            progress=lambda done, total, task=task: bar.update(task, completed=done),
                        )
                        if per_view:
                            rows = [row | {"words": "z*, a timestep a view"} for row in rows if row["words"] == "z*"]
                        graded += rows
                        if seed == seeds[0] and not per_view:
                            pictures.append(views)
        table, figures = tabulate_inversions(graded)
        # Each object in four rows of views: the truth, init word, caption, z*.
        write_grid(self.out / "views.png", torch.cat(pictures).flatten(0, 1), columns=4, least=96)
        title = f"Inversion of objects that prior {prior.info.name} never saw, held-out cameras"
        device = str(prior.device)
        write_report(self.out, title, table, figures, command=self._command(seeds), seeds=seeds, device=device)
        return 0

    def _edit(self, prior, seeds: list[int]) -> int:
        from rich.progress import Progress

        from invert3d_ns.metrics.edit_cases import OBJECTS
        from invert3d_ns.metrics.edit_quality import METHODS, Plan, evaluate_edits
        from invert3d_ns.metrics.edit_rows import write_pictures
        from invert3d_ns.metrics.edit_table import tabulate_edits
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.metrics.report import write_report

        methods = list(dict.fromkeys(m for name in self.methods for m in (METHODS if name == "all" else [name])))
        names, edits = self.objects or tuple(OBJECTS), self.edits
        steps, groups = self.steps, 48
        if self.quick:
            names, edits = names[:1], edits or ("blue", "striped", "cyan", "van gogh")
            steps, groups = min(steps, 40), 8
        plan = Plan(
            names,
            edits,
            methods,
            seeds,
            self.sampling_steps,
            self.guidance_scale,
            steps,
            self.vectors,
            groups,
            self.words,
            self.one_inversion,
        )
        judge = Judge.load()
        with Progress() as bar:
            task = bar.add_task("starting", total=None)

            def watch(label: str, done: int, total: int) -> None:
                bar.update(task, description=label, completed=done, total=total)

            table, figures = tabulate_edits(evaluate_edits(prior, judge, self.out, plan, watch))
            write_pictures(self.out, plan.objects, plan.methods)
            if self.splats:
                from invert3d_ns.metrics.edit_splats import evaluate_splats, tabulate_splats

                lines, behind = tabulate_splats(evaluate_splats(prior, judge, self.out, plan, progress=watch))
                table, figures = table + lines, figures | behind
        title = f"Edits of held-out objects, read by the judge, prior {prior.info.name}"
        device = str(prior.device)
        write_report(self.out, title, table, figures, command=self._command(seeds), seeds=seeds, device=device)
        return 0
