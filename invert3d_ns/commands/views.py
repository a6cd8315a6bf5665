"""``invert3d views``: pictures and a turntable of an embedding, from any cameras, with words around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from invert3d_ns.base.outputs import check_folder
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.options import EmbeddingPrior, GuidanceScale, OrbitOptions, SamplingSteps, Seed


@dataclass
class GenerateViews(EmbeddingPrior, OrbitOptions):
    """Generate views of an inverted object from its embedding, as a PNG grid and a video."""

    embedding: tyro.conf.Positional[Path]
    """The run that learned the words (its folder or config.yml), or an embedding.safetensors."""
    prompt: str | None = None
    """Words around the object, for example "a photo of <object>". Default: the object alone."""
    negative_prompt: str = ""
    """What to keep away from."""
    guidance_scale: GuidanceScale | None = None
    """Classifier-free guidance, 1 to 50: higher follows the words more closely. Default: the prior's own."""
    steps: SamplingSteps | None = None
    """Denoising steps, 1 to 1000. Default: the prior's own."""
    sampler: Literal["ddim", "dpm++"] = "ddim"
    """Sampler; dpm++ needs fewer steps."""
    seed: Seed = 0
    """Same seed, same views, on any device."""
    out: Path | None = None
    """Folder for views.png and views.mp4. Default: a folder `generated` beside the embedding."""

    def run(self) -> int:
        """Generate, write both files, and say where they are."""
        self.check_orbit()

        from invert3d_ns.base.notices import warn
        from invert3d_ns.base.pictures import write_grid, write_video
        from invert3d_ns.editing.sources import find_words, own_prior
        from invert3d_ns.prior.checkpoints import load_prior
        from invert3d_ns.prior.known_words import explain_unknown
        from invert3d_ns.words.embedding import ObjectEmbedding
        from invert3d_ns.words.views import generate_views

        file = find_words(self.embedding)
        folder = self.out or file.parent / "generated"
        check_folder(folder)
        embedding = ObjectEmbedding.load(file)
        prior = load_prior(self.prior or own_prior(file, embedding), options=self.prior_options)
        unknown = explain_unknown([self.prompt or "", self.negative_prompt], prior.info)
        if unknown:
            warn(unknown)
        azimuths = self.orbit_azimuths()
        with progress_bar() as show:
            images = generate_views(
                prior,
                embedding,
                azimuths,
                self.elevation,
                prompt=self.prompt,
                group_size=self.joint_views,
                progress=lambda done, total: show("generating", done, total),
                seed=self.seed,
                steps=self.steps,
                sampler=self.sampler,
                guidance_scale=self.guidance_scale,
                negative_prompt=self.negative_prompt,
            )
        write_grid(folder / "views.png", images)
        turn = sorted(range(len(azimuths)), key=lambda index: azimuths[index] % 360)
        write_video(folder / "views.mp4", images[turn], fps=max(1, len(turn) // 4))
        print(f"picture  {folder / 'views.png'}\nvideo    {folder / 'views.mp4'}")
        return 0
