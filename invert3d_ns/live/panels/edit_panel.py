"""A panel in nerfstudio's viewer to edit a scene with words: a form for each browser, one scene for all."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.host import EditHost
from invert3d_ns.live.leaving import keep_when_the_program_ends
from invert3d_ns.live.panels.client_panel import ClientPanel
from invert3d_ns.live.panels.viewer_link import connect_viewer
from invert3d_ns.live.panels.widgets import add_tab

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer


class EditPanel(ViewerElement[str], ViewerControl):
    """Gives every browser a :class:`~invert3d_ns.live.panels.client_panel.ClientPanel` in a tab beside nerfstudio's.

    nerfstudio finds it as an attribute of the pipeline, installs it as an element, and introduces the viewer to it as a
    control. Its widgets are viser's own: nerfstudio would hold the training's lock while it calls back. A host that is
    no :class:`EditHost`, having no words for instance, gets no such panel.

    A browser that comes finds the form as the last one that went has left it: so a page that is loaded anew keeps it.

    Args:
        actions: what is done; their queue's thread is started when there is a viewer.

    Attributes:
        clients: the panels of the browsers that watch, by viser's number of the browser.
    """

    def __init__(self, actions: EditActions) -> None:
        super().__init__("Edit with words")
        self.actions, self.queue = actions, actions.queue
        self.clients: dict[int, ClientPanel] = {}
        self._gone: ClientPanel | None = None

    def install(self, viser_server: ViserServer) -> None:
        """Make the tab, and fill it for every browser that comes, if the host has what it needs."""
        if isinstance(self.actions.host, EditHost):
            self._create_gui_handle(viser_server)

    def _setup(self, viewer: Viewer) -> None:
        """Join host, queue and viewer. nerfstudio calls this."""
        super()._setup(viewer)
        connect_viewer(viewer, self.actions.host, self.queue)
        keep_when_the_program_ends(self.actions)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        tab = add_tab(viser_server.gui, "Edit", self.name)

        def come(client: Any) -> None:
            before, self._gone = self._gone, None
            try:
                self.clients[client.client_id] = ClientPanel(client, tab, self.actions, before)
            except Exception:  # what else the browser gets, such as its camera, comes after this
                traceback.print_exc()
            self.actions.request_runs()

        def go(client: Any) -> None:
            panel = self.clients.pop(client.client_id, None)
            if panel is not None:
                panel.close()
                self._gone = panel

        viser_server.on_client_connect(come)
        viser_server.on_client_disconnect(go)
