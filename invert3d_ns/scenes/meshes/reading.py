"""Meshes of other programs, read by trimesh: triangles where the file has them, and the color of any point on them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, Int, UInt8

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn

READ = (".glb", ".gltf", ".obj", ".stl", ".off")
"""Endings of the meshes that are read, besides a .ply with faces."""
GRAY = 0.7
"""Color of a surface that has none."""
_COMPRESSED = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}
"""Extensions of glTF without which its triangles cannot be read."""
_MOST_BAD = 0.5
"""Share of faces with corners that are not finite from which on a file is refused."""


@dataclass
class Surface:
    """The triangles of one part of a mesh, in double precision, and what their colors are made of."""

    triangles: Float[np.ndarray, "F 3 3"]
    """Corners in the coordinates of the file."""
    factor: Float[np.ndarray, "4"]
    """RGBA in [0, 1] that everything is multiplied by."""
    corner_colors: Float[np.ndarray, "F 3 4"] | None = None
    """RGBA in [0, 1] of the corners."""
    corner_uvs: Float[np.ndarray, "F 3 2"] | None = None
    """Where the corners lie in the picture, v up."""
    picture: UInt8[np.ndarray, "H W 4"] | None = None
    """RGBA (sRGB) that is repeated in both directions; bilinear between the centers of its pixels."""
    linear: bool = False
    """Whether factor and colors of corners are linear in light, as in glTF, and not sRGB."""
    least_alpha: float | None = 0.0
    """Alpha below which nothing is there, all else being opaque; None: alpha is opacity."""

    def colors(self, faces: Int[np.ndarray, " M"], parts: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 4"]:
        """RGBA in [0, 1] (sRGB, straight) of points in faces.

        Args:
            faces: rows of :attr:`triangles`.
            parts: barycentric coordinates.
        """
        shade = np.broadcast_to(self.factor, (len(faces), 4))
        if self.corner_colors is not None:
            shade = shade * (self.corner_colors[faces] * parts[:, :, None]).sum(axis=1)
        if self.picture is None or self.corner_uvs is None:
            found = _encoded(shade) if self.linear else shade
        else:
            found = _looked_up(self.picture, (self.corner_uvs[faces] * parts[:, :, None]).sum(axis=1))
            found = _encoded(_decoded(found) * shade) if self.linear else found * shade
        if self.least_alpha is not None:
            found = np.concatenate([found[:, :3], (found[:, 3:] >= self.least_alpha).astype(found.dtype)], axis=1)
        return found.clip(0, 1)


def read_surfaces(path: Path) -> list[Surface]:
    """The parts of a mesh, under the transforms of its scene.

    Colors are those of a texture (base color), of vertices or of faces, times the color of the material; without any,
    :data:`GRAY`. In glTF the latter three are linear in light, as its definition says and viewers show.

    Raises:
        InputError: the file is damaged or holds no triangle with an area, or most corners are not finite.
    """
    surfaces: list[Surface] = []
    pictures: dict[int, UInt8[np.ndarray, "H W 4"]] = {}
    with _complaints() as complaints:
        scene = _loaded(path)
        for name in scene.graph.nodes_geometry:
            transform, geometry = scene.graph[name]
            part = scene.geometry[geometry]
            if not len(getattr(part, "faces", ())):
                continue
            surfaces.append(_surface(part, np.asarray(transform, dtype=np.float64), path, pictures))
    if not surfaces:
        raise InputError(f"{path} has no faces; export the mesh again, with triangles")
    for complaint in dict.fromkeys(complaints):
        warn(f"{path}: {complaint}")
    missing = _missing_material(path)
    if missing:
        warn(f"{path} names {missing}, which is not there: what it colors is plain; put it beside the mesh")
    return _finite(surfaces, path)


def _loaded(path: Path) -> Any:
    """The file as a scene of trimesh's."""
    import trimesh

    _check_whole(path)
    try:
        return trimesh.load_scene(path, file_type=path.suffix.lower()[1:], process=False)
    except Exception as error:  # trimesh raises whatever its readers come across
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise _damaged(path, reason) from error


def _check_whole(path: Path) -> None:
    """Refuse files that end early or are compressed, of which trimesh reads what there is, or another file."""
    with path.open("rb") as file:
        head = file.read(84)
    ending, size = path.suffix.lower(), path.stat().st_size
    if ending == ".glb" and (len(head) < 20 or int.from_bytes(head[8:12], "little") > size):
        raise _damaged(path, "it ends early")
    text = head.lstrip().lower().startswith(b"solid")
    if ending == ".stl" and not text and (len(head) < 84 or 84 + 50 * int.from_bytes(head[80:], "little") > size):
        raise _damaged(path, "it ends early")
    if ending in (".glb", ".gltf"):
        packed = _COMPRESSED & set(_gltf_tree(path).get("extensionsRequired", []))
        if packed:
            raise InputError(f"{path} uses {packed.pop()}, which cannot be read; export it without compression")


def _gltf_tree(path: Path) -> dict[str, Any]:
    """What a .gltf is, or a .glb begins with.

    Raises:
        InputError: it is no JSON object.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".glb":
        content = content[20 : 20 + int.from_bytes(content[12:16], "little")]
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise _damaged(path, str(error)[:100]) from error
    if not isinstance(tree, dict):
        raise _damaged(path, "it does not hold a JSON object")
    return tree


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read as a mesh, or is damaged ({reason}); copy or export it again")


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What trimesh warns about, which it would print itself."""
    found: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(" ".join(record.getMessage().split())[:160])

    logger, handler = logging.getLogger("trimesh"), Keeping(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _missing_material(path: Path) -> str | None:
    """The first library of materials, or texture, that an .obj or a .gltf names and that is not there."""
    named: list[Path] = []
    if path.suffix.lower() == ".obj":
        libraries = _named(path, rb"mtllib")
        pictures = [_named(library, rb"map_Kd(?: +-\w+(?: +[-\d.]+)+)*") for library in libraries if library.is_file()]
        named = [*libraries, *(picture for of_one in pictures for picture in of_one)]
    elif path.suffix.lower() == ".gltf":
        uris = [str(image.get("uri", "data:")) for image in _gltf_tree(path).get("images", [])]
        named = [path.parent / unquote(uri) for uri in uris if not uri.startswith("data:")]
    return next((file.name for file in named if not file.is_file()), None)


def _named(path: Path, keyword: bytes) -> list[Path]:
    """Files beside a text file that lines with a keyword name."""
    names = re.findall(rb"^[ \t]*" + keyword + rb"[ \t]+([^\r\n]+?)[ \t]*$", path.read_bytes(), re.MULTILINE)
    return [path.parent / name.decode("utf-8", "replace").replace("\\", "/") for name in names]


def _surface(
    part: Any, transform: Float[np.ndarray, "4 4"], path: Path, pictures: dict[int, UInt8[np.ndarray, "H W 4"]]
) -> Surface:
    """One mesh of trimesh's; ``pictures`` has those that were read before, by their objects' identities."""
    faces = np.asarray(part.faces)
    if faces.min() < 0 or faces.max() >= len(part.vertices):
        raise _damaged(path, "faces have corners that there are not")
    vertices = np.asarray(part.vertices, dtype=np.float64) @ transform[:3, :3].T + transform[:3, 3]
    surface = Surface(vertices[faces], np.ones(4), linear=path.suffix.lower() in (".glb", ".gltf"))
    visual = part.visual
    if visual.kind == "texture":
        _add_material(surface, visual, faces, path, pictures)
    elif visual.kind == "vertex":
        surface.corner_colors = _unit(visual.vertex_colors)[faces]
    elif visual.kind == "face":
        surface.corner_colors = np.repeat(_unit(visual.face_colors)[:, None], 3, axis=1)
    else:
        surface.factor, surface.linear = np.array([GRAY, GRAY, GRAY, 1.0]), False
    return surface


def _add_material(
    surface: Surface,
    visual: Any,
    faces: Int[np.ndarray, "F 3"],
    path: Path,
    pictures: dict[int, UInt8[np.ndarray, "H W 4"]],
) -> None:
    """Take over the colors of a material of trimesh's, and of the vertices if there are any besides."""
    material = visual.material
    if hasattr(material, "baseColorFactor"):
        picture, factor = material.baseColorTexture, material.baseColorFactor
        if material.alphaMode == "BLEND":
            surface.least_alpha = None
        elif material.alphaMode == "MASK":
            surface.least_alpha = 0.5 if material.alphaCutoff is None else float(material.alphaCutoff)
    else:
        # Programs write any Kd beside a texture (Blender 0.8, trimesh 0.4) and leave it out of what they show.
        picture = material.image
        factor = material.diffuse if picture is None else None
    if factor is not None:
        surface.factor = _unit(np.atleast_2d(factor))[0]
    colors = visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
    if colors is not None and len(colors) > faces.max():
        surface.corner_colors = _unit(colors)[faces]
    uvs = visual.uv
    if picture is None or uvs is None or len(uvs) <= faces.max():
        return
    if id(picture) not in pictures:
        try:
            pictures[id(picture)] = np.asarray(picture.convert("RGBA"))
        except Exception as error:  # Pillow raises whatever its readers come across
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise InputError(f"the texture of {path} cannot be read ({reason}); export the mesh again") from error
    surface.picture = pictures[id(picture)]
    surface.corner_uvs = np.nan_to_num(np.asarray(uvs, dtype=np.float64)[faces])


def _unit(colors: Any) -> Float[np.ndarray, "M 4"]:
    """RGBA in [0, 1] of colors of any type, with or without alpha."""
    from trimesh.visual.color import to_rgba

    return to_rgba(np.asarray(colors)).astype(np.float64).reshape(-1, 4) / 255


def _finite(surfaces: list[Surface], path: Path) -> list[Surface]:
    """The parts without faces that have corners that are not finite."""
    count = sum(len(surface.triangles) for surface in surfaces)
    usable = [np.isfinite(surface.triangles).all(axis=(1, 2)) for surface in surfaces]
    bad = count - sum(int(rows.sum()) for rows in usable)
    if bad > _MOST_BAD * count:
        raise InputError(f"{path} has NaN or infinity in {bad} of {count} faces; export the mesh again")
    if bad:
        warn(f"{path} has NaN or infinity in {bad} of {count} faces, which are left out")
        for surface, rows in zip(surfaces, usable, strict=True):
            surface.triangles = surface.triangles[rows]
            for name in ("corner_colors", "corner_uvs"):
                values = getattr(surface, name)
                setattr(surface, name, None if values is None else values[rows])
    return surfaces


def _looked_up(picture: UInt8[np.ndarray, "H W 4"], uvs: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 4"]:
    height, width = picture.shape[:2]
    x, y = (uvs[:, 0] % 1) * width - 0.5, ((1 - uvs[:, 1]) % 1) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_share, bottom_share = (x - left)[:, None], (y - top)[:, None]
    rows, columns = (top % height, (top + 1) % height), (left % width, (left + 1) % width)
    upper, lower = (
        picture[row, columns[0]] * (1 - right_share) + picture[row, columns[1]] * right_share for row in rows
    )
    return (upper * (1 - bottom_share) + lower * bottom_share) / 255


def _encoded(colors: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M 4"]:
    """From linear in light to sRGB (IEC 61966-2-1); alpha stays."""
    light = colors[:, :3].clip(0, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.concatenate([shown, colors[:, 3:]], axis=1)


def _decoded(colors: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M 4"]:
    """From sRGB to linear in light; alpha stays."""
    shown = colors[:, :3].clip(0, 1)
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    return np.concatenate([light, colors[:, 3:]], axis=1)
