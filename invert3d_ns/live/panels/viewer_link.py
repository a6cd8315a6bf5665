"""What joins a host, its queue and nerfstudio's viewer, whatever the panels are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.runs import CHECKPOINTS, list_checkpoints

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

    from invert3d_ns.live.host import Host
    from invert3d_ns.live.queue import ActionQueue

_START = (1.2, -2.2, 0.9)
"""Where a browser's camera starts, in the object frame."""


def connect_viewer(viewer: Viewer, host: Host, queue: ActionQueue) -> None:
    """Let a host know who shows its scene and a queue who trains it, and begin to run actions. May be called again."""
    host.lock = viewer.train_lock or contextlib.nullcontext()
    host.rerender = lambda: rerender_browsers(viewer)
    if host.output_folder is None:
        host.output_folder = Path(viewer.log_filename).parent
    trainer = viewer.trainer
    if trainer is not None:
        queue.training = lambda: trainer.training_state
        queue.ending = getattr(trainer, "should_stop", queue.ending)  # of this package's trainer
    else:
        _show_a_finished_run(viewer)
    queue.start()
    viewer.viser_server.on_client_connect(look_at_the_object)


def finish_training(viewer: Viewer | None) -> None:
    """Ask the training, if there is one, to stop after its next step: what it came to is saved, and it can go on."""
    if viewer is not None and viewer.trainer is not None:
        viewer.trainer.stop_training = True


def _show_a_finished_run(viewer: Viewer) -> None:
    """Take away the button that pauses a training, and say how many steps the run took: nerfstudio shows 0."""
    viewer.pause_train.visible = viewer.resume_train.visible = False
    steps = list_checkpoints(Path(viewer.log_filename).parent / CHECKPOINTS)
    if steps:
        viewer.update_step(max(steps) + 1)


def rerender_browsers(viewer: Viewer) -> None:
    """Draw the scene again in every browser."""
    from nerfstudio.viewer.render_state_machine import RenderAction

    if not viewer.ready:
        return
    for client_id, client in viewer.viser_server.get_clients().items():
        # Like the viewer's own _trigger_rerender, but a browser that comes or goes at this moment stops nothing.
        with contextlib.suppress(KeyError, AssertionError, AttributeError):
            machine = viewer.render_statemachines[client_id]
            machine.action(RenderAction("move", viewer.get_camera_state(client)))


def look_at_the_object(client: Any) -> None:
    """Start a browser where orbit cameras are; viser's own start is inside objects of this package's size."""
    from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

    if np.linalg.norm(client.camera.position) > VISER_NERFSTUDIO_SCALE_RATIO * OBJECT_RADIUS:
        return  # a browser that lost its connection and comes back
    # viser keeps the way from the camera to what it looks at, so the position comes first.
    client.camera.position = tuple(VISER_NERFSTUDIO_SCALE_RATIO * value for value in _START)
    client.camera.look_at = (0.0, 0.0, 0.0)
