"""Splats of a finished or unfinished run of any splatting method of nerfstudio."""

from __future__ import annotations

from pathlib import Path

import torch

from invert3d_ns import compat
from invert3d_ns.errors import InputError
from invert3d_ns.scenes.ply import SH_C0, SplatCloud

_PREFIX = "_model.gauss_params."


def read_run(path: Path | str) -> SplatCloud:
    """The splats in the last checkpoint of a run, in the run's own frame: the object frame for this package's methods.

    Needs neither the run's data nor its configuration.

    Args:
        path: the run's folder, or the ``config.yml`` in it.

    Raises:
        InputError: there is no checkpoint, or it holds no splats.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a run's folder, its config.yml, or a .ply file")
    folder = path if path.is_dir() else path.parent
    checkpoints = sorted((folder / "nerfstudio_models").glob("step-*.ckpt"))
    if not checkpoints:
        raise InputError(f"{folder} has no checkpoint in nerfstudio_models; give the folder of a run, or a .ply file")
    compat.allow_numpy_scalars_in_checkpoints()
    try:
        state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)["pipeline"]
    except Exception as error:  # torch raises half a dozen unrelated types here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{checkpoints[-1]} cannot be read ({reason}); resume the run to write it again") from error
    values = {key.split(_PREFIX)[1]: value.float() for key, value in state.items() if _PREFIX in key}
    if not {"means", "scales", "quats", "opacities", "features_dc", "features_rest"} <= values.keys():
        raise InputError(f"{folder} is not a run of a splatting method; give one, or a .ply file")
    if values["features_rest"].shape[1] == 0:
        # Splatfacto without harmonics keeps logits of colours.
        values["features_dc"] = (values["features_dc"].sigmoid() - 0.5) / SH_C0
    elif not values["features_rest"].any():
        values["features_rest"] = values["features_rest"][:, :0]
    values["quats"] = torch.nn.functional.normalize(values["quats"], dim=-1)
    return SplatCloud(**values)
