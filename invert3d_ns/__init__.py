"""Edit and create 3D with words, as nerfstudio methods.

What a script needs is here; each name is imported when it is first used, so that importing the package costs nothing.

Example:
    >>> import invert3d_ns
    >>> prior = invert3d_ns.load_prior("bundled", "cpu")
    >>> conditions = invert3d_ns.Conditions.of_prompt(prior, "a red car")
    >>> conditions.guidance_scale == prior.info.guidance_scale
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Conditions": "prior.conditions",
    "Edit": "editing.edit",
    "InputError": "base.errors",
    "MultiViewPrior": "prior.multiview",
    "ObjectEmbedding": "words.embedding",
    "PriorOptions": "prior.settings",
    "Region": "editing.edit",
    "SceneEditConfig": "editing.scene_edit_config",
    "SceneEditor": "editing.scene_editor",
    "SplatCloud": "scenes.cloud",
    "edited_views": "editing.views",
    "fit_splats": "scenes.fitting",
    "generate_views": "words.views",
    "load_clip": "alignment.checkpoints",
    "load_edits": "editing.edit",
    "load_prior": "prior.checkpoints",
    "parse_edit": "editing.edit",
    "read_object": "scenes.assets",
    "read_run": "scenes.runs",
    "read_splat_file": "scenes.splat_files",
    "render_orbit": "scenes.rendering",
    "render_splats": "scenes.rendering",
    "save_edits": "editing.edit",
    "write_splat_file": "scenes.splat_files",
    "write_splats": "scenes.ply",
}
"""Public names and the modules of this package that they live in."""

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.base.errors import InputError
    from invert3d_ns.editing.edit import Edit, Region, load_edits, parse_edit, save_edits
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.editing.views import edited_views
    from invert3d_ns.prior.checkpoints import load_prior
    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.settings import PriorOptions
    from invert3d_ns.scenes.assets import read_object
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.scenes.fitting import fit_splats
    from invert3d_ns.scenes.ply import write_splats
    from invert3d_ns.scenes.rendering import render_orbit, render_splats
    from invert3d_ns.scenes.runs import read_run
    from invert3d_ns.scenes.splat_files import read_splat_file, write_splat_file
    from invert3d_ns.words.embedding import ObjectEmbedding
    from invert3d_ns.words.views import generate_views


def __getattr__(name: str) -> Any:
    """The public name ``name``, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
