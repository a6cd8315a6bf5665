"""A pipeline whose training is a list of phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.runs.phase import Phase
from invert3d_ns.scenes.assets import scene_name
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig
from invert3d_ns.scenes.splats import ObjectSplatModel, ObjectSplatModelConfig


class RunObserver:
    """Someone who watches a run, such as a panel of the viewer; every method may be left as it is."""

    def show_status(self, title: str, detail: str = "", lines: Sequence[str] = ()) -> None:
        """Show what is being done, how far it is, and lines of figures; plain text."""

    def show_picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Show a picture in place of the one before."""

    def serve(self) -> None:
        """Do, between two steps, what people asked for meanwhile."""

    def rerender(self) -> None:
        """Draw the scene again: it has changed."""

    def finished(self) -> None:
        """Take note that the run is: its scene and words are what they stay."""


@dataclass
class PhasedPipelineConfig(VanillaPipelineConfig):
    """What every method of this package has: a scene of splats or images, and a model of splats."""

    _target: type = field(default_factory=lambda: PhasedPipeline)
    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)  # type: ignore[assignment]
    """Where images and cameras come from."""
    model: ObjectSplatModelConfig = field(default_factory=ObjectSplatModelConfig)
    """The Gaussian splats."""

    def scene_name(self, prompt: str | None) -> str:
        """What runs are called, in a folder's name: the scene's file or folder, or the demo."""
        data = self.datamanager.data
        return scene_name(None if data is None else Path(data))

    def scene_in_words(self) -> str:
        """What a run says of its scene when it starts."""
        data = self.datamanager.data
        return "the bundled demo" if data is None else str(data)

    def summary(self) -> Sequence[tuple[str, str]]:
        """What a run says of these settings when it starts: name and text of each line."""
        return ()

    def find_own_files(self, folder: Path) -> None:
        """Let settings that name a file of the run itself, in place, find it where the run's folder is now."""

    def make_names_absolute(self) -> None:
        """Make settings absolute, in place, that may be names or paths; those that are paths in any case are so."""


class PhasedPipeline(VanillaPipeline):
    """A scene and the phases of its training. Methods subclass it and give :meth:`prepare`.

    Attributes:
        phases: of the run, in order; from :meth:`prepare` on.
        current: the phase that nerfstudio's iterations are about.
        observers: whoever watches.
        output_folder: where the run's files are, once it is known.
    """

    config: PhasedPipelineConfig
    model: ObjectSplatModel

    def __init__(self, config: PhasedPipelineConfig, device: str, **kwargs: Any) -> None:
        if kwargs.get("world_size", 1) > 1:
            raise InputError("this method runs on one device; leave --machine.num-devices at 1")
        super().__init__(config, device, **kwargs)
        self.phases: list[Phase] = []
        self.current: Phase | None = None
        self.current_first = 0
        self.observers: list[RunObserver] = []
        self.output_folder: Path | None = None

    def prepare(self, seed: int, saved: dict[str, Any] | None = None) -> list[Phase]:
        """Load what the run needs, check its settings, and make its phases: mistakes show before long work.

        Args:
            seed: of every random draw.
            saved: the pipeline's state in the checkpoint that the run goes on from.

        Raises:
            InputError: settings that cannot be carried out.
        """
        raise NotImplementedError("a method's pipeline makes its phases here")

    def starts_from_splats(self) -> bool:
        """Whether the scene came as splats, so that none are fitted."""
        outputs = getattr(self.datamanager, "train_dataparser_outputs", None)
        return outputs is not None and outputs.metadata.get("splats") is not None

    def enter(self, phase: Phase, first: int) -> None:
        """Make ``phase``, whose first step is ``first`` of the run, what nerfstudio's iterations are about."""
        self.current, self.current_first = phase, first

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Loss terms and metrics of one step of the current phase; ``step`` counts over the whole run."""
        if self.current is None:
            return self.fit_losses(step)
        losses, metrics = self.current.losses(step - self.current_first)
        return {}, losses, metrics

    def write_turn(self, folder: Path) -> None:
        """Write the camera path and the video of a turn around the finished scene into the run's folder."""
        from invert3d_ns.runs.turntable import write_turn

        write_turn(folder, self.model.cloud().to(self.device))

    def fit_losses(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Nerfstudio's own losses: the model against the next training image."""
        return super().get_train_loss_dict(step)
