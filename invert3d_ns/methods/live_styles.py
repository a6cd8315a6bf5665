"""Styles that people ask for while they watch: what is shown of them, words and weights that change, further styles."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.live.panels.style_panel import StylePanel
from invert3d_ns.methods.blended_scene import BlendedScene
from invert3d_ns.methods.stylization_report import STYLES
from invert3d_ns.methods.stylize_phase import StylizePhase
from invert3d_ns.runs.checkpoints import read_checkpoint, write_checkpoint
from invert3d_ns.runs.phase import StepOutput
from invert3d_ns.runs.pipeline import RunObserver
from invert3d_ns.runs.run_folder import FolderLock
from invert3d_ns.runs.splat_fit import rates
from invert3d_ns.scenes.blending import Blend, SameEverywhere, vertex
from invert3d_ns.scenes.runs import CHECKPOINTS, OWN, list_checkpoints

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from nerfstudio.engine.optimizers import Optimizers

    from invert3d_ns.methods.stylization import StylizationPipeline

PULLS, REACH, COLOR = ("clip", "augmented", "directional", "patch"), "reach", "color"
"""Names of weights that change while one watches: what pulls towards words, how far, and what holds colors."""
SECONDS_BETWEEN_LOOKS = 0.4
"""Time between two looks at a style in the making. Drawing it takes time from its steps."""


class LiveStyles(BlendedScene):
    """Makes a pipeline of styles a :class:`~invert3d_ns.live.host.HasStyles`; mixed into it.

    Attributes:
        style_panel: the tab.
        asked_style: weights of what pulls towards words, as the run began.
        asked_keep: the same of what keeps the scene.
    """

    def begin_live_styles(self, learning_rates: Mapping[str, float]) -> None:
        """Set everything up; once, after queue and observers.

        Args:
            learning_rates: by group of splats, for styles that are made while one watches.
        """
        pipeline = self._pipeline
        self._rates = {name + OWN: rate for name, rate in learning_rates.items()}
        self.asked_style, self.asked_keep = replace(pipeline.config.style), replace(pipeline.config.keep)
        self._making_live, self._made_live = False, False
        self.style_panel = StylePanel(cast(Any, self), pipeline.queue)
        pipeline.observers.append(_PanelRefresher(self.style_panel))

    @property
    def _pipeline(self) -> StylizationPipeline:
        return cast("StylizationPipeline", self)

    # What is shown and followed

    @property
    def shown(self) -> Blend:
        """What everybody who watches sees."""
        return self.model.blend

    def show_blend(self, blend: Blend) -> None:
        """Have everybody who watches see a blend; of other objects than there are by now, it is none any more."""
        with self.lock:
            if blend.objects == self.model.objects:
                self.model.blend = blend
        self.rerender()

    @property
    def strengths(self) -> dict[str, float]:
        """See :attr:`~invert3d_ns.live.host.HasStyles.strengths`."""
        config = self._pipeline.config
        pulls = {name: float(getattr(config.style, name)) for name in (*PULLS, REACH)}
        return {**pulls, COLOR: float(config.keep.color)}

    @property
    def style_in_the_making(self) -> str | None:
        """The words of the style that follows words now, if one does."""
        pipeline = self._pipeline
        running = self._making_live or pipeline.queue.training() != "completed"
        return pipeline.words[0] if running and getattr(pipeline.current, "follows_words", False) else None

    def change_strengths(self, strengths: Mapping[str, float]) -> None:
        """See :meth:`~invert3d_ns.live.host.HasStyles.change_strengths`."""
        new = {**self.strengths, **strengths}
        wrong = next((name for name, value in new.items() if not 0 <= value < math.inf), None)
        if wrong is not None or new.keys() != self.strengths.keys():
            raise InputError(f"the strength {wrong or sorted(new)!r} is none; give numbers from 0 up")
        if not any(new[name] for name in PULLS):
            raise InputError(f"nothing pulls towards the words any more; raise one of {', '.join(PULLS)} above 0")
        config = self._pipeline.config
        with self.lock:
            for name in (*PULLS, REACH):
                setattr(config.style, name, float(new[name]))
            config.keep.color = float(new[COLOR])

    def follow_style(self, prompt: str, negative_prompt: str, strengths: Mapping[str, float]) -> None:
        """See :meth:`~invert3d_ns.live.host.HasStyles.follow_style`."""
        pipeline = self._pipeline
        if self.style_in_the_making is None:
            raise InputError("no style is being made that could follow words; Make style makes one of these")
        self.check_style(prompt, negative_prompt, but=pipeline.making)
        before, weights = pipeline.words, self.strengths
        self.change_strengths(strengths)
        try:
            with self.lock:
                pipeline.change_words(prompt, negative_prompt)
                pipeline.style_loss(prompt)  # whether CLIP can tell it from what the scene is
        except InputError:
            with self.lock:
                pipeline.change_words(*before)
            self.change_strengths(weights)
            raise

    def check_style(self, prompt: str, negative_prompt: str, but: int | None = None) -> None:
        """See :meth:`~invert3d_ns.live.host.HasStyles.check_style`.

        Args:
            but: a style that may have these words, by its index.
        """
        self._pipeline.config.words(prompt, negative_prompt)
        others = (name for index, name in enumerate(self.prompts) if index != but)
        same = next((name for name in others if _plain(name) == _plain(prompt)), None)
        if same is not None:
            raise InputError(f"there is a style {same!r} already; say something else")

    # Further styles

    def make_style(
        self,
        prompt: str,
        negative_prompt: str,
        strengths: Mapping[str, float],
        progress: Progress,
        should_stop: ShouldStop,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """See :meth:`~invert3d_ns.live.host.HasStyles.make_style`; it takes as many steps as the run's own."""
        pipeline = self._pipeline
        self.check_style(prompt, negative_prompt)
        if not self.model.anchored:
            raise InputError(
                "what this scene was is not beside its style, so that no further one can be made of it here; make a "
                "run of it: ns-train clip-splat --data RUN --prompt ..."
            )
        pipeline.load_towers()
        with self._one_more(prompt, negative_prompt) as index:
            self.change_strengths(strengths)
            phase = StylizePhase(pipeline, index, pipeline.config.steps)
            pipeline.current = phase
            self._take_steps(phase, progress, should_stop)
            picture = phase.picture()
        self._made_live = True
        self.show_blend(SameEverywhere.of(vertex(index, len(self.prompts))))
        return picture

    @contextmanager
    def _one_more(self, prompt: str, negative_prompt: str) -> Iterator[int]:
        """Within a block there is a further style, which stays unless the block fails; gives its index."""
        pipeline, model = self._pipeline, self.model
        prompts, negative, weights = self.prompts, pipeline.negative_prompt, self.strengths
        blend, current, mode, frozen = model.blend, pipeline.current, pipeline.training, model.frozen
        trained = {name: parameter.requires_grad for name, parameter in model.gauss_params.items()}
        with self.lock:
            index = model.add_object()
            self.prompts, pipeline.negative_prompt = (*prompts, prompt), negative_prompt
        self._making_live = True
        try:
            yield index
        except BaseException:
            self._making_live, pipeline.current = False, current
            with self.lock:
                model.remove_object()
                model.blend, self.prompts, pipeline.negative_prompt = blend, prompts, negative
            self.change_strengths(weights)
            raise
        finally:
            self._making_live, pipeline.current = False, current
            with self.lock:
                model.frozen = frozen
                pipeline.train(mode)
                for name, parameter in model.gauss_params.items():
                    parameter.requires_grad_(trained.get(name, False))
                    parameter.grad = None
            self.rerender()

    def _take_steps(self, phase: StylizePhase, progress: Progress, should_stop: ShouldStop) -> None:
        """Make a style, shown and told of now and then.

        Raises:
            Cancelled: ``should_stop`` said so.
        """
        pipeline, run = self._pipeline, _LiveRun(self.lock)
        progress(0, phase.steps)
        phase.begin(cast(Any, run), None)
        run.begin(phase, phase.optimizers(rates(**self._rates)))
        shown = 0.0
        for step in range(phase.steps):
            if should_stop():
                raise Cancelled
            with self.lock:
                output = phase.step(cast(Any, run), step)
            progress(step + 1, phase.steps)
            every = pipeline.config.preview_every
            picture = phase.picture() if every and (step + 1) % every == 0 else None
            if picture is not None or time.monotonic() - shown > SECONDS_BETWEEN_LOOKS:
                lines = [f"Loss {float(output.loss):.4f}", *phase.status()]
                pipeline.panel.show(phase.title, f"step {step + 1} of {phase.steps}", lines, picture)
                self.rerender()
                shown = time.monotonic()

    # What stays

    def save_styles(self) -> str:
        """See :meth:`~invert3d_ns.live.host.HasStyles.save_styles`; the run's last checkpoint has new ones, too."""
        folder = self.output_folder
        if folder is None:
            raise InputError("this scene belongs to no run, so there is no place to save its styles; train it first")
        with self.lock:
            files = self.write_objects(folder / STYLES)
        where = f"{len(files)} files, the scene and its styles, are in {folder / STYLES}"
        if not self._made_live:
            return f"{where}."
        if not self._keep_in_checkpoint(folder):
            return f"{where}; the run has no checkpoint for them, but each is a scene: ns-train clip-splat --data FILE"
        self._made_live = False
        return f"{where}; the run has them, too: ns-viewer, and ns-train clip-splat --data {folder}, go on from it."

    def _keep_in_checkpoint(self, folder: Path) -> bool:
        """Put the splats of all styles into the last checkpoint of the run, if there is one; says whether there is.

        Whatever else it holds stays, so that a run that is not finished goes on as it would have.

        Raises:
            InputError: another process is at work there, or the checkpoint cannot be read or written.
        """
        found = list_checkpoints(folder / CHECKPOINTS)
        if not found:
            return False
        path, lock = found[max(found)], FolderLock(folder)
        try:
            state = read_checkpoint(path)
            state["pipeline"] = dict(self._pipeline.state_dict())
            _remember_more(state.get("optimizers", {}), self.model.objects)
            write_checkpoint(state, path)
        finally:
            lock.release()
        return True


class _LiveRun:
    """What a style's phase needs of a run where there is none any more: the lock, a seed, and iterations.

    Args:
        lock: of the scene.
    """

    seed = 0

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock

    def begin(self, phase: StylizePhase, optimizers: Optimizers) -> None:
        """Make ready for the first step."""
        self._phase, self._optimizers = phase, optimizers

    def iterate(self, index: int) -> StepOutput:
        """One step of the optimizers; where the loss or a gradient is no number, none, and the loss is none either."""
        terms, metrics = self._phase.losses(index)
        loss = torch.stack(list(terms.values())).sum()
        self._optimizers.zero_grad_all()
        loss.backward()
        groups = self._optimizers.parameters.values()
        gradients = [parameter.grad for parameters in groups for parameter in parameters if parameter.grad is not None]
        if not all(bool(values.isfinite().all()) for values in (loss.detach(), *gradients)):
            return StepOutput(torch.tensor(math.nan), terms, metrics)
        self._optimizers.optimizer_step_all()
        for scheduler in self._optimizers.schedulers.values():
            scheduler.step()
        return StepOutput(loss.detach(), terms, metrics)


class _PanelRefresher(RunObserver):
    """Tells the tab of styles of what a run has changed."""

    def __init__(self, panel: StylePanel) -> None:
        self._panel = panel

    def show_status(self, title: str, detail: str = "", lines: Sequence[str] = ()) -> None:
        """Have it look."""
        self._panel.refresh()

    def finished(self) -> None:
        """Have it look."""
        self._panel.refresh()


def _plain(prompt: str) -> str:
    """Words as they are compared: case and blanks say nothing."""
    return " ".join(prompt.lower().split())


def _remember_more(optimizers: Mapping[str, Any], objects: int) -> None:
    """Let optimizers' states, in place, be of more objects: of new ones they remember nothing."""
    for name in (name for name in optimizers if name.endswith(OWN)):
        for memory in optimizers[name]["state"].values():
            for key, value in memory.items():
                if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] < objects:
                    more = value.new_zeros(len(value), objects - value.shape[1], *value.shape[2:])
                    memory[key] = torch.cat([value, more], dim=1)
