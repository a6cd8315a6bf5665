"""What nerfstudio 1.1.5 needs on today's torch and on machines without a GPU, one function for each obstacle.

:func:`install_remedies` runs when nerfstudio imports the plugin, before any of its commands builds a configuration.
Everything here either does nothing where CUDA exists or fixes a fault that GPUs have too. Obstacles inside a splatting
model (``.cuda()`` in its forward pass, LPIPS weights fetched at construction, gsplat's CUDA extension) are met in
:mod:`invert3d_ns.scenes.splats` instead.

Two obstacles cannot be met by a plugin: ``ns-export`` imports open3d, which needs libusb and libGL, before it looks for
plugins (nerfstudio issues 2333 and 3712; ``invert3d export`` needs neither), and the default device of nerfstudio's own
methods.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch


def install_remedies() -> None:
    """Install every remedy. Cheap, and harmless when repeated."""
    allow_numpy_scalars_in_checkpoints()
    provide_ffmpeg_when_nerfstudio_asks()


def device_type() -> Literal["cuda", "cpu"]:
    """The device that a method should train on by default: nerfstudio's own default is always ``cuda`` (nerfstudio
    issue 2993).
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let ``torch.load`` read nerfstudio's checkpoints, whose schedulers hold numpy scalars (nerfstudio issue 3683,
    pull 3702).

    Since torch 2.6 ``torch.load`` unpickles nothing but tensors and plain types by default. Without this, resuming,
    ns-eval, ns-render and ns-viewer fail on every machine. The few types are named; the protection itself stays on.
    """
    import numpy as np

    core = np._core if hasattr(np, "_core") else np.core  # type: ignore[attr-defined]
    scalar = core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    torch.serialization.add_safe_globals([scalar, np.dtype, *dtypes])
    # Checkpoints written under the other major version of numpy name the same function differently.
    torch.serialization.add_safe_globals(
        [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]  # type: ignore[list-item]
    )


@contextmanager
def without_lpips() -> Iterator[None]:
    """Let models of nerfstudio be built here without LPIPS, which downloads AlexNet's weights at construction.

    They import it in the function that builds them, and get a module of nothing.
    """
    from torchmetrics.image import lpip

    class Absent(torch.nn.Module):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__()

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = Absent  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original  # type: ignore[misc]


def provide_ffmpeg_when_nerfstudio_asks() -> None:
    """Make nerfstudio's check for ffmpeg find one (nerfstudio issues 1382 and 2427).

    ``ns-render`` exits without an ``ffmpeg`` on the PATH, even when it only writes images.
    """
    from nerfstudio.utils import install_checks

    check = install_checks.check_ffmpeg_installed
    if getattr(check, "_invert3d", False):
        return

    @functools.wraps(check)
    def check_ffmpeg_installed() -> None:
        provide_ffmpeg()
        check()

    check_ffmpeg_installed._invert3d = True  # type: ignore[attr-defined]
    install_checks.check_ffmpeg_installed = check_ffmpeg_installed


def provide_ffmpeg() -> None:
    """Put the ffmpeg binary that imageio-ffmpeg carries on this process's PATH, under its usual name, if there is none
    yet.
    """
    if shutil.which("ffmpeg") is not None:
        return
    import atexit
    import tempfile

    import imageio_ffmpeg

    try:
        binary = Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # no wheel with a binary for this platform: let the caller report it
        return
    folder = Path(tempfile.mkdtemp(prefix="invert3d-ffmpeg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    name = folder / ("ffmpeg.exe" if sys.platform == "win32" else "ffmpeg")
    try:
        name.symlink_to(binary)
    except OSError:  # symbolic links need a privilege on Windows
        shutil.copy2(binary, name)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(folder)])


def allow_spiral_for_full_images() -> None:
    """Let ``ns-render spiral`` accept a datamanager of full images (nerfstudio issues 2631 and 3023).

    Its assertion lists the ray-based datamanagers only, so the command fails for every splatting method, on GPUs too.
    Called when a datamanager is built: by then the command's module is complete, which it is not when the plugin is
    imported.
    """
    render: Any = sys.modules.get("nerfstudio.scripts.render")
    if render is None or isinstance(getattr(render, "RandomCamerasDataManager", None), tuple):
        return
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager

    render.RandomCamerasDataManager = (render.RandomCamerasDataManager, FullImageDatamanager)
    level_spirals(render)


def level_spirals(render: Any) -> None:
    """Let ``ns-render spiral`` keep the horizon level and the object in the middle.

    Nerfstudio hands the camera's backward axis, which is in the world's frame, to its camera-frame spiral as what is
    up there: right only for cameras that look along -y. And it aims at a point as many world units away as the focal
    length has pixels, so that the object drifts out of the frame. Here it is given the camera turned to look along -y,
    with its distance from the object for a focal length, and what it makes of that is turned back.

    Args:
        render: the module of the command.
    """
    original = render.get_spiral_path
    if getattr(original, "_invert3d", False):
        return

    @functools.wraps(original)
    def get_spiral_path(camera: Any, *args: Any, **kwargs: Any) -> Any:
        pose = camera.camera_to_worlds[0].float()
        angle = torch.atan2(pose[0, 2], pose[1, 2])
        turn = torch.eye(3).to(pose)
        turn[0, 0] = turn[1, 1] = angle.cos()
        turn[0, 1], turn[1, 0] = -angle.sin(), angle.sin()
        turned = camera[:]
        turned.camera_to_worlds = (turn @ pose)[None]
        turned.fx = turned.fy = pose[:, 3].norm().expand(1, 1)
        path = original(turned, *args, **kwargs)
        path.camera_to_worlds = turn.T @ path.camera_to_worlds
        path.fx, path.fy = (focal[:1].expand_as(path.fx).clone() for focal in (camera.fx, camera.fy))
        return path

    get_spiral_path._invert3d = True  # type: ignore[attr-defined]
    render.get_spiral_path = get_spiral_path


def wrap_function(module_name: str, name: str, wrap: Callable[[Any], Any]) -> None:
    """Give ``wrap(function)`` to everybody who imports ``function`` from a module of nerfstudio. Once only.

    nerfstudio imports plugins while most modules of its commands are half done, without the function to wrap. So the
    module gets a class of its own whose property answers when the function is asked for, which Python's data model
    provides for; where the module is not imported yet, as soon as it is.
    """
    module = sys.modules.get(module_name)
    if module is None:
        if not any(isinstance(finder, _WrapLater) and finder.asks(module_name, name) for finder in sys.meta_path):
            sys.meta_path.insert(0, _WrapLater(module_name, name, wrap))
        return
    if hasattr(type(module), name):
        return

    def get(self: ModuleType) -> Any:
        if name not in self.__dict__:
            raise AttributeError(name)
        function = self.__dict__[name]
        if not getattr(function, "_invert3d", False):
            function = functools.wraps(function)(wrap(function))
            function._invert3d = True  # type: ignore[attr-defined]
            self.__dict__[name] = function
        return function

    def put(self: ModuleType, value: Any) -> None:
        self.__dict__[name] = value

    def drop(self: ModuleType) -> None:
        del self.__dict__[name]

    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {name: property(get, put, drop)})


class _WrapLater(importlib.abc.MetaPathFinder):
    """Finds one module as others do, and wraps its function before it is run; then it is done."""

    def __init__(self, module_name: str, name: str, wrap: Callable[[Any], Any]) -> None:
        self.module_name, self.name, self.wrap = module_name, name, wrap

    def asks(self, module_name: str, name: str) -> bool:
        return (module_name, name) == (self.module_name, self.name)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            wrap_function(self.module_name, self.name, self.wrap)
            run(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def check_camera_paths(check: Callable[[int, int], None]) -> None:
    """Let ``ns-render interpolate`` call ``check(cameras, steps)``, two numbers, before it makes a path of them.

    With a single held-out image it ends in "need at least one array to stack". Called when a datamanager is built, as
    :func:`allow_spiral_for_full_images` is.
    """
    render: Any = sys.modules.get("nerfstudio.scripts.render")
    path = getattr(render, "get_interpolated_camera_path", None)
    if path is None or getattr(path, "_invert3d", False):
        return

    @functools.wraps(path)
    def get_interpolated_camera_path(cameras: Any, steps: int, order_poses: bool) -> Any:
        check(len(cameras), steps)
        return path(cameras, steps=steps, order_poses=order_poses)

    get_interpolated_camera_path._invert3d = True  # type: ignore[attr-defined]
    render.get_interpolated_camera_path = get_interpolated_camera_path
