"""``invert3d turntable``: a video that goes round a run's splats, or those of a file, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.turntable import Turntable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from invert3d_ns.scenes.cloud import SplatCloud


@dataclass
class MakeTurntable(Turntable):
    """Write a video of a level turn around the splats of a run, or of a file, in which all of the object is seen."""

    source: tyro.conf.Positional[Path]
    """What goes round: the splats of a run (its folder or config.yml) or of a splat file, a mesh, or a folder with
    nothing but one."""
    out: Path | None = None
    """The video (.mp4, .webm, .gif), or a folder for PNG files if the name has no ending. Default: turntable.mp4 in the
    run's folder; of a splat file, <its name>_turntable.mp4 in the current folder."""
    up: Literal["auto"] | UpAxis = "auto"
    """Which axis of a splat file points up. Left at auto, it is what the file says, or else y."""

    blend: tuple[float, ...] | None = None
    """Of a run that holds several objects (a3d): how much of each goes round, from 0 to 1, of sum 1."""
    anchors: Path | None = None
    """Of such a run: a file (JSON) of places and the objects that they are of; the hybrid goes round."""
    morph: bool = False
    """Of such a run: on its way each object becomes the next, and the last the first."""

    def run(self) -> int:
        """Draw the frames, write them, and say where they are."""
        check_numbers(self)

        from invert3d_ns.base.pictures import check_video_name, write_frames
        from invert3d_ns.compat import device_type
        from invert3d_ns.editing.sources import run_folder
        from invert3d_ns.scenes.assets import scene_name
        from invert3d_ns.scenes.runs import is_run

        out = self.out
        if out is None:
            of_run = is_run(self.source)
            name = "turntable.mp4" if of_run else f"{scene_name(self.source)}_turntable.mp4"
            out = run_folder(self.source) / name if of_run else Path(name)
        check_video_name(out)
        shown, cloud = self._scene(device_type())
        poses = self.poses(cloud)
        with progress_bar() as show:

            def frames() -> Iterator[UInt8[np.ndarray, "S S 3"]]:
                for index, frame in enumerate(self.frames(shown, poses)):
                    show("drawing", index, len(poses))
                    yield frame

            write_frames(out, frames(), fps=self.fps)
        print(f"{len(poses)} frames, {len(poses) / self.fps:.3g} s: {out}")
        return 0

    def _scene(self, device: str) -> tuple[SplatCloud | Callable[[float], SplatCloud], SplatCloud]:
        """What goes round, and what decides where it is seen from."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.editing.sources import read_scene
        from invert3d_ns.scenes.aligned_splats import mix_splats
        from invert3d_ns.scenes.blending import SameEverywhere, along_edges
        from invert3d_ns.scenes.run_objects import BlendChoice, read_aligned_run

        choice = BlendChoice(self.blend, self.anchors)
        if not self.morph:
            cloud = choice.read(self.source) if choice else read_scene(self.source, self.up)
            return cloud.to(device), cloud.to(device)
        if choice:
            raise InputError("--morph goes through all objects; leave --blend and --anchors out")
        objects = [cloud.to(device) for cloud in read_aligned_run(self.source)[0]]
        return lambda share: mix_splats(objects, SameEverywhere.of(along_edges(share, len(objects)))), objects[0]
