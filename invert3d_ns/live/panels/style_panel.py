"""A tab in nerfstudio's viewer for styles that share a scene: what is shown of them, and what is made of words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.live.host import HasStyles
from invert3d_ns.live.panels.viewer_link import connect_viewer, finish_training
from invert3d_ns.live.panels.widgets import StateView, add_tab
from invert3d_ns.live.queue import Action, ActionQueue, Outcome
from invert3d_ns.scenes.blending import SameEverywhere

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer

_GREETING = "Choose what is shown, or say what style to make."
_MOST = 1.5
"""How far beyond a style one may go, as a share of the way to it."""


class _Slider(NamedTuple):
    """How a weight is shown."""

    label: str
    most: float
    hint: str


SLIDERS: Mapping[str, _Slider] = {
    "clip": _Slider("CLIP", 3.0, "Weight of the plain score of views; easily fooled"),
    "augmented": _Slider("Augmented", 3.0, "Weight of the score of slanted views"),
    "directional": _Slider("Direction", 3.0, "Weight of the direction in which views move"),
    "patch": _Slider("Patches", 3.0, "Weight of the same for small crops"),
    "reach": _Slider("Reach", 3.0, "How far views shall move; 0: the direction alone counts"),
    "color": _Slider("Keep colors", 10.0, "Weight of how far colors are from what they were"),
}
"""The weights of :attr:`~invert3d_ns.live.host.HasStyles.strengths`, in their order."""


class StylePanel(ViewerElement[str], ViewerControl):
    """What is shown of a scene and its styles, and further styles; all browsers see the same.

    nerfstudio finds it as an attribute of the pipeline.

    Args:
        host: whose styles they are.
        queue: where what is asked for goes; what is shown changes at once.
    """

    def __init__(self, host: HasStyles, queue: ActionQueue) -> None:
        super().__init__("Style")
        self.host, self.queue = host, queue
        self.state = StateView(queue, _GREETING, self._notes)
        self._viewer: Viewer | None = None
        self._chosen, self._original = 0, False
        self._said: tuple[tuple[float, ...], ...] = ()
        self._strengths: dict[str, float] = {}
        self._refreshing = threading.Lock()
        self._installed = False

    def install(self, viser_server: ViserServer) -> None:
        """Make the tab."""
        with add_tab(viser_server.gui, "Style", self.name, icon="PALETTE"):
            self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        gui, host = viser_server.gui, self.host
        self.show = gui.add_dropdown("Show", tuple(host.prompts), host.prompts[0], hint="As it was, or in a style")
        self.strength = gui.add_slider("Strength", 0.0, _MOST, 0.01, 1.0, hint="How far from the original to the style")
        for widget in (self.show, self.strength):
            widget.on_update(_if_a_person(self._choose))
        self.compare = gui.add_button("A/B", hint="The original, and back")
        self.compare.on_click(lambda event: self.toggle_original())
        for widget in (self.show, self.strength, self.compare):
            widget.visible = len(host.prompts) > 1  # a scene that has its style alone has nothing to choose
        prompt, negative = host.words
        self.prompt = gui.add_text("Prompt", prompt, hint="A style, such as: a van gogh painting")
        self.negative = gui.add_text("Avoid", negative, hint="Words to keep away from")
        self._strengths = dict(host.strengths)
        with gui.add_folder("Strengths", expand_by_default=False):
            self.sliders = {
                name: gui.add_slider(label, 0.0, max(most, value), 0.01, float(value), hint=hint)
                for (name, (label, most, hint)), value in zip(SLIDERS.items(), self._in_force(), strict=True)
            }
        follow = gui.add_button("Follow", hint="The style in the making goes on with these words and strengths")
        follow.on_click(lambda event: self.queue.ask(self.follow))
        make = gui.add_button("Make style", hint="A further style of these words, once nothing is trained")
        make.on_click(lambda event: self.queue.ask(self.make))
        save = gui.add_button("Save styles", hint="Splat files of all styles, in the run's folder")
        save.on_click(lambda event: self.queue.ask(self.save))
        self.end = gui.add_button("Finish now", hint="Keep the splats as they are; the run can go on later")
        self.end.on_click(lambda event: finish_training(self._viewer))
        self.state.install_status(gui)
        self.state.install_picture(gui)
        self._installed = True
        self.queue.subscribe(self.refresh)
        viser_server.on_client_connect(lambda client: self.refresh())
        self.refresh()

    def _setup(self, viewer: Viewer) -> None:
        """Join host, queue and viewer, whose cameras' time says nothing. nerfstudio calls this."""
        super()._setup(viewer)
        self._viewer = viewer
        self.host.model.follows_time = False
        connect_viewer(viewer, self.host, self.queue)
        if viewer.trainer is None and self._installed:
            self.end.visible = False

    # What is shown

    def toggle_original(self) -> None:
        """Show the scene as it was, or again what was chosen."""
        self._original = not self._original
        self._show()

    def _choose(self) -> None:
        prompts = self.host.prompts
        self._chosen = prompts.index(self.show.value) if self.show.value in prompts else 0
        self._original = False
        self._show()

    def _show(self) -> None:
        chosen, share = (0, 0.0) if self._original else (self._chosen, float(self.strength.value))
        weights = [1.0, *[0.0] * (len(self.host.prompts) - 1)]
        if chosen:
            weights[0], weights[chosen] = 1 - share, share
        blend = SameEverywhere(tuple(weights))
        # Until the host shows it, what it showed before is no news of somebody else's either.
        self._said = (*self._said[-1:], blend.weights)
        self.host.show_blend(blend)
        self._said = (blend.weights,)
        self.state.show()

    def refresh(self) -> None:
        """Show styles, weights, and what is drawn as they are now; somebody else may have changed them.

        Safe to call from any thread, whatever locks it holds.
        """
        if not self._installed:
            return
        with self._refreshing:
            prompts, strengths = tuple(self.host.prompts), dict(self.host.strengths)
            weights = self._weights()
            if weights and weights not in self._said:
                self._said, self._original = (weights,), False
                styles = weights[1:]
                if styles and max(styles) > 0:
                    self._chosen = 1 + max(range(len(styles)), key=styles.__getitem__)
                    _set_if_new(self.strength, weights[self._chosen])
                else:
                    self._chosen = 0
            if tuple(self.show.options) != prompts:
                self.show.options = prompts
            _set_if_new(self.show, prompts[min(self._chosen, len(prompts) - 1)])
            if strengths != self._strengths:
                self._strengths = strengths
                for slider, value in zip(self.sliders.values(), self._in_force(), strict=True):
                    _set_if_new(slider, value)

    def _weights(self) -> tuple[float, ...]:
        """The weights that everybody sees; none of a hybrid."""
        shown = self.host.shown
        return shown.weights if isinstance(shown, SameEverywhere) else ()

    def _in_force(self) -> list[float]:
        return [float(self._strengths[name]) for name in SLIDERS]

    def _notes(self) -> dict[str, str]:
        prompts, weights = self.host.prompts, self._weights()
        parts = [
            prompt if weight == 1 else f"{prompt} × {weight:.2g}"
            for prompt, weight in zip(prompts[1:], weights[1:], strict=False)
            if weight
        ]
        notes = {"Shown": ", ".join(parts) or prompts[0]}
        making = self.host.style_in_the_making
        return {**notes, "Follows": making} if making else notes

    # What is asked for

    def typed_strengths(self) -> dict[str, float]:
        """What the sliders of weights say."""
        return {name: float(slider.value) for name, slider in self.sliders.items()}

    def follow(self) -> Action:
        """The action that has the style in the making follow what is filled in, from its next step on."""
        prompt, negative, strengths = self.prompt.value, self.negative.value, self.typed_strengths()

        def run(progress: Progress, should_stop: ShouldStop) -> Outcome:
            self.host.follow_style(prompt, negative, strengths)
            return Outcome(f"Following {prompt!r} from the next step on.")

        return Action("Follow", run, changes_scene=False, during_training=True, instant=True, kind="follow")

    def make(self) -> Action:
        """The action that makes a further style of what is filled in.

        It says that it changes no scene: the styles that there are stay as they are, so that no copy is needed, and
        the host takes a style away again that comes to nothing. So *Follow* counts while it runs.

        Raises:
            InputError: words that cannot be a style's.
        """
        prompt, negative, strengths = self.prompt.value, self.negative.value, self.typed_strengths()
        self.host.check_style(prompt, negative)

        def run(progress: Progress, should_stop: ShouldStop) -> Outcome:
            picture = self.host.make_style(prompt, negative, strengths, progress, should_stop)
            made = self.host.prompts[-1]
            return Outcome(f"Made {made!r}; Save styles keeps it.", picture, f"{made}, above the scene as it was")

        return Action("Make style", run, task=f"Making {prompt!r}", changes_scene=False)

    def save(self) -> Action:
        """The action that writes all styles into the run's folder."""
        return Action(
            "Save styles",
            lambda progress, should_stop: Outcome(self.host.save_styles()),
            task="Saving styles",
            changes_scene=False,
            during_training=True,
            kind="save styles",
        )


def _if_a_person(called: Callable[[], None]) -> Callable[[Any], None]:
    """Leave values aside that are set here: viser calls back for them, too, from another thread, without a client."""
    return lambda event: called() if event.client is not None else None


def _set_if_new(handle: Any, value: Any) -> None:
    if handle.value != value:
        handle.value = value
