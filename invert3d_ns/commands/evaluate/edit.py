"""``invert3d evaluate edit``: do edits change what they name and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import InversionOptions, SampledViews, SeededReport


@dataclass
class EvaluateEdit(InversionOptions, SampledViews, SeededReport):
    """Do edits of held-out objects change what they name and nothing else?"""

    objects: tuple[str, ...] | None = None
    """Some of the six objects, such as chair_red."""
    edits: tuple[str, ...] | None = None
    """Some of each object's twelve edits, by kind (color, pattern, part, style) or by target (blue)."""
    methods: tuple[str, ...] = ("default",)
    """Ways of editing by name, "all", or settings such as space=encoded,amount=2. Names: default, prediction, encoded,
    pooled, input, "prompt only", re-weighted, noun, described, "free silhouette", "sdedit 0.5", "sdedit 0.7", "sdedit
    0.9", ddim, "from noise"."""
    splats: bool = False
    """Also carry the edits, by the first method, into splats, which takes longer than everything else."""
    words: Path | None = None
    """Folder of inversions to use again and to add to; "words" in the report's folder if not given."""
    one_inversion: bool = False
    """All seeds share the first one's inversion, and differ in noise and cameras alone."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()

        from invert3d_ns.base.errors import InputError
        from invert3d_ns.metrics.edit_cases import OBJECTS
        from invert3d_ns.metrics.edit_quality import METHODS, Plan, evaluate_edits
        from invert3d_ns.metrics.edit_rows import write_pictures
        from invert3d_ns.metrics.edit_table import tabulate_edits
        from invert3d_ns.metrics.judge import Judge
        from invert3d_ns.prior.checkpoints import load_prior

        if not self.methods:
            raise InputError('--methods is empty; give at least one way of editing, such as default, or "all"')
        objects, edits = self.objects or tuple(OBJECTS), self.edits
        if self.quick:
            objects, edits = objects[:1], edits or ("blue", "striped", "cyan", "van gogh")
        plan = Plan(
            objects=objects,
            edits=edits,
            methods=list(dict.fromkeys(m for name in self.methods for m in (METHODS if name == "all" else [name]))),
            seeds=self.used_seeds(),
            sampling_steps=self.sampling_steps,
            guidance_scale=self.guidance_scale,
            inversion_steps=min(self.steps or 40, 40) if self.quick else self.steps,
            vectors=self.vectors,
            groups=8 if self.quick else 48,
            words=self.words,
            one_inversion=self.one_inversion,
        )
        prior = load_prior(self.prior)
        judge = Judge.load()
        with progress_bar(transient=False) as show:
            rows, figures = tabulate_edits(evaluate_edits(prior, judge, self.out, plan, show))
            write_pictures(self.out, plan.objects, plan.methods)
            if self.splats:
                from invert3d_ns.metrics.edit_splats import evaluate_splats, tabulate_splats

                more, behind = tabulate_splats(evaluate_splats(prior, judge, self.out, plan, progress=show))
                rows, figures = rows + more, figures | behind
        title = f"Edits of held-out objects, read by the judge, prior {prior.info.name}"
        self.write_table("edit", title, rows, figures, prior.device)
        return 0
