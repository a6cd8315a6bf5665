"""``invert3d views``: pictures and a turntable of an embedding, from any cameras, with words around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from invert3d_ns.prior.settings import PriorOptions


@dataclass
class Views:
    """Generate views of an inverted object from its embedding, as a PNG grid and a video."""

    embedding: tyro.conf.Positional[Path]
    """The embedding.safetensors that an inversion wrote."""
    prompt: str | None = None
    """Words around the object, for example "a photo of <object>". Default: the object alone."""
    azimuths: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
    """Camera azimuths in degrees; 0 sees the front, 90 the side that faces +x."""
    count: int | None = None
    """Evenly spaced azimuths, this many, instead of --azimuths: 24 make a smooth turntable."""
    elevation: float = 15.0
    """Camera elevation in degrees; priors know about -30 to 30."""
    seed: int = 0
    """Same seed, same views, on any device."""
    steps: int = 30
    """Denoising steps."""
    sampler: Literal["ddim", "dpm++"] = "ddim"
    """Sampler; dpm++ needs fewer steps."""
    guidance_scale: float | None = None
    """Classifier-free guidance: higher follows the words more closely. Default: the prior's own."""
    negative_prompt: str = ""
    """What to keep away from."""
    joint_views: int | None = None
    """Views that are denoised together and agree with each other. Default: as many as the prior was trained with."""
    prior: str | None = None
    """Name or path of the prior. Default: the one that the embedding was made with."""
    prior_options: Annotated[PriorOptions, tyro.conf.FlagConversionOff] = field(default_factory=PriorOptions)
    """How the prior computes: precision, and what lowers its memory."""
    out: Path | None = None
    """Folder for views.png and views.mp4. Default: a folder `generated` beside the embedding."""

    def run(self) -> int:
        """Generate, write both files, and say where they are."""
        from rich.progress import Progress

        from invert3d_ns.base.errors import InputError
        from invert3d_ns.base.pictures import write_grid, write_video
        from invert3d_ns.prior.checkpoints import load_prior
        from invert3d_ns.words.embedding import ObjectEmbedding
        from invert3d_ns.words.views import generate_views

        for name in ("steps", "count", "joint_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}; give 1 or more")
        embedding = ObjectEmbedding.load(self.embedding)
        prior = load_prior(self.prior or self._own_prior(embedding.prior), options=self.prior_options)
        azimuths = [i * 360 / self.count for i in range(self.count)] if self.count else list(self.azimuths)
        with Progress(transient=True) as bar:
            task = bar.add_task("generating")
            images = generate_views(
                prior,
                embedding,
                azimuths,
                self.elevation,
                prompt=self.prompt,
                group_size=self.joint_views,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                seed=self.seed,
                steps=self.steps,
                sampler=self.sampler,
                guidance_scale=self.guidance_scale,
                negative_prompt=self.negative_prompt,
            )
        folder = self.out or self.embedding.parent / "generated"
        write_grid(folder / "views.png", images)
        turn = sorted(range(len(azimuths)), key=lambda index: azimuths[index] % 360)
        write_video(folder / "views.mp4", images[turn], fps=max(1, len(turn) // 4))
        print(f"picture  {folder / 'views.png'}\nvideo    {folder / 'views.mp4'}")
        return 0

    @staticmethod
    def _own_prior(name: str) -> str:
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.prior.checkpoints import PRIORS
        from invert3d_ns.weights.hub import parse_reference

        if name not in PRIORS and parse_reference(name) is None:
            raise InputError(
                f"the embedding was made for prior {name!r}, which is not a known name; pass its path as --prior"
            )
        return name
