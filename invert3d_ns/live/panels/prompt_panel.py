"""A panel in nerfstudio's viewer that says what a scene follows, and lets people say something else meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.live.host import FollowsPrompt
from invert3d_ns.live.panels.viewer_link import connect_viewer, finish_training
from invert3d_ns.live.panels.widgets import StateView, add_tab
from invert3d_ns.live.queue import Action, ActionQueue, Outcome

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer
    from viser import ViserServer

_GREETING = "The scene follows this prompt. Change it while the run lasts."


class PromptPanel(ViewerElement[str], ViewerControl):
    """Prompt, negative prompt, and buttons that follow them and that end the run; all browsers see the same.

    nerfstudio finds it as an attribute of the pipeline.

    Args:
        host: whose words they are.
        queue: where what is asked for goes.
    """

    def __init__(self, host: FollowsPrompt, queue: ActionQueue) -> None:
        super().__init__("Prompt")
        self.host, self.queue = host, queue
        self.state = StateView(queue, _GREETING, self._notes)
        self._viewer: Any = None

    def install(self, viser_server: ViserServer) -> None:
        """Make the tab."""
        with add_tab(viser_server.gui, "Prompt", self.name, icon="PENCIL"):
            self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        gui, (prompt, negative) = viser_server.gui, self.host.words
        self.prompt = gui.add_text("Prompt", prompt, hint="What the scene shall be")
        self.negative = gui.add_text("Avoid", negative, hint="Words to keep away from")
        follow = gui.add_button("Follow", hint="From the next step on")
        follow.on_click(lambda event: self.queue.ask(self.follow(self.prompt.value, self.negative.value)))
        self.end = gui.add_button("Finish now", hint="Keep the splats as they are; the run can go on later")
        self.end.on_click(lambda event: self.finish())
        self.state.install_status(gui)
        self.state.install_picture(gui)

    def _setup(self, viewer: Viewer) -> None:
        """Join host, queue and viewer. nerfstudio calls this."""
        super()._setup(viewer)
        self._viewer = viewer
        connect_viewer(viewer, self.host, self.queue)
        if viewer.trainer is None and hasattr(self, "end"):
            self.end.visible = False

    def follow(self, prompt: str, negative_prompt: str) -> Action:
        """The action that has the scene follow other words from the next step on."""

        def run(progress: Progress, should_stop: ShouldStop) -> Outcome:
            if self.queue.training() == "completed":
                raise InputError(
                    "the run is finished: nothing follows words any more; start another one from it "
                    "(ns-train ge3d --data RUN --prompt ...)"
                )
            unknown = self.host.change_words(prompt, negative_prompt)
            return Outcome(f"Following {prompt!r} from the next step on. {unknown}".strip())

        return Action("Follow", run, changes_scene=False, during_training=True, kind="follow")

    def finish(self) -> None:
        """Ask the run to stop after its next step: what it has come to is saved, and it can go on later."""
        finish_training(self._viewer)

    def _notes(self) -> dict[str, str]:
        return {"Follows": self.host.words[0]}
