"""What one browser has of the edit panel: its form, its buttons, and its view of what everybody sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Change
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.panels.region_box import BoxState, RegionBox
from invert3d_ns.live.panels.widgets import StateView, add_button_row, inside
from invert3d_ns.live.queue import Action, one_line

_NUMBERS = ("amount", "seed", "relevance_threshold")
_GREETING = "Say what shall change, then press Preview."


class ClientPanel:
    """Widgets for every field of an :class:`~invert3d_ns.live.form.EditForm`, a button for each of the actions, and
    what comes of them. It reads widgets and shows states; actions do it.

    What this person typed wrong is said to this person alone; what became of actions is shown to everybody.

    Args:
        client: viser's handle of the browser.
        container: the tab that the widgets go into.
        actions: what is done.
        before: whose fields these begin with; a browser's that is gone.
    """

    def __init__(self, client: Any, container: Any, actions: EditActions, before: ClientPanel | None = None) -> None:
        self.actions, self.queue = actions, actions.queue
        self.region = RegionBox()
        self.state = StateView(self.queue, _GREETING, self._notes)
        self._fields: dict[str, Any] = {}
        self._described = before is not None
        gui, form, box = client.gui, EditForm(), BoxState()
        if before is not None:
            with suppress(InputError):
                form, box = before.form(), before.region.state
        with inside(gui, container):
            self._add_form(client, form, box)
            self._add_buttons(gui, form)
            self.state.install_status(gui)
            self._add_rows(gui)
            self.state.install_picture(gui)
        self.queue.subscribe(self._show_runs)
        self._show_runs()

    def close(self) -> None:
        """Follow the queue no more: the browser is gone."""
        self.state.close()
        self.queue.unsubscribe(self._show_runs)

    def form(self) -> EditForm:
        """The form as it is filled in.

        Raises:
            InputError: a field for a number is empty.
        """
        values: dict[str, Any] = {name: widget.value for name, widget in self._fields.items()}
        numbers = [*(values[name] for name in _NUMBERS), *self.region.center.value, *self.region.size.value]
        if any(number in (None, "") for number in numbers):
            raise InputError("a field for a number is empty; give one")
        values["seed"] = int(values["seed"])
        return EditForm(**values, box=self.region.value)

    def _add_form(self, client: Any, form: EditForm, box: BoxState) -> None:
        gui = client.gui

        def text(name: str, label: str, hint: str) -> None:
            self._fields[name] = gui.add_text(label, getattr(form, name), hint=hint)

        text("words", "Words", '"in van gogh style", or "blue instead of red"')
        text("source", "From", 'What the object is now, such as "red"; may stay empty')
        text("target", "To", 'What it shall be, such as "blue"; may stay empty')
        text("noun", "It is", 'What the object is now, "red car with black wheels": the more, the less else changes')
        self._fields["amount"] = gui.add_slider(
            "Amount", -5.0, 5.0, 0.1, form.amount, hint="How far to go; below 0, the other way"
        )
        with gui.add_folder("More", expand_by_default=False):
            text("weights", "Weights", 'How much words count: "van gogh=2, style=0.5"')
            text("negative_prompt", "Avoid", "Words to keep away from")
            text("guidance_scale", "Guidance", "How closely to follow, 1 to 50; auto: as the prior wants it")
            text("strength", "Strength", "Less keeps more, above 0 and up to 1; auto: the best by measurement")
            self._fields["seed"] = gui.add_number("Seed", form.seed, min=0, step=1, hint="Another one, another picture")
        with gui.add_folder("Shape", expand_by_default=False):
            self._fields["change"] = gui.add_dropdown(
                "Change", get_args(Change), form.change, hint="Whether splats may move too"
            )
            self._fields["keep_silhouette"] = gui.add_checkbox(
                "Keep silhouette", form.keep_silhouette, hint="Off where the shape shall be another, with geometry"
            )
        with gui.add_folder("Region", expand_by_default=False):
            text("relevance", "Only", 'Change only what these words are about, as "wheels"')
            self._fields["relevance_threshold"] = gui.add_number(
                "Threshold", form.relevance_threshold, min=0.05, max=0.95, step=0.05, hint="High chooses little"
            )
            self.region.install(client, box)
        for name in ("words", "source", "target"):
            self._fields[name].on_update(lambda event: self.actions.request_warm_up())

    def _add_buttons(self, gui: Any, form: EditForm) -> None:
        self._fields["replace_last"] = gui.add_checkbox(
            "Replace last",
            form.replace_last,
            hint="Take the place of the last edit; a color takes that of a color in any case",
        )
        preview = gui.add_button("Preview", hint="Views, within seconds")
        preview.on_click(lambda event: self._ask(lambda: self._edit_action(self.actions.preview_edit)))
        apply = gui.add_button("Apply", hint="Let the splats follow the words")
        apply.on_click(lambda event: self._ask(lambda: self._edit_action(self.actions.apply_edit)))

    def _add_rows(self, gui: Any) -> None:
        versions = self.actions.versions
        ask = self._ask
        add_button_row(gui, "Versions", Undo=lambda: ask(versions.undo), Redo=lambda: ask(versions.redo))
        add_button_row(gui, "Scene", Compare=lambda: ask(versions.compare), Save=lambda: ask(self.actions.save))
        self._runs = gui.add_dropdown("Saved", ("",), "", hint="Saved runs of this scene")
        self._open = gui.add_button("Open", visible=False, hint="Bring the saved run back; Undo leaves it again")
        self._open.on_click(lambda event: ask(self._open_action))
        self._runs.visible = False

    def _ask(self, make: Callable[[], Action]) -> None:
        """Put an action into the queue, unless the form says nothing that can be done; say so then, here only."""
        try:
            action = make()
        except InputError as error:
            self.state.complain(one_line(error))
        else:
            self.state.complain("")
            self.queue.ask(action)

    def _edit_action(self, make: Callable[..., Action]) -> Action:
        form = self.form()
        return make(form.edit(), replace_last=form.replace_last)

    def _open_action(self) -> Action:
        for run in self.actions.runs:
            if run.title == self._runs.value:
                return self.actions.open(run.folder)
        raise InputError("there is no saved run of this scene yet; apply an edit, then press Save")

    def _show_description(self) -> None:
        """Fill in what the object is, once that is known, unless somebody typed something else."""
        described, field = self.actions.description(), self._fields["noun"]
        if described and not self._described:
            self._described = True
            field.value = field.value or described

    def _show_runs(self) -> None:
        self._show_description()
        titles = tuple(run.title for run in self.actions.runs)
        if titles and titles != tuple(self._runs.options):
            self._runs.options = titles
            self._runs.visible = self._open.visible = True

    def _notes(self) -> dict[str, str]:
        versions, notes = self.actions.versions, {}
        if versions.labels:
            notes["Edits"] = "; ".join(versions.labels)
        elif self.actions.runs and self.actions.runs[0].unasked:
            notes["Kept from last time"] = f"{self.actions.runs[0].title} (press Open)"
        if versions.comparing:
            notes["Shown"] = "before all edits"
        return notes
