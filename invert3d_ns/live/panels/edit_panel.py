"""A panel in nerfstudio's viewer to edit a scene with words. It reads widgets and shows states; actions do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.editing.views import DEFAULT_STRENGTH, DEFAULT_STRUCTURE
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.host import EditHost
from invert3d_ns.live.panels.region_box import RegionBox
from invert3d_ns.live.panels.viewer_link import connect_viewer
from invert3d_ns.live.panels.widgets import StateView, add_button_row, add_tab

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer

    from invert3d_ns.live.queue import Action


class EditPanel(ViewerElement[str], ViewerControl):
    """Widgets for every field of an :class:`EditForm`, a button for each of the actions, and what comes of them.

    nerfstudio finds it as an attribute of the pipeline, installs it as an element, and introduces the viewer to it as a
    control. Its widgets are viser's own: nerfstudio would hold the training's lock while it calls back. A host that is
    no :class:`EditHost`, having no words for instance, gets no such panel.

    Args:
        actions: what is done; their queue's thread is started when there is a viewer.
    """

    def __init__(self, actions: EditActions) -> None:
        super().__init__("Edit with words")
        self.actions, self.queue = actions, actions.queue
        self.region = RegionBox()
        self._state = StateView(self.queue, "Say what shall change, then press Preview.", self._notes)

    def install(self, viser_server: ViserServer) -> None:
        """Give the panel a tab of its own beside nerfstudio's, if the host has what it needs."""
        if isinstance(self.actions.host, EditHost):
            self._create_gui_handle(viser_server)

    def _setup(self, viewer: Viewer) -> None:
        """Join host, queue and viewer. nerfstudio calls this."""
        super()._setup(viewer)
        connect_viewer(viewer, self.actions.host, self.queue)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        gui, queue, versions = viser_server.gui, self.queue, self.actions.versions
        with add_tab(gui, "Edit", self.name):
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
            preview = gui.add_button("Preview", hint="Views, within seconds")
            preview.on_click(lambda event: queue.ask(self._preview))
            apply = gui.add_button("Apply", hint="Let the splats follow the words")
            apply.on_click(lambda event: queue.ask(self._apply))
            self._state.install_status(gui)
            add_button_row(
                gui,
                "Versions",
                Undo=lambda: queue.ask(versions.undo),
                Redo=lambda: queue.ask(versions.redo),
            )
            add_button_row(
                gui,
                "Scene",
                Compare=lambda: queue.ask(versions.compare),
                Save=lambda: queue.ask(self.actions.save),
            )
            self._state.install_picture(gui)
        for widget in (self.words, self.source, self.target):
            widget.on_update(lambda event: self.actions.request_warm_up())

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

    def _preview(self) -> Action:
        return self.actions.preview_edit(self.form().edit())

    def _apply(self) -> Action:
        return self.actions.apply_edit(self.form().edit())

    def _notes(self) -> dict[str, str]:
        versions, notes = self.actions.versions, {}
        if versions.labels:
            notes["Edits"] = "; ".join(versions.labels)
        if versions.comparing:
            notes["Shown"] = "before all edits"
        return notes
