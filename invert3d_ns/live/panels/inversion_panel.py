"""A panel in nerfstudio's viewer that shows a run while it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.live.panels.markdown import data_url, escape_markdown
from invert3d_ns.live.panels.widgets import add_tab

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import GuiMarkdownHandle, ViserServer


class InversionPanel(ViewerElement[str], ViewerControl):
    """Shows the phase, the losses, and the latest picture of true views above generated ones; holds no state but these.

    nerfstudio finds it as an attribute of the pipeline. viser 0.2 has no image widget: the picture is part of the text.
    """

    def __init__(self, name: str = "Inversion") -> None:
        super().__init__(name)
        self._text = "Waiting for the first step."
        self._picture = ""
        self._markdown: GuiMarkdownHandle | None = None

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        # The root only silences viser's warning about relative paths: the picture is a data URL.
        self._markdown = viser_server.gui.add_markdown(self._content(), image_root=Path())

    def install(self, viser_server: ViserServer) -> None:
        """Give the panel a tab of its own beside nerfstudio's."""
        with add_tab(viser_server.gui, "Run", self.name, icon="CHART_LINE"):
            self._create_gui_handle(viser_server)

    def _setup(self, viewer: Viewer) -> None:
        """Show what a finished run has come to, where nobody trains it. nerfstudio calls this."""
        super()._setup(viewer)
        if viewer.trainer is None:
            folder = Path(viewer.log_filename).parent
            pictures = [folder / name for name in ("edited.png", "views.png") if (folder / name).is_file()]
            self.show("A finished run", folder.name, picture=_read(pictures[0]) if pictures else None)

    def show(
        self,
        heading: str = "",
        detail: str = "",
        lines: Sequence[str] = (),
        picture: UInt8[np.ndarray, "H W 3"] | None = None,
    ) -> None:
        """Replace the text, the picture, or both. Safe to call from the training thread.

        All texts are shown as they are, whatever characters they hold.

        Args:
            heading: what happens, as "Learning words"; the text stays if empty.
            detail: beside the heading.
            lines: below it.
            picture: RGB; the picture stays if None.
        """
        if heading:
            first = f"**{escape_markdown(heading)}**" + (f": {escape_markdown(detail)}" if detail else "")
            self._text = "  \n".join([first, *map(escape_markdown, lines)])
        if picture is not None:
            self._picture = data_url(picture)
        if self._markdown is not None:
            self._markdown.content = self._content()

    def _content(self) -> str:
        if not self._picture:
            return self._text
        return f"{self._text}\n\n![true views above, generated views below]({self._picture})"


def _read(path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture in a file; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError:
        return None
