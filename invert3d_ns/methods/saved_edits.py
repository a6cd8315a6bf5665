"""Scenes that were edited in a browser as runs: the same that ``ns-train invert3d-edit`` leaves, written and read."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.editing.edit import Edit, load_edits, save_edits
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.editing.sources import EDITS
from invert3d_ns.live.history import Version
from invert3d_ns.live.host import SavedRun
from invert3d_ns.methods import edit_report
from invert3d_ns.methods.edit_phase import EditPhase
from invert3d_ns.runs.checkpoints import (
    FORMAT_VERSION,
    checkpoint_path,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from invert3d_ns.runs.report import METRICS, write_metrics
from invert3d_ns.runs.resume import require_plain, scene_fingerprint
from invert3d_ns.runs.run_folder import claim_folder
from invert3d_ns.runs.turntable import write_turn
from invert3d_ns.scenes.cloud import SplatCloud, unit_quaternions
from invert3d_ns.scenes.runs import CHECKPOINTS, is_run, run_settings
from invert3d_ns.words.embedding import EMBEDDING, ObjectEmbedding

if TYPE_CHECKING:
    from invert3d_ns.methods.invert3d import InversionPipeline

METHOD = "invert3d-edit"
"""The method that saved runs are of."""
_NEW_EDITS = "new_edits.json"
"""The edits of a run whose scene was under others before; the file of all of them is the whole of no edit."""


class KeepsEditedRuns:
    """Makes a pipeline a :class:`~invert3d_ns.live.host.KeepsRuns`; mixed into the one that carries out edits."""

    def save_run(self, version: Version, made: Any, *, unasked: bool = False) -> Path:
        """Write the run of a version; see :meth:`~invert3d_ns.live.host.KeepsRuns.save_run`."""
        return write_run(cast("InversionPipeline", self), version, made, unasked=unasked)

    def saved_runs(self) -> list[SavedRun]:
        """The edited runs beside, see :meth:`~invert3d_ns.live.host.KeepsRuns.saved_runs`."""
        return find_runs(cast("InversionPipeline", self))

    def open_run(self, folder: Path) -> Version:
        """Read such a run, see :meth:`~invert3d_ns.live.host.KeepsRuns.open_run`."""
        return read_version(cast("InversionPipeline", self), folder)


def write_run(pipeline: InversionPipeline, version: Version, made: Any, *, unasked: bool) -> Path:
    """Write a version of a pipeline's scene as a finished run of :data:`METHOD`, beside the run that it came from.

    It holds what such a run on the version's origin would: settings, checkpoint, edits, words, a picture, figures.

    Args:
        made: the :class:`~invert3d_ns.editing.edit_sequence.EditSequence` that made the version.
        unasked: noted in the figures.

    Raises:
        InputError: the scene is of no run, or the run cannot be written.
    """
    own, source = pipeline.output_folder, version.origin.source
    if own is None or source is None or not (own / "config.yml").is_file():
        raise InputError("this scene belongs to no run with a config.yml, so there is no place to save it beside")
    folder = _claim(own)
    try:
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            config = _settings(own, source, folder, version)
            _write(pipeline, config, version, made, temporary, folder)
            write_metrics(temporary, {"unasked": unasked, "from": str(own)}, section="saved")
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()  # if it is new and empty
        raise
    return folder


def _claim(own: Path) -> Path:
    """Make a folder for a run beside another one, or within it where none can be made beside."""
    name, beside = datetime.now().strftime("%Y-%m-%d_%H%M%S"), _experiment(own) / METHOD
    within = own.absolute() / METHOD
    if beside.parent.name:
        with contextlib.suppress(InputError):
            return beside / claim_folder(beside, name)
    return within / claim_folder(within, name)


def _write(pipeline: InversionPipeline, config: Any, version: Version, made: Any, into: Path, folder: Path) -> None:
    """Write all files of a run that shall lie in ``folder`` into another folder."""
    origin, new = version.origin, list(version.own_edits)
    (into / "config.yml").write_text(yaml.dump(config), encoding="utf-8")
    scene = replace(config.pipeline.datamanager.dataparser, data=origin.source).setup()
    outputs = scene.get_dataparser_outputs("train")
    outputs.save_dataparser_transform(into / "dataparser_transforms.json")
    phase = EditPhase.finished(pipeline, new, before=list(origin.edits), start=origin.snapshot, sequence=made)
    settings = {
        "run": {"--machine.seed": config.machine.seed, "the scene (--data)": scene_fingerprint(outputs)},
        phase.name: phase.settings_key(),
    }
    state = {
        "step": phase.steps - 1,
        "pipeline": _pipeline_state(pipeline, version, folder),
        "optimizers": {},
        "schedulers": {},
        "scalers": torch.amp.GradScaler(enabled=config.mixed_precision or config.use_grad_scaler).state_dict(),  # type: ignore[attr-defined]
        "run": {
            "version": FORMAT_VERSION,
            "phase": phase.name,
            "done": phase.steps,
            "finished": True,
            "settings": require_plain(settings),
            "seconds": {},
            "state": phase.state_dict(),
        },
    }
    write_checkpoint(state, checkpoint_path(into / CHECKPOINTS, phase.steps - 1))
    edit_report.write_outputs(pipeline, phase, cast(Any, SimpleNamespace(folder=into, seconds={}, seed=0)))
    write_turn(into, version.snapshot.to(pipeline.device), aloud=False)
    if origin.edits:
        save_edits(new, into / _NEW_EDITS, pipeline.embedding())


def _settings(own: Path, source: Path, folder: Path, version: Version) -> Any:
    """The configuration of ``ns-train invert3d-edit --data SOURCE --pipeline.edit.edits ...`` in ``folder``."""
    config: Any = yaml.load((own / "config.yml").read_text(encoding="utf-8"), Loader=yaml.Loader)
    output_dir, experiment, method, timestamp = folder.parents[2], *folder.parts[-3:]
    named = {"output_dir": output_dir, "experiment_name": experiment, "method_name": method, "timestamp": timestamp}
    nothing = dict.fromkeys(("prompt", "load_config", "load_dir", "load_checkpoint", "load_step"))
    for name, value in {**named, **nothing, "data": source.absolute()}.items():
        setattr(config, name, value)
    pipeline = config.pipeline
    pipeline.datamanager.data = pipeline.datamanager.dataparser.data = source.absolute()
    pipeline.datamanager.dataparser.front = 0.0  # the run's splats are turned already
    pipeline.model.prompt, pipeline.embedding = None, None
    pipeline.steps = pipeline.splat_steps = 0
    pipeline.edit_options = EditOptions(edits=folder / (_NEW_EDITS if version.origin.edits else EDITS))
    return config


def _pipeline_state(pipeline: InversionPipeline, version: Version, folder: Path) -> dict[str, Any]:
    """What the pipeline's checkpoint would hold if its scene were a version's, whatever of it is being shown."""
    with pipeline.lock:
        shown = pipeline.splats()
        pipeline.set_splats(version.snapshot)
        held: dict[str, Any] = pipeline.state_dict()
        state = {key: value.clone() if torch.is_tensor(value) else value for key, value in held.items()}
        pipeline.set_splats(shown)
    edits = [edit.to_dict() for edit in version.edits]
    extra: dict[str, Any] = held["_extra_state"]
    return {**state, "_extra_state": {**extra, "edits": edits, "folder": str(folder.absolute())}}


def _experiment(run: Path) -> Path:
    """The folder of all runs on the scene of a run: two above, or, for a run that was moved, the one above."""
    run = run.absolute()
    is_in_place = run_settings(run).get("method_name") == run.parent.name
    return run.parent.parent if is_in_place else run.parent


def find_runs(pipeline: InversionPipeline) -> list[SavedRun]:
    """The edited runs of a pipeline's object that lie beside its own run or within it, the latest first; its own is
    left out.
    """
    own = pipeline.output_folder
    if own is None or not own.is_dir() or not pipeline.knows_words():
        return []
    words, splats, found = pipeline.embedding().vectors, len(pipeline.splats()), []
    for folder in {*_experiment(own).glob("*/*"), *own.absolute().glob(f"{METHOD}/*")}:
        if folder.name.startswith(".") or not is_run(folder) or folder.absolute() == own.absolute():
            continue
        with contextlib.suppress(InputError, OSError, ValueError, KeyError, TypeError):
            figures = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            same = torch.equal(ObjectEmbedding.load(folder / EMBEDDING).vectors, words)
            if figures["edit"]["splats"] == splats and same:
                labels = tuple(edit.label for edit in load_edits(folder / EDITS))
                unasked = bool(figures.get("saved", {}).get("unasked"))
                found.append(((folder / EDITS).stat().st_mtime_ns, SavedRun(folder, labels, unasked)))
    return [run for _, run in sorted(found, key=lambda each: (each[0], each[1].folder.name), reverse=True)]


def read_version(pipeline: InversionPipeline, folder: Path) -> Version:
    """The scene that the last checkpoint of a run holds, as a version of a pipeline's.

    Raises:
        InputError: there is no checkpoint, it is damaged, or its words or splats are not the pipeline's.
    """
    steps = list_checkpoints(folder / CHECKPOINTS)
    if not steps:
        raise InputError(f"{folder} has no checkpoint in {CHECKPOINTS}; open another run")
    state = read_checkpoint(steps[max(steps)])
    saved, now = state["pipeline"], pipeline.splats()
    words = saved.get("words")
    if words is None or pipeline.words is None or not torch.equal(words.cpu(), pipeline.words.detach().cpu()):
        raise InputError(f"{folder} has other words than this scene; open it by itself with ns-viewer --load-config")
    groups = {name: saved[f"_model.gauss_params.{name}"].cpu() for name in now.tensors()}
    rows = saved["_extra_state"]["object"]
    groups["features_rest"] = groups["features_rest"][:, : now.features_rest.shape[1]]
    groups["quats"] = unit_quaternions(groups["quats"])
    cloud = SplatCloud(**groups, rasterize_mode=now.rasterize_mode)
    cloud = cloud if rows is None else cloud.select(rows)
    if len(cloud) != len(now):
        raise InputError(f"{folder} has {len(cloud)} splats, this scene {len(now)}; open it by itself with ns-viewer")
    edits = tuple(Edit.from_dict(entry) for entry in saved["_extra_state"]["edits"])
    return Version(cloud, edits, _base(folder, state["run"], edits), source=folder)


def _base(folder: Path, run: dict[str, Any], edits: tuple[Edit, ...]) -> Version | None:
    """What the latest edits of a run were made on, if that is a run which is there; None otherwise."""
    settings = run_settings(folder)
    pipeline, data = settings.get("pipeline", {}), settings.get("data")
    only_edits = run["phase"] == EditPhase.name and pipeline.get("steps") == pipeline.get("splat_steps") == 0
    if not only_edits or not data or pipeline.get("embedding") or not is_run(Path(data)):
        return None
    before = tuple(Edit.from_dict(entry) for entry in run["state"]["before"])
    if edits[: len(before)] != before:
        return None
    return Version(SplatCloud(**run["state"]["start"]), before, source=Path(data))
