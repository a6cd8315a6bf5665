"""What pipelines of several objects in one scene share: what is shown of them, and the way through all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invert3d_ns.live.editable_scene import SplatScene
from invert3d_ns.scenes.blending import Blend, SameEverywhere, along_edges, vertex
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.latent_splats import LatentSplatModel
from invert3d_ns.scenes.run_objects import object_file


class BlendedScene(SplatScene):
    """Makes a pipeline of latent splats show blends; mixed into one.

    Attributes:
        prompts: what each object is, in words.
    """

    model: LatentSplatModel
    device: Any
    prompts: tuple[str, ...]

    def show_blend(self, blend: Blend) -> None:
        """Have everybody who watches see a blend."""
        with self.lock:
            self.model.blend = blend
        self.rerender()

    def object_at(self, index: int) -> SplatCloud:
        """One of the objects as it is now, on the pipeline's device."""
        with self.model.at(SameEverywhere.of(vertex(index, len(self.prompts)))):
            return self.model.cloud().to(self.device)

    def along(self, share: float) -> SplatCloud:
        """The object at ``share`` (0 to 1) of the way through all and back, on the pipeline's device."""
        with self.model.at(SameEverywhere.of(along_edges(share, len(self.prompts)))):
            return self.model.cloud().to(self.device)

    def write_turn(self, folder: Path) -> None:
        """A turntable that morphs."""
        from invert3d_ns.runs.turntable import write_turn

        write_turn(folder, self.object_at(0), morph=self.along)

    def write_objects(self, folder: Path) -> list[Path]:
        """Write the splats of every object, in one order; gives the files.

        Raises:
            InputError: a file cannot be written.
        """
        from invert3d_ns.scenes.ply import write_splats

        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for index, prompt in enumerate(self.prompts):
            found.append(folder / object_file(index + 1, prompt))
            write_splats(found[-1], self.object_at(index).to("cpu"), up="z")
        return found
