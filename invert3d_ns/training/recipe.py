"""Train the bundled prior, from rendering the training set to the finished model. Every stage resumes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich import print as show

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.prior.info import fingerprint
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.training.autoencoder import (
    finish_decoder,
    load_finished_decoder,
    reconstruction_psnr,
    train_autoencoder,
)
from invert3d_ns.training.checkpoints import refuse_other_training
from invert3d_ns.training.denoiser import (
    PEAK,
    WARM_PEAK,
    assemble_from_prior,
    assemble_prior,
    load_checkpoint,
    train_denoiser,
)
from invert3d_ns.training.loop import initial_weights
from invert3d_ns.training.reading import build_view_encoder, train_reading
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.world.data import Kind, WorldViews, world_views

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from invert3d_ns.prior.multiview import MultiViewPrior

DATA_SEED = 1
"""Seed of the training set; evaluations and the judge use others."""
CROPS_DATA_SEED = 11
"""Of the objects that the towers which stylize learn from, so that those which score saw others."""
HELD_OUT_SEED = 77
"""Seed of the held-out objects that stages are checked on."""
VIEWS = 8
"""Views of each object in the training set."""
AUTOENCODER_GATE = 24.0
"""Foreground PSNR in dB, on held-out objects, below which no denoiser is trained on an autoencoder."""
SAMPLES = (
    "a red chair",
    "a blue striped mug with white stripes",
    "a green house with a yellow roof",
    "a pencil sketch of a car",
    "a purple airplane in van gogh style",
    "a neon sign of an orange tree",
)
"""Prompts of the sample grids that are drawn while the denoiser trains."""

StageName = Literal["all", "data", "autoencoder", "decoder", "encoder", "denoiser", "export"]


@dataclass
class Recipe:
    """The settings of a training of the prior, and its stages."""

    folder: Path
    """For the training set and the checkpoints; a second call goes on where the first stopped."""
    objects: int
    """Size of the training set of objects that have names."""
    autoencoder_steps: int
    decoder_steps: int
    """More steps for the decoder alone, after the encoder is frozen."""
    denoiser_steps: int
    encoder_steps: int = 0
    """Steps of view encoder and ray reader alone, before the denoiser listens to them; without any there is no view
    encoder."""
    assemblies: int = 0
    """Size of the training set of random assemblies."""
    changes: int = 0
    """Size of the training set of objects that words change, and what they become."""
    images: int = 32
    """Views in a step of the denoiser."""
    seed: int = 0
    """Of weights, batches and noise."""
    device: str = "cpu"
    compiled: bool = False
    """Run networks through torch.compile."""
    start: str | None = None
    """A finished prior whose networks the denoiser goes on from: a folder, or "bundled". Its autoencoder stays."""
    denoiser_lr: float | None = None
    """Peak learning rate of the denoiser, when not the recipe's own."""
    gates: bool = True
    """Stop when a stage is not good enough to train the next one on."""

    def data(self) -> WorldViews:
        """Read the training set; the first call renders it."""
        return world_views(self.folder / "data", self.objects, seed=DATA_SEED, views=VIEWS, photos=True)

    def sets(self) -> TrainingSets:
        """Read all training sets, those of random assemblies and of changes if there are any, too."""
        counts: dict[Kind, int] = {"assemblies": self.assemblies, "changes": self.changes}
        others = {
            kind: world_views(self.folder / "data", count, seed=DATA_SEED, views=VIEWS, kind=kind, photos=True)
            for kind, count in counts.items()
            if count
        }
        return TrainingSets(self.data(), **others)

    def train(self, stage: StageName = "all") -> MultiViewPrior | None:
        """Train what is not trained yet, up to the stage of that name.

        "decoder" and "denoiser" may run at the same time, in two processes, and "export" beside either.

        Returns:
            The finished prior after "all" and "denoiser"; after "export" one with the averaged weights of the
            denoiser's latest checkpoint.

        Raises:
            InputError: a stage fell short of its gate, was asked for what there is not, or began with other settings.
        """
        if self.start is not None and stage in ("autoencoder", "decoder"):
            raise InputError(f"--stage {stage} trains an autoencoder, but --start keeps that of the prior; drop either")
        start = None if self.start is None else load_prior(self.start, "cpu", torch.float32)
        self._refuse_other_settings(stage, start)
        if stage == "data":
            self.sets()
            return None
        flags = self._flags(start)
        if start is not None:
            sets = self.sets()
            with initial_weights(self.seed):
                prior = assemble_from_prior(str(self.start), start, sets, self._settings())
            return self._denoise(prior, sets, stage, flags)
        data = self.data()
        vae = train_autoencoder(
            self.folder,
            data,
            self.autoencoder_steps,
            seed=self.seed,
            device=self.device,
            compiled=self.compiled,
            settings=flags["autoencoder"],
        )
        foreground = self._grade("autoencoder", vae)[1]
        if self.gates and foreground < AUTOENCODER_GATE:
            raise InputError(
                f"the autoencoder reached {foreground:.1f} dB on the pixels of held-out objects, its gate is "
                f"{AUTOENCODER_GATE} dB; train it longer (--autoencoder-steps) or pass --no-gates"
            )
        if stage == "autoencoder":
            return None
        if stage in ("all", "decoder"):
            finish_decoder(
                self.folder,
                vae,
                data,
                self.decoder_steps,
                seed=self.seed,
                device=self.device,
                compiled=self.compiled,
                settings=flags["decoder"],
            )
        if stage == "decoder":
            self._grade("finished decoder", vae)
            return None
        made = {"autoencoder_steps": self.autoencoder_steps, "decoder_steps": self.decoder_steps}
        sets = self.sets()
        with initial_weights(self.seed):
            prior = assemble_prior(self.folder, vae, sets, self._settings() | made)
        finished = self._denoise(prior, sets, stage, flags)
        if finished is not None:
            load_finished_decoder(self.folder, finished.vae)
        return finished

    @property
    def peak(self) -> float:
        """Peak learning rate of the denoiser."""
        return self.denoiser_lr or (PEAK if self.start is None else WARM_PEAK)

    def _flags(self, start: MultiViewPrior | None) -> dict[str, dict[str, Any]]:
        """For each stage, the flags that a training which is resumed must share; of a start only the content counts."""
        common = {"--seed": self.seed, "--objects": self.objects}
        usual = PEAK if start is None else WARM_PEAK
        steps = {"--autoencoder-steps": self.autoencoder_steps if start is None else None}
        unnamed = {"--assemblies": self.assemblies, "--changes": self.changes}
        content = start and f"{start.info.fingerprint[:8]} (autoencoder {fingerprint([start.vae])[:8]})"
        return {
            "autoencoder": common,
            "decoder": common | steps,
            "encoder": common | {"--start": content} | unnamed | steps,
            "denoiser": common
            | steps
            | {
                "--start": content,
                **unnamed,
                "--encoder-steps": self.encoder_steps,
                "--images": self.images,
                "--denoiser-lr": None if self.peak == usual else self.peak,
            },
        }

    def _refuse_other_settings(self, stage: StageName, start: MultiViewPrior | None) -> None:
        """Compare every stage that has begun, before any work.

        What is not trained now may have other settings of its own, but not another autoencoder under it.
        """
        trained: dict[StageName, tuple[str, ...]] = {
            "all": ("autoencoder", "decoder", "encoder", "denoiser"),
            "data": (),
            "autoencoder": ("autoencoder",),
            "decoder": ("autoencoder", "decoder"),
            "encoder": ("autoencoder", "encoder"),
            "denoiser": ("autoencoder", "encoder", "denoiser"),
            "export": ("autoencoder", "encoder", "denoiser"),
        }
        if stage == "data":
            return
        shared = {"--seed", "--objects", "--autoencoder-steps", "--assemblies", "--changes"}
        for name, flags in self._flags(start).items():
            now, steps = flags, getattr(self, f"{name}_steps")
            if name not in trained[stage]:
                now, steps = {flag: value for flag, value in flags.items() if flag in shared}, None
            if start is None or name in ("encoder", "denoiser"):
                path = self.folder / f"{name}.pt"
                refuse_other_training(path, now, steps=None if stage == "export" else steps)

    def _settings(self) -> dict[str, Any]:
        # A folder's name says nothing to others; ``started_from`` says which prior it was.
        start = {None: "", "bundled": " --start bundled"}.get(self.start, " --start PRIOR")
        return {
            "steps": self.denoiser_steps,
            "images": self.images,
            "lr": self.peak,
            "objects": self.objects,
            "assemblies": self.assemblies,
            "changes": self.changes,
            "encoder_steps": self.encoder_steps,
            "views": VIEWS,
            "seed": self.seed,
            "data_seed": DATA_SEED,
            "command": f"invert3d train prior{start}",
        }

    def _denoise(
        self, prior: MultiViewPrior, sets: TrainingSets, stage: StageName, flags: dict[str, dict[str, Any]]
    ) -> MultiViewPrior | None:
        if self.encoder_steps and prior.view_encoder is None:
            with initial_weights(self.seed):
                prior.view_encoder = build_view_encoder(prior)
        prior = prior.to(self.device)
        if self.encoder_steps and stage != "export":
            train_reading(
                self.folder,
                prior,
                sets,
                self.encoder_steps,
                seed=self.seed,
                settings=flags["encoder"],
            )
        if stage == "encoder":
            return None
        psnr = self._grade("autoencoder that the denoiser is shown with", prior.vae)
        training = prior.info.training | {"psnr": round(psnr[0], 2), "psnr_foreground": round(psnr[1], 2)}
        if stage == "export":
            training["steps"] = load_checkpoint(self.folder, prior)
        else:
            train_denoiser(
                self.folder,
                prior,
                sets,
                self.denoiser_steps,
                images=self.images,
                lr=self.peak,
                seed=self.seed,
                compiled=self.compiled,
                settings=flags["denoiser"],
                sample=lambda done: sample_grid(prior, self.folder / "samples" / f"{done:06d}.png"),
            )
        prior.info = replace(prior.info, fingerprint=prior.fingerprint(), training=training)
        if prior.view_encoder is not None:
            prior.view_encoder.register_to_config(prior=prior.info.fingerprint)
        return prior

    def _grade(self, what: str, vae: AutoencoderKL) -> tuple[float, float]:
        held_out = world_views(
            self.folder / "data", min(64, self.objects), seed=HELD_OUT_SEED, split="held-out", views=4
        )
        images, masks = held_out.images(slice(None)).flatten(0, 1), held_out.masks(slice(None)).flatten(0, 1)
        whole, foreground = reconstruction_psnr(vae, images.to(self.device), masks.to(self.device))
        show(f"{what}, held-out objects: {whole:.1f} dB, {foreground:.1f} dB on their pixels")
        return whole, foreground


def sample_grid(prior: MultiViewPrior, path: Path, steps: int = 20) -> None:
    """Write four views of each of :data:`SAMPLES`, sampled in ``steps`` steps."""
    from invert3d_ns.base.pictures import write_grid

    azimuths = torch.arange(4) * 90.0 + 30.0
    cameras = camera_condition(azimuths, torch.tensor(15.0)).expand(len(SAMPLES), -1, -1)
    views = prior.sample(SAMPLES, cameras, steps=steps, seed=0).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_grid(path, views.flatten(0, 1), columns=8, least=96)
