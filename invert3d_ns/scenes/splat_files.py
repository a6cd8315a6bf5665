"""Files of Gaussian splats of every kind, and of meshes that splats are made of, told apart by their endings; what is
none of them is refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.meshes.reading import READ as MESHES
from invert3d_ns.scenes.meshes.sampling import SPLATS, read_mesh
from invert3d_ns.scenes.ply import is_compressed, is_mesh, rasterize_mode, read_ply, up_axis, write_splats
from invert3d_ns.scenes.ply_file import read_header
from invert3d_ns.scenes.splat_formats import CONVERTED, read_converted, write_converted

ENDINGS = (*CONVERTED, ".ply")
"""Endings of splat files that are read and written."""
LISTED = ".ply, .compressed.ply, .spz, .splat, .ksplat or .sog"
"""The same, for messages."""
LISTED_MESHES = ".glb, .gltf, .obj, .stl, .off or a .ply with faces"
"""Meshes that are read, for messages."""

_PLY = ("a .ply", "a compressed splat .ply")
_NUMBERS = ("a binary file", "a Python pickle", "a file packed", "a JPEG")
"""What plain numbers, of files that begin with no signature, may look like by chance."""
_CONTENTS = {
    ".ply": _PLY,
    ".compressed.ply": _PLY,
    ".spz": "splats in an .spz",
    ".sog": "splats in a .sog",
    ".splat": _NUMBERS,
    ".ksplat": _NUMBERS,
    ".glb": ("a binary glTF model",),
    ".gltf": ("a glTF model", "a JSON file"),
    ".obj": ("an OBJ mesh", "a text file"),
    ".stl": ("an STL mesh", "a text file", *_NUMBERS),
    ".off": ("a text file",),
}
"""How :func:`describe_file` begins of a file that is what its ending says."""
_KINDS = {
    "a mesh": ".fbx .dae .blend .3ds .3mf .usd .usda .usdc .usdz .abc .x3d .wrl .mesh",
    "a point cloud": ".las .laz .e57 .pcd .xyz .pts .ptx .asc .drc",
    "a picture": ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .exr .heic .avif",
    "a video": ".mp4 .mov .avi .mkv .webm",
    "an archive": ".zip .7z .rar .tar .gz .tgz .bz2 .xz .zst",
    "a checkpoint": ".pt .pth .ckpt .safetensors .npz .npy .pkl",
    "a list of cameras": ".json .yml .yaml",
}
_ADVICE = {
    "a mesh": "export it as .glb",
    "a point cloud": "give the splats that were trained from it, or the folder of posed images that it came from",
    "a picture": "run `invert3d image` on photographs, or give the folder of posed images that it belongs to",
    "a video": "run `ns-process-data video` on it and give the folder that this makes",
    "an archive": "unpack it and give what is inside",
    "a checkpoint": "give the folder of the run that it belongs to",
    "a list of cameras": "give the folder that it lies in",
}


def splat_ending(path: Path) -> str | None:
    """Which of :data:`ENDINGS` a name has, in lower case; None for other names."""
    name = path.name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def is_scene_file(path: Path) -> bool:
    """Whether a name has the ending of splats or of a mesh that splats are made of."""
    return splat_ending(path) is not None or path.suffix.lower() in MESHES


def splat_stem(path: Path) -> str:
    """The name of a file without the ending of splat files, or else without its suffix."""
    ending = splat_ending(path)
    return path.name[: -len(ending)] if ending else path.stem


def read_splat_file(path: Path | str, mesh_splats: int = SPLATS) -> tuple[SplatCloud, UpAxis | None]:
    """Read splats of any kind of file, or make them of a mesh, and the axis that it says points up.

    A compressed .ply and a mesh in a .ply are told by their content, the others by their endings. An .spz and glTF are
    y-up by definition.

    Args:
        path: the file.
        mesh_splats: number of splats that are spread over a mesh.

    Raises:
        InputError: there is no such file, its content is something else than its ending says, or see
            :func:`~invert3d_ns.scenes.ply.read_splats` and :func:`~invert3d_ns.scenes.meshes.sampling.read_mesh`.
    """
    path = Path(path)
    ending = path.suffix.lower() if path.suffix.lower() in MESHES else splat_ending(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a splat file: {LISTED}, or a mesh: {LISTED_MESHES}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file of Gaussian splats")
    if ending is None:
        raise foreign_file(path)
    kind = describe_file(path)
    if not kind.startswith(_CONTENTS[ending]):
        raise _other_content(path, ending, kind)
    if ending in MESHES:
        return read_mesh(path, mesh_splats), "y" if ending in (".glb", ".gltf") else None
    if ending in (".ply", ".compressed.ply"):
        header = read_header(path)
        if is_mesh(header):
            return read_mesh(path, mesh_splats), up_axis(header)
        if not is_compressed(header):
            return read_ply(path)
        cloud = replace(read_converted(path, ".compressed.ply"), rasterize_mode=rasterize_mode(header))
        return cloud, up_axis(header)
    return read_converted(path, ending), "y" if ending == ".spz" else None


def write_splat_file(path: Path | str, cloud: SplatCloud, up: UpAxis | None = None) -> None:
    """Write splats as the kind of file that the ending of ``path`` says, complete or not at all.

    Args:
        path: see :data:`ENDINGS`.
        cloud: the splats.
        up: the axis of ``cloud`` that points up, noted where the format can.

    Raises:
        InputError: the ending is none that is written, or the file cannot be written.
    """
    path = Path(path)
    ending = check_ending(path)
    if ending == ".ply":
        write_splats(path, cloud, up)
    else:
        write_converted(path, cloud, ending, up)


def check_ending(path: Path) -> str:
    """The ending of a file that is to be written.

    Raises:
        InputError: splats are not written in files with this ending.
    """
    ending = splat_ending(path)
    if ending is None:
        raise InputError(f"{path} does not end in {LISTED}; give it a name that does")
    return ending


def foreign_file(path: Path) -> InputError:
    """What to say of a file whose ending is not that of a splat file."""
    kind = next((kind for kind, endings in _KINDS.items() if path.suffix.lower() in endings.split()), None)
    content = describe_file(path)
    if content == LFS_POINTER:
        return _other_content(path, "", content)
    if content.startswith(("a .ply of", "a compressed splat", "splats in")):
        return InputError(f"{path} is {content}; rename it to end in {LISTED}, as what it is")
    if "mesh" in content or "glTF" in content:
        return InputError(f"{path} is {content}; rename it to end as what it is: {LISTED_MESHES}")
    if kind is None:
        name = "neither a splat file nor a run nor a folder of images"
        return InputError(f"{path} is {name} but {content}; give one of these, splats as {LISTED}, or a mesh")
    return InputError(f"{path} is {kind}, not splats ({LISTED}); {_ADVICE[kind]}")


def _other_content(path: Path, ending: str, kind: str) -> InputError:
    advice = "copy or export the file again"
    if kind == LFS_POINTER:
        advice = "run `git lfs pull`"
    elif kind.startswith(("a web page", "an XML")):
        advice = "download the file itself, not the page about it"
    elif kind.startswith(("a .ply of", "a compressed splat", "splats in")):
        advice = "rename it to end as what it is"
    return InputError(f"{path} is not a {ending or 'splat'} file but {kind}; {advice}")
