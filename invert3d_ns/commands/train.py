"""``invert3d train``: make the bundled models again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Train:
    """Make what the package ships: prior, CLIP, judge, demo scene. A training that is run again resumes."""

    what: tyro.conf.Positional[Literal["prior", "clip", "judge", "demo"]]
    """prior: autoencoder, then denoiser and text tower. clip: the bundled CLIP. judge: the classifier that evaluations
    use. demo: the demo scene."""
    out: Path = Path("outputs/prior")
    """Folder for checkpoints, the training set, sample grids and, at the end, the finished model."""
    stage: Literal["all", "data", "autoencoder", "decoder", "denoiser", "export"] = "all"
    """For prior: stop after this one. decoder and denoiser may run side by side, once the autoencoder is trained.
    export writes the averaged weights of the denoiser's latest checkpoint as a prior, also while that still trains."""
    start: str | None = None
    """For prior: a finished prior that the denoiser goes on from, a folder or "bundled"; its autoencoder stays. For
    judge: finished weights to go on from, a file or "bundled"."""
    objects: int = 12288
    """Objects in the training set, eight views each (200 views a second and core are rendered)."""
    autoencoder_steps: int = 3600
    """Steps of the autoencoder (0.3 to 0.5 s each on one core)."""
    decoder_steps: int = 1000
    """Steps of its decoder alone (0.2 to 0.4 s each on one core)."""
    denoiser_steps: int = 4800
    """Steps of the denoiser (0.8 s each on one core). A finished run may be resumed with more."""
    denoiser_lr: float | None = None
    """Peak learning rate of the denoiser. If not given: 2e-3, and with --start 1.2e-3."""
    images: int = 32
    """Views in a step of the denoiser."""
    clip_steps: int = 1000
    """Steps of CLIP."""
    judge_steps: int = 3600
    """Steps of the judge."""
    evaluate: bool = True
    """For prior: write the table of `invert3d evaluate prior` at the end."""
    gates: bool = True
    """For prior: stop when a stage is not good enough to train the next one on."""
    compile: bool = False
    """Run networks through torch.compile: worth it on CUDA."""
    seed: int = 0
    """Of weights, batches and noise."""
    device: str | None = None
    """Where to train: cuda if there is one, else cpu."""

    def run(self) -> int:
        """Train what is not trained yet and write the finished model."""
        from invert3d_ns.base.errors import InputError

        for name in (
            "objects",
            "autoencoder_steps",
            "decoder_steps",
            "denoiser_steps",
            "images",
            "clip_steps",
            "judge_steps",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        return {"prior": self._prior, "clip": self._clip, "judge": self._judge, "demo": self._demo}[self.what]()

    def _demo(self) -> int:
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats
        from invert3d_ns.world.splats import demo_object, splats_of

        write_splats(self.out / "demo.ply", from_object_frame(splats_of(demo_object()), "y"))
        print(f"Demo scene: {self.out / 'demo.ply'}")
        return 0

    def _judge(self) -> int:
        from invert3d_ns.metrics.judge import WEIGHTS
        from invert3d_ns.training.judge import OBJECTS, SEED, train_judge
        from invert3d_ns.training.judge_data import judged_views

        folder = self.out / "judge"
        data = judged_views(folder / "data", min(OBJECTS, 2 * self.objects), seed=SEED)
        start = None if self.start is None else WEIGHTS if self.start == "bundled" else Path(self.start)
        judge = train_judge(folder, data, self.judge_steps, start=start, seed=self.seed, device=self._device())
        judge.save(folder / "judge.safetensors")
        print(f"Judge: {folder / 'judge.safetensors'}")
        return 0

    def _clip(self) -> int:
        from invert3d_ns.alignment.checkpoints import save_clip
        from invert3d_ns.training.clip import train_clip
        from invert3d_ns.training.recipe import DATA_SEED, VIEWS
        from invert3d_ns.world.data import world_views

        data = world_views(self.out / "data", self.objects, seed=DATA_SEED, views=VIEWS)
        towers = train_clip(self.out / "clip", data, self.clip_steps, seed=self.seed, device=self._device())
        save_clip(towers, self.out / "clip" / "clip")
        print(f"CLIP: {self.out / 'clip' / 'clip'}. Grade it with: invert3d evaluate clip --out report")
        return 0

    def _prior(self) -> int:
        from invert3d_ns.prior.storage import save_prior
        from invert3d_ns.training.recipe import Recipe

        recipe = Recipe(
            self.out,
            objects=self.objects,
            autoencoder_steps=self.autoencoder_steps,
            decoder_steps=self.decoder_steps,
            denoiser_steps=self.denoiser_steps,
            images=self.images,
            seed=self.seed,
            device=self._device(),
            compiled=self.compile,
            start=self.start,
            denoiser_lr=self.denoiser_lr,
            gates=self.gates,
        )
        prior = recipe.train(self.stage)
        if prior is None:
            return 0
        finished = self.out / "prior"
        save_prior(prior, finished)
        print(f"Prior: {finished}")
        if self.evaluate and self.stage == "all":
            from invert3d_ns.commands.evaluate import Evaluate

            return Evaluate("prior", out=self.out / "report", prior=str(finished)).run()
        return 0

    def _device(self) -> str:
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")
