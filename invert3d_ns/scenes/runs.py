"""Splats of a finished or unfinished run of any splatting method of nerfstudio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from invert3d_ns import compat
from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.cloud import RasterizeMode, SplatCloud, unit_quaternions
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rasterization import SH_C0

CHECKPOINTS = "nerfstudio_models"
"""The folder of checkpoints in a run's folder."""
_PREFIX = "_model.gauss_params."
OWN = "_of_each"
"""What the name of a group ends with that holds, for each of several objects [N K ...], what it has for itself beside
what all share."""
_MOST_HARMONICS = 15
"""Coefficients of degrees 1 to 3, the highest that splat files hold."""
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
"""What PyYAML raises beside its own errors."""
CLASS = "class"
"""The key under which :func:`run_settings` keeps the name of a configuration's class."""


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run of nerfstudio: its folder, or the ``config.yml`` in it.

    It has checkpoints, or settings that name its method; other programs have files of that name, too.
    """
    folder = path.parent if path.name == "config.yml" else path
    try:
        if (folder / CHECKPOINTS).is_dir():
            return True
        return re.search(rb"^method_name:", (folder / "config.yml").read_bytes(), re.MULTILINE) is not None
    except OSError:  # there is none, nobody may look, or no folder can have that name
        return False


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by step; files of other names, such as copies, are not among them."""
    found = ((re.fullmatch(r"step-(\d+)\.ckpt", path.name), path) for path in sorted(folder.glob("step-*.ckpt")))
    return {int(match[1]): path for match, path in found if match}


@dataclass(frozen=True)
class RunRecord:
    """What the last checkpoint of a run says of it."""

    phase: str | None = None
    """The phase that it has reached; None in runs of other methods."""
    finished: bool = True
    """Whether it has taken all steps of that phase."""
    edits: tuple[dict[str, Any], ...] | None = None
    """The edits that the splats are under, oldest first, as plain data; None where it says nothing of edits."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What the run's words were made for, as plain data."""
    prompts: tuple[str, ...] = ()
    """What its objects are, where it holds several."""
    shown: int = 0
    """Which of them is the run's, where one is asked for."""


def run_settings(path: Path | str) -> dict[str, Any]:
    """The settings that a run was started with, as plain nested dictionaries; empty where there are none to read.

    nerfstudio writes its configurations as YAML that makes Python objects when it is loaded. Here nothing of it is run:
    an object becomes the dictionary of its fields, its class's name under :data:`CLASS`.

    Args:
        path: the run's folder, or the ``config.yml`` in it.
    """
    path = Path(path)
    try:
        text = (path / "config.yml" if path.is_dir() else path).read_text(encoding="utf-8")
        settings = yaml.load(text, Loader=_PlainLoader)
    except (*_UNREADABLE, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


class NoSplats(InputError):
    """A run holds no splats: it is of another kind of method."""


class _PlainLoader(yaml.SafeLoader):
    """Reads Python objects as what they are made of."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {CLASS: suffix.partition(":")[2], **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        return str(Path(*map(str, items))) if suffix.endswith("Path") and items else items
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) and node.value else suffix


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_run_object(path: Path | str) -> SplatCloud:
    """The splats of a run, in the object frame: :func:`read_run`, brought there if another method's.

    Raises:
        InputError: see :func:`read_run`.
    """
    return read_moved_run(path)[0]


def read_moved_run(path: Path | str) -> tuple[SplatCloud, Float[Tensor, "4 4"]]:
    """:func:`read_run_object`, and the similarity from the run's own frame that was applied.

    Raises:
        InputError: see :func:`read_run`.
    """
    cloud = read_run(path)
    if str(run_settings(path).get(CLASS, "invert3d_ns")).startswith("invert3d_ns"):
        return cloud, torch.eye(4)
    return to_object_frame(cloud, "z")


def read_run(path: Path | str) -> SplatCloud:
    """The splats in the last checkpoint of a run, in the run's own frame: the object frame for this package's methods.

    Needs neither the run's data nor its configuration. Of a run that holds several objects it is the one that the run
    says is shown, else the first, with a warning.

    Args:
        path: the run's folder, or the ``config.yml`` in it.

    Raises:
        NoSplats: the checkpoint holds none.
        InputError: there is no checkpoint, or it cannot be read.
    """
    objects = read_run_objects(path)
    if len(objects) == 1:
        return objects[0]
    record = read_run_record(path)
    shown = record.shown if 0 <= record.shown < len(objects) else 0
    named = f", {record.prompts[shown]!r}," if shown < len(record.prompts) else ""
    warn(
        f"{path} holds {len(objects)} objects, of which number {shown + 1}{named} is taken; write others, or what lies "
        "between, to files with invert3d export --objects or --blend"
    )
    return objects[shown]


def read_run_objects(path: Path | str) -> tuple[SplatCloud, ...]:
    """All objects in the last checkpoint of a run, aligned: one, unless a method makes several.

    Raises:
        InputError: see :func:`read_run`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a run's folder, its config.yml, or a splat file")
    folder = path if path.is_dir() else path.parent
    state = last_checkpoint(folder)["pipeline"]
    values = {key.split(_PREFIX)[1]: value.float() for key, value in state.items() if _PREFIX in key}
    if not {"means", "scales", "quats", "opacities", "features_dc", "features_rest"} <= values.keys():
        command = quoted_command("invert3d", "export", folder, "--out", "splats.ply")
        raise NoSplats(
            f"{folder} is not a run of a splatting method; give one, or a splat file, which a run of a radiance field "
            f"gives: {command}"
        )
    own = {name: values.pop(name + OWN) for name in list(values) if name + OWN in values}
    if values["features_rest"].shape[1] == 0:
        # Splatfacto without harmonics keeps logits of colors.
        values["features_dc"] = (values["features_dc"].sigmoid() - 0.5) / SH_C0
    count = own["means"].shape[1] if own else 1
    objects = [
        {name: value + own[name][:, i] if own else value for name, value in values.items()} for i in range(count)
    ]
    if not any(bool(each["features_rest"].any()) for each in objects):
        objects = [{**each, "features_rest": each["features_rest"][:, :0]} for each in objects]
    if values["features_rest"].shape[1] > _MOST_HARMONICS:
        warn(f"{folder} has spherical harmonics of a degree above 3, which are left out")
    mode = _rasterize_mode(folder, state.get("_model._extra_state"))
    found = []
    for each in objects:
        each["features_rest"] = each["features_rest"][:, :_MOST_HARMONICS]
        each["quats"] = unit_quaternions(each["quats"])
        found.append(SplatCloud(**each, rasterize_mode=mode))
    return tuple(found)


def read_run_record(path: Path | str) -> RunRecord:
    """What the last checkpoint of a run says of it; what it left in other files does not count.

    Args:
        path: the run's folder, or the ``config.yml`` in it.

    Raises:
        InputError: there is no checkpoint, or it cannot be read.
    """
    path = Path(path)
    state = last_checkpoint(path if path.is_dir() else path.parent)
    extra, run = state["pipeline"].get("_extra_state"), state.get("run")
    extra, run = (value if isinstance(value, dict) else {} for value in (extra, run))
    edits = tuple(extra["edits"]) if "edits" in extra else None
    return RunRecord(
        run.get("phase"),
        bool(run.get("finished", True)),
        edits,
        extra.get("origin") or {},
        tuple(map(str, extra.get("prompts") or ())),
        int(extra.get("shown") or 0),
    )


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """What the last checkpoint in a run's folder holds, on the CPU; ``pipeline`` is a dictionary.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    if not checkpoints:
        raise InputError(f"{folder} has no checkpoint in {CHECKPOINTS}; give the folder of a run, or a splat file")
    path = checkpoints[max(checkpoints)]
    compat.allow_numpy_scalars_in_checkpoints()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state["pipeline"], dict):
            raise KeyError("pipeline")
    except Exception as error:  # torch raises half a dozen unrelated types here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); resume the run to write it again") from error
    return state


def _rasterize_mode(folder: Path, extra_state: Any) -> RasterizeMode:
    """How a run draws its splats: as its checkpoint says, or, in other methods' runs, its settings."""
    model = extra_state
    if model is None:
        pipeline = run_settings(folder).get("pipeline")
        model = pipeline.get("model") if isinstance(pipeline, dict) else None
    antialiased = isinstance(model, dict) and model.get("rasterize_mode") == "antialiased"
    return "antialiased" if antialiased else "classic"
