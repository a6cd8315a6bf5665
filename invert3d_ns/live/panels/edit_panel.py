"""A panel in nerfstudio's viewer to edit a scene with words. It reads widgets and shows states; the session does it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.editing.views import DEFAULT_STRENGTH, DEFAULT_STRUCTURE
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.panels.markdown import data_url, plain
from invert3d_ns.live.panels.region_box import RegionBox
from invert3d_ns.live.session import EditSession, SessionState
from invert3d_ns.scenes.cameras import OBJECT_RADIUS

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer

_START = (1.2, -2.2, 0.9)
"""Where a browser's camera starts, in the object frame."""
_STOP_COLOR = "red"  # of its names: a tuple, which viser 0.2 takes as well, blanks the whole page when it is shown


class EditPanel(ViewerElement[str], ViewerControl):
    """Widgets for every field of an :class:`EditForm`, a button for everything a session does, and what comes of it.

    nerfstudio finds it as an attribute of the pipeline, installs it as an element, and introduces the viewer to it as a
    control. Its widgets are viser's own: nerfstudio would hold the training's lock while it calls back.

    Args:
        session: what is asked to do things; its thread is started when there is a viewer.
    """

    def __init__(self, session: EditSession) -> None:
        super().__init__("Edit with words")
        self.session = session
        self.region = RegionBox()
        self._showing = threading.Lock()
        self._pictures: tuple[np.ndarray | None, str] = (None, "")
        self._installed = False

    def install(self, viser_server: ViserServer) -> None:
        """Give the panel a tab of its own beside nerfstudio's."""
        self._create_gui_handle(viser_server)

    def _setup(self, viewer: Viewer) -> None:
        """Let the session know who else uses the scene, and begin to serve. nerfstudio calls this."""
        super()._setup(viewer)
        scene = self.session.scene
        scene.lock = viewer.train_lock or contextlib.nullcontext()
        scene.rerender = self._rerender
        scene.folder = Path(viewer.log_filename).parent
        trainer = viewer.trainer
        if trainer is not None:
            self.session.training = lambda: trainer.training_state
        self.session.start()
        viewer.viser_server.on_client_connect(_look_at_the_object)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        gui = viser_server.gui
        with _own_tab(gui):
            self.words = gui.add_text("Words", "", hint='"in van gogh style", or "blue instead of red"')
            self.source = gui.add_text("From", "", hint='What the object is now, such as "red"; may stay empty')
            self.target = gui.add_text("To", "", hint='What it shall be, such as "blue"; may stay empty')
            self.noun = gui.add_text(
                "It is", "", hint='What the object is now, "red car with black wheels": the more, the less else changes'
            )
            self.amount = gui.add_slider("Amount", -5.0, 5.0, 0.1, 1.0, hint="How far to go; below 0, the other way")
            with gui.add_folder("More", expand_by_default=False):
                self.weights = gui.add_text("Weights", "", hint='How much words count: "van gogh=2, style=0.5"')
                self.negative_prompt = gui.add_text("Avoid", "", hint="Words to keep away from")
                self.guidance_scale = gui.add_number(
                    "Guidance", 0.0, min=0.0, max=50.0, step=0.5, hint="1 to 50: how closely to follow; 0: as usual"
                )
                self.strength = gui.add_slider(
                    "Strength", 0.05, 1.0, 0.05, DEFAULT_STRENGTH[DEFAULT_STRUCTURE], hint="Less keeps more"
                )
                self.seed = gui.add_number("Seed", 0, min=0, step=1, hint="Another seed, another picture")
                self.change = gui.add_dropdown(
                    "Change", ("colors", "geometry"), "colors", hint="Whether shapes may change too"
                )
            with gui.add_folder("Region", expand_by_default=False):
                self.region.install(viser_server)
            self._button(gui, "Preview", lambda: self.session.preview(self.form()), hint="Views, within seconds")
            self._button(gui, "Apply", lambda: self.session.apply(self.form()), hint="Let the splats follow the words")
            self.stop = self._button(gui, "Stop", self.session.stop, visible=False, color=_STOP_COLOR)
            self.progress = gui.add_progress_bar(0.0, visible=False, animated=True)
            # The root only silences viser's warning about relative paths: pictures are data URLs.
            self.status = gui.add_markdown("", image_root=Path())
            # Four in a row would be cut off.
            self._button_row(gui, "Versions", Undo=self.session.undo, Redo=self.session.redo)
            self._button_row(gui, "Scene", Compare=self.session.compare, Save=self.session.save)
            self.picture = gui.add_markdown("", image_root=Path())
        for widget in (self.words, self.source, self.target):
            widget.on_update(lambda event: self.session.warm_up())
        self._installed = True
        self.session.subscribe(self.show)
        self.show()

    def _button(self, gui: Any, label: str, action: Callable[[], None], **options: Any) -> Any:
        button = gui.add_button(label, **options)
        button.on_click(lambda event: action())
        return button

    def _button_row(self, gui: Any, label: str, **actions: Callable[[], None]) -> None:
        row = gui.add_button_group(label, tuple(actions))

        def clicked(event: Any) -> None:
            # Setting the value calls back too, without a client.
            if event.client is not None:
                action = actions[row.value]
                row.value = ""
                action()

        # viser 0.2 tells of changes of value only, and a row's value is its first button: without another value in
        # between, a click on that button, and the second of two clicks on the same one, would be lost.
        row.value = ""
        row.on_click(clicked)

    def form(self) -> EditForm:
        """The form as it is filled in."""
        return EditForm(
            words=self.words.value,
            source=self.source.value,
            target=self.target.value,
            noun=self.noun.value,
            amount=self.amount.value,
            weights=self.weights.value,
            negative_prompt=self.negative_prompt.value,
            guidance_scale=self.guidance_scale.value,
            strength=self.strength.value,
            seed=int(self.seed.value),
            change=self.change.value,
            box=self.region.value,
        )

    def show(self) -> None:
        """Show the session's state. Safe to call from any thread."""
        if not self._installed:
            return
        shown, picture = self._pictures
        latest = self.session.state.picture
        if latest is not shown and latest is not None:
            picture = data_url(latest)
        with self._showing:
            state = self.session.state
            _set(self.status, "content", status_text(state))
            busy = bool(state.task)
            _set(self.progress, "visible", busy)
            if busy:
                _set(self.progress, "value", 100 * min(max(state.progress, 0.0), 1.0))
            _set(self.stop, "visible", busy or state.waiting > 0)
            if state.picture is latest:
                self._pictures = (latest, picture)
                _set(self.picture, "content", picture_text(picture, state.caption))

    def _rerender(self) -> None:
        from nerfstudio.viewer.render_state_machine import RenderAction

        viewer = self.viewer
        if not viewer.ready:
            return
        for client_id, client in viewer.viser_server.get_clients().items():
            # Like the viewer's own _trigger_rerender, but a browser that comes or goes at this moment stops nothing.
            with contextlib.suppress(KeyError, AssertionError, AttributeError):
                machine = viewer.render_statemachines[client_id]
                machine.action(RenderAction("move", viewer.get_camera_state(client)))


def _look_at_the_object(client: Any) -> None:
    """Start a browser where orbit cameras are; viser's own start is inside objects of this package's size."""
    from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

    if np.linalg.norm(client.camera.position) > VISER_NERFSTUDIO_SCALE_RATIO * OBJECT_RADIUS:
        return  # a browser that lost its connection and comes back
    # viser keeps the way from the camera to what it looks at, so the position comes first.
    client.camera.position = tuple(VISER_NERFSTUDIO_SCALE_RATIO * value for value in _START)
    client.camera.look_at = (0.0, 0.0, 0.0)


def _own_tab(gui: Any) -> Any:
    """A tab beside nerfstudio's, or a folder where there are none. In the control tab one had to scroll for it."""
    from viser import GuiTabHandle, Icon

    # nerfstudio 1.1.5 keeps no handle of its tabs, and viser 0.2, to which it is pinned, has no public way to them.
    for container in getattr(gui, "_container_handle_from_id", {}).values():
        if isinstance(container, GuiTabHandle):
            return container._parent.add_tab("Edit", Icon.PENCIL)
    return gui.add_folder("Edit with words")


def status_text(state: SessionState) -> str:
    """The state as Markdown: what happens or happened, what went wrong, and the edits so far."""
    now = f"{state.task} ... {100 * state.progress:.0f} %" if state.task else state.message
    lines = [f"**»** {plain(now)}"]
    if state.error:
        lines.append(f'<span style={{{{color: "#ff6b6b"}}}}>**Error:** {plain(state.error)}</span>')
    if state.waiting:
        lines.append(f"**Waiting:** {state.waiting}")
    if state.edits:
        lines.append("**Edits:** " + "; ".join(plain(label) for label in state.edits))
    if state.comparing:
        lines.append("**Shown:** before all edits")
    return "\n\n".join(lines)


def picture_text(url: str, caption: str) -> str:
    """A picture as wide as the panel, with what it shows below; empty without a picture."""
    if not url:
        return ""
    return f'<img src="{url}" style={{{{width: "100%", borderRadius: "4px"}}}} />\n\n*{plain(caption)}*'


def _set(handle: Any, name: str, value: Any) -> None:
    if getattr(handle, name) != value:
        setattr(handle, name, value)
