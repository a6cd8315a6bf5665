"""What every run leaves of how its scene looks: a camera path for ``ns-render``, and a small video if that is quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from invert3d_ns.base.errors import InputError
from invert3d_ns.runs.report import print_lines
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.turntable import CAMERA_PATH, Turntable

VIDEO = "turntable.mp4"
"""What the video is called in a run's folder."""
VIDEO_SIZE = 256
"""Height and width of the video in pixels."""
MOST_SPLATS = 25_000
"""On a CPU no video is drawn of more splats than this: that would take more than three seconds."""


def write_turn(
    folder: Path, cloud: SplatCloud, *, aloud: bool = True, morph: Callable[[float], SplatCloud] | None = None
) -> None:
    """Write ``camera_path.json`` and, where it takes a moment, ``turntable.mp4`` of a scene.

    Where the scene shows more than an object, both are of the object.

    A scene that has no turntable, or a video that cannot be written, is one line: the run is finished in any case.

    Args:
        folder: the run's.
        cloud: the scene in the object frame, on the device that draws.
        aloud: say where they are.
        morph: the scene at a share, 0 to 1, of the path, where it changes on the way; there are two turns then.

    Raises:
        InputError: the camera path cannot be written.
    """
    from invert3d_ns.base.pictures import write_frames
    from invert3d_ns.scenes.assets import object_splats

    keep = object_splats(cloud)
    shown = cloud if keep is None else cloud.select(keep)
    turn = Turntable() if morph is None else Turntable(seconds=2 * Turntable.seconds, turns=2)
    try:
        poses = turn.poses(shown)
    except InputError as error:
        if aloud:
            _say_what_is_missing("turntable", error)
        return
    path, lines = folder / CAMERA_PATH, []
    turn.write_camera_path(path, poses, crop=keep is not None, timed=morph is not None)
    if cloud.device.type == "cuda" or len(cloud) <= MOST_SPLATS:
        video = folder / VIDEO
        try:
            frames = Turntable(size=VIDEO_SIZE).frames(morph or shown, poses)
            write_frames(video, frames, fps=turn.fps)
            lines = [f"  turntable  {escape(str(video))}"]
        except (InputError, RuntimeError) as error:  # no ffmpeg, or no memory
            if aloud:
                _say_what_is_missing("video of the turntable", error)
    if aloud:
        print_lines(*lines, f"  cameras    {escape(str(path))}   (that turn, for ns-render camera-path)")


def _say_what_is_missing(what: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    print_lines(f"[yellow]There is no {what}: {escape(reason)}[/yellow]")
