"""``invert3d evaluate inversion``: do words carry objects that the prior never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from invert3d_ns.base.ranges import at_least
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.evaluate.options import SampledViews, SeededReport


@dataclass
class EvaluateInversion(SampledViews, SeededReport):
    """Do words carry objects that the prior never saw? Beside the init word, a caption and the autoencoder."""

    starts: tuple[str, ...] = ()
    """Where words start from and the steps that follow, as encoder:0 encoder:50 word:400. If not given, the view
    encoder alone, with 50 steps, and with the prior's own number."""
    objects: tuple[str, ...] | None = None
    """Some of the five classes, such as robot."""
    assemblies: Annotated[int, at_least(0, 1000)] = 20
    """Held-out random assemblies."""
    assets: tuple[Path, ...] = ()
    """Splat files or runs to measure as well; a file's name is its caption."""
    vectors: Annotated[int, at_least(1, 75)] | None = None
    """Number of pseudo-words that start from a word: 32 if not given."""
    clip: str = "bundled"
    """CLIP towers that compare pictures."""

    def run(self) -> int:
        """Measure, write, show."""
        self.check_report()

        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.metrics.inversion_objects import OBJECTS, inversion_objects
        from invert3d_ns.metrics.inversion_quality import Start, default_starts, evaluate_object, tabulate_inversions
        from invert3d_ns.prior.checkpoints import load_prior

        names = list(OBJECTS) if self.objects is None else list(self.objects)
        unknown = [name for name in names if name not in OBJECTS]
        if unknown:
            raise InputError(f"unknown object {unknown[0]!r}; use some of {', '.join(OBJECTS)}")
        starts = [Start.parse(text) for text in self.starts]
        prior, towers = load_prior(self.prior), load_clip(self.clip)
        starts = starts or default_starts(prior)
        if prior.view_encoder is None and any(start.init == "encoder" for start in starts):
            raise InputError(f"the prior {prior.info.name!r} has no view encoder; leave --starts encoder:... out")
        if self.quick:
            names, starts = names[:1], [Start(start.init, min(start.steps, 40)) for start in starts]
        items = inversion_objects(names, min(self.assemblies, 1) if self.quick else self.assemblies, self.assets)
        graded, pictures = [], []
        with progress_bar(transient=False) as show:
            for item in items:
                for seed in self.used_seeds():
                    rows, views = evaluate_object(
                        prior,
                        towers,
                        item,
                        seed,
                        starts,
                        vectors=self.vectors,
                        sampling_steps=self.sampling_steps,
                        guidance_scale=self.guidance_scale,
                        groups=8 if self.quick else 48,
                        progress=show,
                    )
                    graded += rows
                    if seed == self.seeds[0]:
                        pictures += list(views)
        table, figures = tabulate_inversions(graded)
        # Each object in rows of views: the truth, init word, caption, then each start.
        import torch

        write_grid(self.out / "views.png", torch.cat(pictures), columns=4 * (3 + len(starts)), least=64)
        title = f"Inversion of objects that prior {prior.info.name} never saw, held-out cameras"
        self.write_table("inversion", title, table, figures, prior.device)
        return 0
