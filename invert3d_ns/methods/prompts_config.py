"""Settings of runs that take several prompts."""

from __future__ import annotations

from dataclasses import dataclass

from invert3d_ns.runs.trainer import PhasedTrainerConfig


@dataclass
class PromptsTrainerConfig(PhasedTrainerConfig):
    """Settings of a run that takes several prompts, which its pipeline's settings have, too."""

    prompts: tuple[str, ...] | None = None
    """Several prompts."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        # A run's folder is named after its prompts before there is a pipeline.
        if name in ("prompts", "pipeline") and self.__dict__.get("prompts") and "pipeline" in self.__dict__:
            self.pipeline.prompts = tuple(self.prompts or ())  # type: ignore[attr-defined]
