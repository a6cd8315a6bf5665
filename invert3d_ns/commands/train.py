"""``invert3d train``: make the bundled models again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Train:
    """Make what the package ships: prior, judge, demo scene. A training that is run again resumes."""

    what: tyro.conf.Positional[Literal["prior", "judge", "demo"]]
    """prior: autoencoder, then denoiser and text tower. judge: the classifier that evaluations use. demo: the demo
    scene."""
    out: Path = Path("outputs/prior")
    """Folder for checkpoints, the training set and, at the end, the finished model."""
    objects: int = 14336
    """Objects in the training set, four views each."""
    autoencoder_steps: int = 3600
    """Steps of the autoencoder (0.25 to 0.5 s each on one core)."""
    denoiser_steps: int = 5200
    """Steps of the denoiser (0.7 s each on one core). A finished run may be resumed with more."""
    judge_steps: int = 1500
    """Steps of the judge (0.2 s each on one core)."""
    seed: int = 0
    """Of weights, batches and noise."""
    device: str | None = None
    """Where to train: cuda if there is one, else cpu."""

    def run(self) -> int:
        """Train what is not trained yet and write the finished model."""
        from invert3d_ns.errors import InputError

        for name in ("objects", "autoencoder_steps", "denoiser_steps", "judge_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        return {"prior": self._prior, "judge": self._judge, "demo": self._demo}[self.what]()

    def _demo(self) -> int:
        from invert3d_ns.prior.training.splats import demo_object, splats_of
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats

        write_splats(self.out / "demo.ply", from_object_frame(splats_of(demo_object()), "y"))
        print(f"Demo scene: {self.out / 'demo.ply'}")
        return 0

    def _judge(self) -> int:
        from invert3d_ns.prior.training.data import world_views
        from invert3d_ns.prior.training.judge import OBJECTS, SEED, save_judge, train_judge

        data = world_views(self.out / "data", min(OBJECTS, self.objects), seed=SEED, split="any")
        judge = train_judge(self.out, data, self.judge_steps, seed=self.seed)
        save_judge(judge, self.out / "judge.safetensors")
        print(f"Judge: {self.out / 'judge.safetensors'}")
        return 0

    def _prior(self) -> int:
        import torch

        from invert3d_ns.prior.storage import save_prior
        from invert3d_ns.prior.training.recipe import train_prior

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        prior = train_prior(
            self.out, objects=self.objects, autoencoder_steps=self.autoencoder_steps,
            denoiser_steps=self.denoiser_steps, seed=self.seed, device=device,
        )  # fmt: skip
        finished = self.out / "prior"
        save_prior(prior, finished)
        print(f"Prior: {finished}. Grade it with: invert3d evaluate prior --prior {finished} --out report")
        return 0
