"""``ns-train invert3d-edit`` and ``ns-train invert3d --prompt``: what edits do to a run, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_runs import BLUE, EDIT, REGION, SAME, TOP, edit, make_material
from PIL import Image
from runs import EDIT_STEPS, SPLAT_STEPS, STEPS, go_on, tiny_config, train

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing import sources
from invert3d_ns.editing.change import HARDLY
from invert3d_ns.editing.edit import Edit, Region, load_edits, save_edits
from invert3d_ns.editing.sources import read_scene
from invert3d_ns.live.editable_scene import EditableScene
from invert3d_ns.methods.edit_phase import EditPhase
from invert3d_ns.methods.invert3d import InversionPipeline
from invert3d_ns.runs import services
from invert3d_ns.runs import trainer as module
from invert3d_ns.scenes.runs import read_run
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior):
    """See :func:`make_material`. Read-only."""
    folder = tmp_path_factory.mktemp("material")
    make_material(folder, tiny_v_prior)
    return folder


@pytest.fixture(scope="module")
def run(material) -> Path:
    return material / "outputs" / "ball" / "invert3d" / "run"


@pytest.fixture(scope="module")
def edited(run, tmp_path_factory) -> Path:
    """The folder of an edited run. Read-only."""
    return train(edit(run, tmp_path_factory.mktemp("edited"), prompt=BLUE))


def differs(before, after) -> torch.Tensor:
    """Splats of which any number is another."""
    return torch.stack(
        [(getattr(before, n).flatten(1) != getattr(after, n).flatten(1)).any(1) for n in (*SAME, "features_dc")]
    ).any(0)


def test_an_edit_leaves_splats_edits_picture_and_figures(run, edited):
    assert edited.parts[-3:] == ("ball", "invert3d-edit", "run"), "named after the scene of the run"
    before, after = read_run(run), read_run(edited)
    for name in SAME:
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert not torch.allclose(before.features_dc, after.features_dc, atol=1e-3)

    words = ObjectEmbedding.load(edited / "embedding.safetensors")
    assert torch.equal(words.vectors, ObjectEmbedding.load(run / "embedding.safetensors").vectors)
    assert load_edits(edited / "edits.json", words) == [Edit(source="red", target="blue", steps=2)]

    picture = np.asarray(Image.open(edited / "edited.png"))
    assert picture.shape == (3 * 192, 4 * 192, 3), "four views: as they were, edited, and of the edited splats"
    assert picture[:192].min() < 128 and not np.array_equal(picture[:192], picture[-192:])

    figures = json.loads((edited / "metrics.json").read_text())["edit"]
    assert figures["edits"][0]["target"] == "blue" and figures["new"] == 1
    assert figures["steps"] == {"fit": EDIT_STEPS, "refine": 0} and figures["views"] == 4
    assert figures["splats"] == 200 and 0 < figures["changed_splats"] == int(differs(before, after).sum())
    assert figures["seconds"]["views"] > 0 and figures["seconds"]["edit"] > 0
    assert np.isfinite(figures["psnr"]["splats_to_edited_views"])


def test_only_the_files_of_an_edit_are_left(edited):
    names = sorted(path.name for path in edited.iterdir() if not path.name.startswith("events.out"))
    files = "camera_path.json config.yml dataparser_transforms.json edited.png edits.json embedding.safetensors"
    assert names == [*files.split(), "metrics.json", "nerfstudio_models"]
    assert [path.name for path in (edited / "nerfstudio_models").iterdir()] == [f"step-{EDIT_STEPS - 1:09d}.ckpt"]


def test_the_same_seed_gives_the_same_splats_and_another_seed_others(run, edited, tmp_path):
    same = train(edit(run / "config.yml", tmp_path / "same", prompt=BLUE))
    assert not differs(read_run(edited), read_run(same)).any()
    other = train(edit(run, tmp_path / "other", prompt=BLUE, pipeline__edit_options__edit__seed=5))
    assert differs(read_run(edited), read_run(other)).any()


def test_an_edit_of_an_edited_run_comes_on_top(edited, tmp_path):
    folder = train(edit(edited, tmp_path, prompt="in van gogh style"))
    assert [e.label for e in load_edits(folder / "edits.json")] == ["red -> blue", "in van gogh style"]
    assert differs(read_run(edited), read_run(folder)).any()
    figures = json.loads((folder / "metrics.json").read_text())["edit"]
    assert len(figures["edits"]) == 2 and figures["new"] == 1


def test_steps_copy_no_splats_and_checkpoints_and_snapshots_have_them(run, edited, tmp_path, monkeypatch):
    written, seen = [], []

    class Watched(EditPhase):
        def observe(self, run, index):
            super().observe(run, index)
            if index == 1:
                seen.extend([self.pipeline.splats(), self.sequence.cloud()])

    def set_splats(pipeline, cloud):
        written.append(pipeline.current.sequence.done)
        EditableScene.set_splats(pipeline, cloud)

    monkeypatch.setattr(InversionPipeline, "set_splats", set_splats)
    assert not differs(read_run(edited), read_run(train(edit(run, tmp_path / "all", prompt=BLUE)))).any()
    assert written == [EDIT_STEPS]

    monkeypatch.setattr("invert3d_ns.methods.invert3d.EditPhase", Watched)
    stopped = train(edit(run, tmp_path / "stopped", prompt=BLUE, max_num_iterations=3))
    assert written == [EDIT_STEPS, 2, 3], "looked at after the second step, saved after the third"
    assert not differs(*seen).any() and differs(read_run(run), seen[0]).any()
    assert differs(seen[0], read_run(stopped)).any()


def test_one_run_fits_inverts_and_edits(material, tmp_path):
    """The words are those that a run without an edit learns."""
    plain = train(tiny_config(material / "posed", material / "prior", tmp_path / "plain"))
    folder = train(tiny_config(material / "posed", material / "prior", tmp_path / "all", prompt="in van gogh style"))
    assert (folder / "embedding.safetensors").read_bytes() == (plain / "embedding.safetensors").read_bytes()
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (plain, folder))
    assert first["heldout_loss"] == second["heldout_loss"] and "edit" in second and "edit" not in first
    assert (folder / "views.png").read_bytes() == (plain / "views.png").read_bytes()
    last = SPLAT_STEPS + STEPS + EDIT_STEPS - 1
    assert [path.name for path in (folder / "nerfstudio_models").iterdir()] == [f"step-{last:09d}.ckpt"]
    assert differs(read_run(plain), read_run(folder)).any()


def test_a_ply_and_an_embedding_may_be_given_apart(material, run, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(sources, "check_same_object", lambda *given: checked.append(given))
    options = {"pipeline__embedding": run / "embedding.safetensors", "pipeline__prior": str(material / "prior")}
    folder = train(edit(material / "ball.ply", tmp_path, prompt=BLUE, **options))
    assert (folder / "edits.json").exists() and len(checked) == 1


def test_edits_of_a_file_are_carried_out_again(run, edited, tmp_path):
    folder = train(edit(run, tmp_path, pipeline__edit_options__edits=edited / "edits.json"))
    assert not differs(read_run(edited), read_run(folder)).any()
    assert load_edits(folder / "edits.json") == load_edits(edited / "edits.json")


def test_a_part_changes_and_nothing_else_also_when_its_file_is_carried_out_again(run, tmp_path):
    folder = train(edit(run, tmp_path, prompt=BLUE, **{f"{REGION}box": TOP, f"{REGION}box_holds": "part"}))
    before, after = read_run(run), read_run(folder)
    changed = differs(before, after)
    assert changed.any() and (before.means[changed, 2] >= 0).all()
    assert json.loads((folder / "metrics.json").read_text())["edit"]["edits"][0]["box"] == list(TOP)
    again = train(edit(run, tmp_path / "again", pipeline__edit_options__edits=folder / "edits.json"))
    assert not differs(after, read_run(again)).any()


def test_a_file_of_several_regions_takes_as_many_passes(run, edited, tmp_path):
    """A part after the whole: the first pass is the edit of the whole, which stays where the part is not."""
    edits = [*load_edits(edited / "edits.json"), Edit(target="mug", steps=2, region=Region(TOP, "part"))]
    file = tmp_path / "edits.json"
    save_edits(edits, file)
    folder = train(edit(run, tmp_path, pipeline__edit_options__edits=file, max_num_iterations=EDIT_STEPS + 2))
    assert not (folder / "edits.json").exists(), "stopped in the second pass"
    kept = folder / "nerfstudio_models"
    second = train(edit(run, tmp_path / "more", pipeline__edit_options__edits=file, load_dir=kept))
    assert [path.name for path in (second / "nerfstudio_models").iterdir()] == [f"step-{2 * EDIT_STEPS - 1:09d}.ckpt"]
    before, after = read_run(edited), read_run(second)
    changed = differs(before, after)
    assert changed.any() and (before.means[changed, 2] >= 0).all() and load_edits(second / "edits.json") == edits


def test_the_console_says_what_was_done_and_what_comes_next(run, tmp_path, capfd):
    folder = train(edit(run, tmp_path, prompt=BLUE))
    text = capfd.readouterr().out
    assert "Generating views of the edit: red -> blue" in text and f"edit {EDIT_STEPS}/{EDIT_STEPS}" in text
    ending = text[text.index("The splats are edited (red -> blue): mean change of the object's color ") :]
    for name in ("edited.png", "edits.json", "embedding.safetensors", "metrics.json"):
        assert str(folder / name) in ending
    commands = [shlex.split(line, comments=True) for line in ending[ending.index("Next:") :].splitlines()[1:] if line]
    assert commands[0] == ["ns-viewer", "--load-config", str(folder / "config.yml")]
    assert commands[1][:3] == ["invert3d", "export", str(folder)]
    assert commands[2][:5] == ["ns-train", "invert3d-edit", "--data", str(folder), "--prompt"]
    assert " instead of " in commands[2][5] and len(commands[2]) == 6
    figures = json.loads((folder / "metrics.json").read_text())["edit"]["change"]
    assert f"{figures['color']:.0f}/255" in ending and 0 < figures["silhouette"] <= figures["share"] == 1


def test_an_edit_that_hardly_changes_anything_says_so(run, tmp_path, capfd):
    folder = train(edit(run, tmp_path, prompt=BLUE, **{f"{EDIT}amount": 0.01}))
    change = json.loads((folder / "metrics.json").read_text())["edit"]["change"]
    said = capfd.readouterr().out
    assert ("hardly changed: try --pipeline.edit.amount 2" in said) == (change["color"] < HARDLY)


def test_a_run_is_looked_at_with_its_words_and_edits(edited, material, monkeypatch):
    from nerfstudio.utils.eval_utils import all_methods, eval_setup

    from invert3d_ns.configs import invert3d_edit
    from invert3d_ns.prior import checkpoints

    loaded = []
    load = checkpoints.load_prior
    monkeypatch.setattr(checkpoints, "load_prior", lambda name, *a, **k: (loaded.append(name), load(name, *a, **k))[1])
    monkeypatch.setitem(all_methods, "invert3d-edit", invert3d_edit.config)
    _, pipeline, _, _ = eval_setup(edited / "config.yml", test_mode="inference")
    assert isinstance(pipeline, InversionPipeline)
    assert [e.label for e in pipeline.edits] == ["red -> blue"] and pipeline.output_folder == edited
    words = pipeline.embedding()
    saved = ObjectEmbedding.load(edited / "embedding.safetensors")
    assert torch.equal(words.vectors, saved.vectors) and words.fingerprint == saved.fingerprint
    assert loaded == [], "only asking for the prior loads it"
    with pipeline.prior.use() as prior, pipeline.prior.use() as again:
        assert prior is again and loaded == [str(material / "prior")]
    assert not any("unet" in name for name in pipeline.state_dict())

    cloud = pipeline.splats()
    assert not differs(cloud, read_run(edited)).any()
    raw = {name: value.detach().clone() for name, value in pipeline.model.gauss_params.items()}
    cloud.features_dc[:3] += 1
    pipeline.set_splats(cloud)
    now = pipeline.model.gauss_params
    assert torch.equal(now["features_dc"][:3], cloud.features_dc[:3])
    assert torch.equal(now["features_dc"][3:], raw["features_dc"][3:])
    assert all(torch.equal(now[name], raw[name]) for name in SAME)


def test_a_finished_run_is_edited_by_those_who_look_at_it(edited, monkeypatch):
    from live_stage import Watcher
    from nerfstudio.utils.eval_utils import all_methods, eval_setup

    from invert3d_ns.configs import invert3d_edit

    monkeypatch.setitem(all_methods, "invert3d-edit", invert3d_edit.config)
    _, pipeline, _, _ = eval_setup(edited / "config.yml", test_mode="inference")
    assert isinstance(pipeline, InversionPipeline)
    pipeline.output_folder = edited
    queue, actions, watcher = pipeline.queue, pipeline.edit_panel.actions, Watcher(pipeline.queue)
    box = (-1.0, -1.0, 0.0, 1.0, 1.0, 1.0)
    cube = Edit(target="a cube", region=Region(box), steps=2)
    found = pipeline.splats()
    queue.start()
    try:
        queue.ask(actions.preview_edit(cube))
        watcher.until(lambda state: state.picture is not None or state.error)
        assert not queue.state.error and not differs(found, pipeline.splats()).any()
        queue.ask(actions.apply_edit(cube))
        watcher.until(lambda state: "Applied 'a cube'" in state.message or state.error)
        changed = differs(found, pipeline.splats())
        assert changed.any() and (found.means[changed, 2] >= 0).all()
        assert [e.label for e in pipeline.edits] == ["red -> blue", "a cube"] == list(actions.versions.labels)
        queue.ask(actions.save)
        watcher.until(lambda state: "Saved as the run" in state.message or state.error)
        (saved,) = (run.folder for run in actions.runs)
        assert load_edits(saved / "edits.json") == pipeline.edits
        assert not differs(read_scene(saved), pipeline.splats()).any()
        queue.ask(actions.versions.undo)
        watcher.until(lambda state: "Undid 'a cube'" in state.message or state.error)
        assert not differs(found, pipeline.splats()).any() and len(pipeline.edits) == 1
    finally:
        queue.close()


def test_exported_splats_are_the_edited_ones(run, edited, tmp_path):
    from invert3d_ns.commands.export import ExportSplats

    ExportSplats(edited, tmp_path / "edited.ply").run()
    ExportSplats(run, tmp_path / "plain.ply").run()
    one, other = read_scene(tmp_path / "edited.ply"), read_scene(tmp_path / "plain.ply")
    assert torch.allclose(one.means, other.means, atol=1e-5)
    assert not torch.allclose(one.features_dc, other.features_dc, atol=1e-3)


def test_before_there_are_words_an_edit_is_told_so(material):
    config = tiny_config(material / "posed", material / "prior", material).pipeline
    config.datamanager.data = material / "posed"
    pipeline = config.setup(device="cpu", test_mode="inference")
    with pytest.raises(InputError, match="no words of this scene yet"):
        pipeline.embedding()


def test_people_are_served_between_steps_and_see_splats_change(run, tmp_path, monkeypatch):
    from invert3d_ns.live.queue import ActionQueue

    served, shown = [], []
    monkeypatch.setattr(ActionQueue, "run_pending", lambda self, limit=1: served.append(limit) or 0)
    monkeypatch.setattr(services, "_REDRAWN_EVERY", -1.0)
    setup = module.PhasedTrainer.setup

    def watched(self, test_mode: Any = "val") -> None:
        setup(self, test_mode)
        self.viewer_state = None
        self.pipeline.rerender = lambda: shown.append(self.pipeline.splats().features_dc)

    monkeypatch.setattr(module.PhasedTrainer, "setup", watched)
    train(edit(run, tmp_path, prompt=BLUE))
    assert len(served) == EDIT_STEPS and len(shown) == EDIT_STEPS + 1
    assert not torch.equal(shown[0], shown[1]) and torch.equal(shown[-1], shown[-2])


class Killed(BaseException):
    """Ends a run at once: nothing is saved on the way out."""


@pytest.mark.parametrize("step", [SPLAT_STEPS + STEPS - 1, SPLAT_STEPS + STEPS, SPLAT_STEPS + STEPS + 2])
def test_a_killed_edit_goes_on_to_the_very_same_splats(material, run, tmp_path, step):
    options = {"prompt": BLUE, "steps_per_save": 1}
    data, prior = material / "posed", material / "prior"
    unbroken = train(tiny_config(data, prior, tmp_path / "unbroken", **options))
    config = tiny_config(data, prior, tmp_path / "killed", **options)
    observe = module.PhasedTrainer._observe

    def kill(self, at: int) -> None:
        observe(self, at)
        if at == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module.PhasedTrainer, "_observe", kill)
        train(config)
    folder = config.get_base_dir()
    assert not (folder / "edits.json").exists()
    assert go_on(folder) == folder
    assert not differs(read_run(unbroken), read_run(folder)).any()
    for name in ("embedding.safetensors", "edits.json", "edited.png", "views.png"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    # A finished run only writes its outputs again.
    (folder / "edited.png").unlink()
    go_on(folder)
    assert (folder / "edited.png").read_bytes() == (unbroken / "edited.png").read_bytes()
    assert load_edits(folder / "edits.json") == load_edits(unbroken / "edits.json")


def test_ctrl_c_while_views_are_generated_stops_and_names_the_command_that_goes_on(run, edited, tmp_path, capfd):
    import os
    import signal

    from invert3d_ns.methods.edit_phase import EditPhase

    prepare = EditPhase.prepare

    def interrupted(self, progress, should_stop):
        os.kill(os.getpid(), signal.SIGINT)
        prepare(self, progress, should_stop)

    config = edit(run, tmp_path, prompt=BLUE)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(EditPhase, "prepare", interrupted)
        train(config)
    folder = config.get_base_dir()
    assert exit_.value.code == 130
    text = capfd.readouterr().out.replace("\n", "")
    assert f"ns-train invert3d-edit --load-config {folder / 'config.yml'}" in text
    go_on(folder)
    assert not differs(read_run(edited), read_run(folder)).any()


def test_stopping_in_the_middle_of_the_fit_and_going_on(run, edited, tmp_path):
    folder = train(edit(run, tmp_path, prompt=BLUE, max_num_iterations=2))
    assert not (folder / "edits.json").exists()
    second = train(edit(run, tmp_path / "more", prompt=BLUE, load_dir=folder / "nerfstudio_models"))
    assert not differs(read_run(edited), read_run(second)).any()
