"""Models of nerfstudio's radiance fields (nerfacto and its relatives), loaded from runs without their images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invert3d_ns import compat
from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.runs import CLASS, last_checkpoint, run_settings

if TYPE_CHECKING:
    from nerfstudio.models.base_model import Model, ModelConfig

_MODEL = "_model."
"""Where a pipeline's checkpoint keeps its model."""
_SPLATS = "gauss_params."
_METRIC = "lpips."
"""The metric that models keep in their checkpoints, weights and all."""
_NOT_LEARNED = {"device_indicator_param"}
_ANOTHER = "give a run of a method that is installed here"


def is_radiance_run(path: Path | str) -> bool:
    """Whether a run is of a radiance field: its last checkpoint holds a model and no splats, and its settings name one.

    Args:
        path: the run's folder, or the ``config.yml`` in it.

    Raises:
        InputError: there is no checkpoint, or it cannot be read.
    """
    folder = _folder(path)
    names = [key.removeprefix(_MODEL) for key in last_checkpoint(folder)["pipeline"] if key.startswith(_MODEL)]
    splats = any(name.removeprefix("module.").startswith(_SPLATS) for name in names)
    return bool(names) and not splats and CLASS in _model_settings(run_settings(folder))


def load_radiance_model(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """The model of a run of a radiance field, for inference, with the tensors of its last checkpoint.

    Needs nothing of the run's data. Unlike nerfstudio's commands it does not run what ``config.yml`` says: of that,
    the plain numbers, words and lists are set on a copy of the settings of an installed method, whose class must be
    the one that the file names. The scene's box and the number of images are those that the tensors have.

    Args:
        path: the run's folder, or the ``config.yml`` in it.
        device: where the model shall be.

    Raises:
        InputError: the run's method is not installed here, its settings do not fit its checkpoint, it needs
            tiny-cuda-nn, which is not here, or its tensors are damaged.
    """
    from nerfstudio.data.scene_box import SceneBox

    folder = _folder(path)
    settings = run_settings(folder)
    state, step = _model_state(folder)
    config = _model_config(folder, settings)
    _choose_implementation(folder, config, state)
    try:
        with compat.without_lpips(), torch.random.fork_rng(devices=[]):
            model: Model = config.setup(
                scene_box=SceneBox(_box(state)),
                num_train_data=_images(state),
                metadata={},
                device=device,
                grad_scaler=None,
                seed_points=None,
            )
    except Exception as error:  # whatever a method raises whose settings are damaged, or that needs its data
        raise InputError(
            f"the model of {folder} cannot be built from its config.yml and checkpoint alone ({_reason(error)}); give "
            "the images that it was trained on instead"
        ) from error
    try:
        model.update_to_step(step)  # some grow while they train
        missing, unknown = model.load_state_dict(state, strict=False)
    except Exception as error:  # tensors of other shapes, and values that are none
        raise _misfit(folder, _reason(error, last=True)) from error
    missing = [name for name in missing if name not in _NOT_LEARNED]
    if missing or unknown:
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise _misfit(folder, what)
    return model.to(device).eval().requires_grad_(False)


def _folder(path: Path | str) -> Path:
    path = Path(path)
    return path if path.is_dir() else path.parent


def _model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's model as plain data; empty where there are none."""
    pipeline = settings.get("pipeline")
    model = pipeline.get("model") if isinstance(pipeline, dict) else None
    return model if isinstance(model, dict) else {}


def _model_config(folder: Path, settings: Mapping[str, Any]) -> ModelConfig:
    """A copy of the settings of the installed method whose model a run has, with the run's own numbers."""
    from nerfstudio.configs.method_configs import all_methods

    given = _model_settings(settings)
    own = all_methods.get(settings.get("method_name", ""))
    for method in (own, *all_methods.values()):
        usual = getattr(getattr(method, "pipeline", None), "model", None)  # methods to install have none
        if usual is None or _name(type(usual)) != given.get(CLASS):
            continue
        if given.get("_target", f"name:{_name(usual._target)}") != f"name:{_name(usual._target)}":
            continue
        config = copy.deepcopy(usual)
        _set_plain(folder, config, given)
        return config
    raise InputError(
        f"{folder} is of the method {settings.get('method_name')!r}, whose model ({given.get(CLASS)}) no installed "
        f"method of nerfstudio has; install it, or {_ANOTHER}"
    )


def _set_plain(folder: Path, config: Any, given: Mapping[str, Any]) -> None:
    """Set the fields of a dataclass, in place, for which plain data is given; what is gone or new keeps its default."""
    for entry in fields(config):
        if entry.name not in given or entry.name == "_target":
            continue
        value, usual = given[entry.name], getattr(config, entry.name)
        if is_dataclass(usual):
            if not isinstance(value, dict) or value.get(CLASS) != _name(type(usual)):
                found = value.get(CLASS) if isinstance(value, dict) else value
                raise InputError(f"{folder} has {found} for {entry.name}, which its method has not; {_ANOTHER}")
            _set_plain(folder, usual, value)
        elif not callable(usual) and _is_plain(value):
            object.__setattr__(config, entry.name, tuple(value) if isinstance(usual, tuple) else value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return CLASS not in value and all(map(_is_plain, value.values()))
    return (
        all(map(_is_plain, value))
        if isinstance(value, list)
        else isinstance(value, (bool, int, float, str, type(None)))
    )


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _model_state(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a run's model, without those of its metrics, and the step at which they were saved.

    Raises:
        InputError: one is no tensor, or has values that are not finite.
    """
    saved = last_checkpoint(folder)
    step = saved["step"] if isinstance(saved.get("step"), int) else 0
    state = {key.removeprefix(_MODEL): value for key, value in saved["pipeline"].items() if key.startswith(_MODEL)}
    if state and all(name.startswith("module.") for name in state):  # trained on several GPUs
        state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(_METRIC)}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"the radiance field of {folder} is damaged: {name} has values that are not finite; train it again, or "
                "remove its last checkpoint if it has earlier ones"
            )
    return state, step


def _choose_implementation(folder: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Build what the checkpoint is of: the settings name what was asked for, and nerfstudio falls back."""
    from nerfstudio.utils.external import TCNN_EXISTS

    tiny_cuda = any(name.endswith("tcnn_encoding.params") or name.endswith("model.params") for name in state)
    if tiny_cuda and not TCNN_EXISTS:
        raise InputError(
            f"{folder} was trained with tiny-cuda-nn, which is not here and needs CUDA; install it, or train the run "
            "with --pipeline.model.implementation torch"
        )
    if hasattr(config, "implementation"):
        config.implementation = "tcnn" if tiny_cuda else "torch"  # type: ignore[attr-defined]


def _box(state: Mapping[str, Tensor]) -> Tensor:
    """The box [2 3] of the scene: the field's; that of nerfstudio's scenes where the field keeps none."""
    for name, value in state.items():
        if name.endswith("aabb") and isinstance(value, Tensor) and value.numel() == 6:
            return value.detach().float().reshape(2, 3).clone()
    return torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def _images(state: Mapping[str, Tensor]) -> int:
    """How many images a run was trained on: what is learned for each of them has that many rows."""
    for name, value in state.items():
        if ("embedding_" in name or name.endswith("pose_adjustment")) and isinstance(value, Tensor) and value.ndim == 2:
            return len(value)
    return 1


def _misfit(folder: Path, reason: str) -> InputError:
    return InputError(
        f"the checkpoint of {folder} does not fit its config.yml ({reason}); it is of another run, or of another "
        "version of its method"
    )


def _reason(error: Exception, *, last: bool = False) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if last else 0].rstrip(".")
