"""A tab in nerfstudio's viewer that morphs objects which share a scene: a slider a prompt, and a triangle for three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.live.panels.anchor_handles import AnchorHandles
from invert3d_ns.live.panels.blend_triangle import BlendTriangle
from invert3d_ns.live.panels.markdown import escape_markdown
from invert3d_ns.live.panels.viewer_link import connect_viewer
from invert3d_ns.live.panels.widgets import add_button_row, add_tab
from invert3d_ns.scenes.blending import Blend, SameEverywhere, project_to_simplex, vertex

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer

    from invert3d_ns.live.queue import ActionQueue

_LONGEST = 28


class ShowsBlends(Protocol):
    """Has several objects in one scene."""

    prompts: Sequence[str]

    def show_blend(self, blend: Blend) -> None:
        """Have everybody who watches see a blend."""
        ...


def short(prompt: str) -> str:
    """A prompt that fits beside a slider."""
    return prompt if len(prompt) <= _LONGEST else prompt[: _LONGEST - 1] + "…"


class BlendPanel(ViewerElement[str], ViewerControl):
    """Sliders that say how much of each object is shown; all browsers see the same.

    Of two objects there is one slider from the first to the second; of more, one for each, of whose values the shares
    count; of three also a triangle at the object's feet, in which a handle is dragged. Anchors make a hybrid.

    nerfstudio finds it as an attribute of the pipeline.

    Args:
        host: whose objects they are.
        queue: of the host, which the viewer's threads run.
    """

    def __init__(self, host: Any, queue: ActionQueue) -> None:
        super().__init__("Blend")
        self.host, self.queue = host, queue
        self.sliders: list[Any] = []
        self.triangle: BlendTriangle | None = None
        self.anchors: AnchorHandles | None = None
        self._busy = False

    def install(self, viser_server: ViserServer) -> None:
        """Make the tab."""
        with add_tab(viser_server.gui, "Blend", self.name, icon="ADJUSTMENTS"):
            self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        gui, prompts = viser_server.gui, self.host.prompts
        if len(prompts) == 2:
            first, second = map(short, prompts)
            at_ends = (f"{first}, at 0", f"{second}, at 1")
            gui.add_markdown(
                "  \n".join(f"{number}: {escape_markdown(text)}" for number, text in enumerate(at_ends, 1))
            )
            self.sliders = [gui.add_slider("Blend", 0.0, 1.0, 0.01, 0.0, hint=f"From {first} to {second}")]
        else:
            self.sliders = [
                gui.add_slider(short(prompt), 0.0, 1.0, 0.01, float(index == 0), hint="Its share")
                for index, prompt in enumerate(prompts)
            ]
        for slider in self.sliders:
            slider.on_update(lambda event: self._slid())
        add_button_row(gui, "Only", **{str(index + 1): self._only(index) for index in range(len(prompts))})
        if len(prompts) == 3:
            self.triangle = BlendTriangle(viser_server, list(map(short, prompts)), self.show)
        self.anchors = AnchorHandles(self.host, lambda: self.show(self.weights()))
        self.anchors.install(viser_server)

    def _setup(self, viewer: Viewer) -> None:
        """Join host and viewer, whose cameras' time says nothing. nerfstudio calls this."""
        super()._setup(viewer)
        self.host.model.follows_time = False
        connect_viewer(viewer, self.host, self.queue)

    def _only(self, index: int) -> Callable[[], None]:
        return lambda: self.show(vertex(index, len(self.host.prompts)))

    def weights(self) -> torch.Tensor:
        """What the sliders say: the shares of all objects."""
        values = [float(slider.value) for slider in self.sliders]
        if len(self.host.prompts) == 2:
            return torch.tensor([1 - values[0], values[0]])
        total = sum(values)
        return torch.tensor(values) / total if total > 0 else vertex(0, len(values))

    def show(self, weights: torch.Tensor) -> None:
        """Show a point of the simplex, and have sliders and triangle say so."""
        weights = project_to_simplex(weights)
        self._busy = True  # viser calls back for values that are set here, too
        try:
            shown = weights[1:] if len(self.host.prompts) == 2 else weights
            for slider, value in zip(self.sliders, shown.tolist(), strict=True):
                slider.value = round(value, 2)
            if self.triangle is not None:
                self.triangle.move(np.asarray(weights))
        finally:
            self._busy = False
        self.host.show_blend(SameEverywhere.of(weights))

    def _slid(self) -> None:
        if self._busy:
            return
        weights = self.weights()
        if self.triangle is not None:
            self.triangle.move(np.asarray(weights))
        self.host.show_blend(SameEverywhere.of(weights))
