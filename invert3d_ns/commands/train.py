"""``invert3d train``: make the bundled models again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from invert3d_ns.base.outputs import check_folder
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.commands.options import LARGEST_SEED, PriorName

MOST_OBJECTS = 1_000_000
"""Objects in a training set; with eight views each they take 130 GB."""


@dataclass(kw_only=True)
class TrainingOptions:
    """What every training takes."""

    out: Path = Path("outputs/prior")
    """Folder for checkpoints, the training set, sample grids and, at the end, the finished model."""
    seed: Annotated[int, at_least(0, LARGEST_SEED)] = 0
    """Of weights, batches and noise."""
    device: str | None = None
    """Where to train: cuda if there is one, else cpu."""

    def check_training(self) -> str:
        """Refuse devices and folders that no training can be made with, before it begins.

        Returns:
            The device to train on.

        Raises:
            InputError: by name.
        """
        check_folder(self.out)
        return self._choose_device()

    def _choose_device(self) -> str:
        import torch

        from invert3d_ns.base.errors import InputError

        if self.device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=self.device).cpu()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device is {self.device!r}, which this machine has not; give cpu or cuda") from error
        return self.device


@dataclass(kw_only=True)
class WorldOptions:
    """The training set that prior and CLIP share."""

    objects: Annotated[int, at_least(1, MOST_OBJECTS)] = 12288
    """Objects in the training set, eight views each (200 views a second and core are rendered)."""


@dataclass
class TrainPrior(WorldOptions, TrainingOptions):
    """Make the bundled prior: autoencoder, then denoiser and text tower."""

    stage: Literal["all", "data", "autoencoder", "decoder", "encoder", "denoiser", "export"] = "all"
    """Stop after this one. encoder is view encoder and ray reader alone. decoder and denoiser may run side by side,
    once the autoencoder is trained. export writes
    the averaged weights of the denoiser's latest checkpoint as a prior, also while that still trains."""
    start: str | None = None
    """A finished prior that the denoiser goes on from, a folder or "bundled"; its autoencoder stays."""
    autoencoder_steps: Annotated[int, at_least(1)] = 3600
    """Steps of the autoencoder (0.3 to 0.5 s each on one core)."""
    decoder_steps: Annotated[int, at_least(1)] = 1000
    """Steps of its decoder alone (0.2 to 0.4 s each on one core)."""
    assemblies: Annotated[int, at_least(0, MOST_OBJECTS)] = 8192
    """Random assemblies in the training set, besides the objects that have names."""
    changes: Annotated[int, at_least(0, MOST_OBJECTS)] = 4096
    """Pairs in the training set of an object and what words make of it, as "a blue <object>"."""
    encoder_steps: Annotated[int, at_least(0)] = 1300
    """Steps of view encoder and ray reader alone (0.9 s each on one core); 0 for a prior without a view encoder."""
    denoiser_steps: Annotated[int, at_least(1)] = 4800
    """Steps of the denoiser (0.8 s each on one core). A finished run may be resumed with more."""
    denoiser_lr: Annotated[float, above(0)] | None = None
    """Peak learning rate of the denoiser. If not given: 2e-3, and with --start 1.2e-3."""
    images: Annotated[int, at_least(1)] = 32
    """Views in a step of the denoiser."""
    evaluate: bool = True
    """Write the table of `invert3d evaluate prior` at the end."""
    gates: bool = True
    """Stop when a stage is not good enough to train the next one on."""
    compile: bool = False
    """Run networks through torch.compile: worth it on CUDA."""

    def run(self) -> int:
        """Train what is not trained yet and write the finished prior."""
        device = self.check_training()

        from invert3d_ns.prior.storage import save_prior
        from invert3d_ns.training.recipe import Recipe

        recipe = Recipe(
            self.out,
            objects=self.objects,
            autoencoder_steps=self.autoencoder_steps,
            decoder_steps=self.decoder_steps,
            denoiser_steps=self.denoiser_steps,
            encoder_steps=self.encoder_steps,
            assemblies=self.assemblies,
            changes=self.changes,
            images=self.images,
            seed=self.seed,
            device=device,
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
            from invert3d_ns.commands.evaluate import EvaluatePrior

            return EvaluatePrior(out=self.out / "report", prior=str(finished)).run()
        return 0


@dataclass
class TrainEncoder(PriorName, TrainingOptions):
    """Make a view encoder, which says an object's words in one look, for a prior that stays as it is."""

    data: tuple[Path, ...] = ()
    """Scenes to learn from: splat files or runs. Without, objects of the procedural world."""
    objects: Annotated[int, at_least(1, MOST_OBJECTS)] = 64
    """Objects of the procedural world, half of them random assemblies, where no data is given."""
    steps: Annotated[int, at_least(1)] = 2000
    """Optimizer steps, four scenes each."""

    def run(self) -> int:
        """Train it and write the prior with it, as a folder."""
        device = self.check_training()

        import torch

        from invert3d_ns.editing.sources import read_scene
        from invert3d_ns.prior.checkpoints import load_prior
        from invert3d_ns.prior.storage import save_prior
        from invert3d_ns.training.frozen_encoder import train_encoder, world_scenes

        scenes = [read_scene(path) for path in self.data] or world_scenes(self.objects)
        prior = load_prior(self.prior, device, torch.float32 if device == "cpu" else None)
        flags = {"--data": [str(path) for path in self.data], "--objects": 0 if self.data else self.objects}
        train_encoder(self.out, prior, scenes, self.steps, seed=self.seed, settings=flags)
        finished = self.out / "prior"
        save_prior(prior, finished)
        print(
            f"Prior with its view encoder: {finished}. Measure it with: invert3d evaluate inversion --prior {finished}"
        )
        return 0


@dataclass
class TrainClip(WorldOptions, TrainingOptions):
    """Make the bundled CLIP, on the prior's training set."""

    clip_steps: Annotated[int, at_least(1)] = 1000
    """Steps of CLIP."""
    crops: bool = False
    """Make the towers that stylize: they see crops, slants and soft views, made worse by a little, of other objects."""

    def run(self) -> int:
        """Train what is not trained yet and write the finished towers."""
        device = self.check_training()

        from invert3d_ns.alignment.storage import save_clip
        from invert3d_ns.training.checkpoints import refuse_other_training
        from invert3d_ns.training.clip import train_clip
        from invert3d_ns.training.recipe import CROPS_DATA_SEED, DATA_SEED, VIEWS
        from invert3d_ns.world.data import world_views

        flags = {"--seed": self.seed, "--objects": self.objects}
        folder = self.out / ("clip-crops" if self.crops else "clip")
        refuse_other_training(folder / "clip.pt", flags, steps=self.clip_steps)
        data_seed = CROPS_DATA_SEED if self.crops else DATA_SEED
        data = world_views(self.out / "data", self.objects, seed=data_seed, views=VIEWS)
        towers = train_clip(folder, data, self.clip_steps, crops=self.crops, seed=self.seed, device=device)
        finished = folder / "clip"
        save_clip(towers, finished)
        print(f"CLIP: {finished}. Grade it with: invert3d evaluate clip --out report")
        return 0


@dataclass
class TrainJudge(TrainingOptions):
    """Make the classifier that evaluations use."""

    objects: Annotated[int, at_least(1, MOST_OBJECTS)] = 12288
    """Half of the objects in the judge's own training set, and 12288 at most."""
    judge_steps: Annotated[int, at_least(1)] = 3600
    """Steps of the judge."""
    start: str | None = None
    """Finished weights to go on from, a file or "bundled"."""

    def run(self) -> int:
        """Train what is not trained yet and write the finished judge."""
        device = self.check_training()

        from invert3d_ns.base.errors import InputError
        from invert3d_ns.metrics.judge import WEIGHTS
        from invert3d_ns.training.checkpoints import refuse_other_training
        from invert3d_ns.training.judge import OBJECTS, SEED, start_digest, train_judge
        from invert3d_ns.training.judge_data import judged_views

        start = None if self.start is None else WEIGHTS if self.start == "bundled" else Path(self.start)
        if start is not None and not start.is_file():
            raise InputError(f"--start {start} is no file; give finished weights of a judge, or bundled")
        folder = self.out / "judge"
        flags = {"--seed": self.seed, "--start": start and start_digest(start), "--objects": self.objects}
        refuse_other_training(folder / "judge.pt", flags, steps=self.judge_steps)
        data = judged_views(folder / "data", min(OBJECTS, 2 * self.objects), seed=SEED)
        judge = train_judge(folder, data, self.judge_steps, start=start, seed=self.seed, device=device, settings=flags)
        judge.save(folder / "judge.safetensors")
        print(f"Judge: {folder / 'judge.safetensors'}")
        return 0


@dataclass
class TrainDemo:
    """Make the demo scene."""

    out: Path = Path("outputs/prior")
    """Folder for demo.ply."""

    def run(self) -> int:
        """Write the scene."""
        check_folder(self.out)

        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats
        from invert3d_ns.world.splats import demo_object, splats_of

        write_splats(self.out / "demo.ply", from_object_frame(splats_of(demo_object()), "y"))
        print(f"Demo scene: {self.out / 'demo.ply'}")
        return 0


TrainCommand = (
    Annotated[TrainPrior, tyro.conf.subcommand("prior", prefix_name=False)]
    | Annotated[TrainEncoder, tyro.conf.subcommand("encoder", prefix_name=False)]
    | Annotated[TrainClip, tyro.conf.subcommand("clip", prefix_name=False)]
    | Annotated[TrainJudge, tyro.conf.subcommand("judge", prefix_name=False)]
    | Annotated[TrainDemo, tyro.conf.subcommand("demo", prefix_name=False)]
)


@dataclass
class Train:
    """Make what the package ships: prior, CLIP, judge, demo scene. A training that is run again resumes."""

    command: tyro.conf.OmitArgPrefixes[TrainCommand]

    def run(self) -> int:
        """Run the chosen training."""
        return self.command.run()
