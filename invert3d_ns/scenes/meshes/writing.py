"""Meshes as files for other programs, written by trimesh."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.outputs import check_file
from invert3d_ns.scenes.meshes.mesh import Mesh

if TYPE_CHECKING:
    from trimesh import Trimesh

WRITTEN = (".glb", ".obj", ".ply")
"""Endings of the meshes that are written."""
_WHITE = [255, 255, 255, 255]
_COARSE = 1e-3
"""Distance of neighboring 32-bit numbers, as a share of the mesh, from which on rounding is seen."""


def check_mesh_name(path: Path, flag: str = "--mesh") -> None:
    """Refuse a name that no mesh can be written under.

    Args:
        path: of the file; an .obj has files of other endings beside it.
        flag: what sets it, for the message.

    Raises:
        InputError: the ending is none of :data:`WRITTEN`, or a file of this name cannot be written.
    """
    if path.suffix.lower() not in WRITTEN:
        raise InputError(f"{path} does not end in .glb, .obj or .ply; give {flag} a name that does")
    check_file(path, path.suffix.lower(), flag)
    if path.suffix.lower() == ".obj":
        for other in _beside(path):
            check_file(other, other.suffix, flag)


def write_mesh(path: Path | str, mesh: Mesh) -> list[Path]:
    """Write a mesh as the kind of file that the ending of ``path`` says, complete or not at all.

    A .glb has its texture inside, and a material that is not lit, since the light of a scene is in its colors. An .obj
    has it beside itself, as .png, with an .mtl. A .ply has the colors of the vertices instead.

    Args:
        path: see :data:`WRITTEN`.
        mesh: with a texture, or for a .ply with colors. Where it has neither it is written without.

    Returns:
        The files that were written, the mesh itself first.

    Raises:
        InputError: the ending is none that is written, the file cannot be written, or the mesh lies too far from its
            origin for the 32-bit numbers of a .glb or .ply.
    """
    path = Path(path)
    check_mesh_name(path, "the mesh")
    ending = path.suffix.lower()
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    if ending != ".obj" and np.abs([low, high]).max() * 2**-23 > _COARSE * np.linalg.norm(high - low):
        raise InputError(
            f"{path} cannot hold positions as far from their origin as these, which need 64 bits; write an .obj, or "
            "write the mesh centered"
        )
    if ending == ".obj":
        return _write_obj(path, mesh)
    content = _glb(mesh) if ending == ".glb" else _ply(mesh)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return [path]


def _ply(mesh: Mesh) -> bytes:
    from trimesh.exchange.ply import export_ply

    return export_ply(_as_trimesh(mesh, None), vertex_normal=True)


def _glb(mesh: Mesh) -> bytes:
    from PIL import Image
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual.material import PBRMaterial

    material = None
    if mesh.texture is not None:
        material = PBRMaterial(
            name="texture",
            baseColorTexture=Image.fromarray(mesh.texture),
            baseColorFactor=_WHITE,
            metallicFactor=0.0,
            roughnessFactor=1.0,
        )
    return export_glb(_as_trimesh(mesh, material).scene(), include_normals=True, tree_postprocessor=_unlit)


def _write_obj(path: Path, mesh: Mesh) -> list[Path]:
    """The .obj, its .mtl and its texture; the .obj last, so that it never lacks the others."""
    from PIL import Image
    from trimesh.exchange.obj import export_obj
    from trimesh.visual.material import SimpleMaterial

    library, picture = _beside(path)
    material = None
    if mesh.texture is not None:
        image = Image.fromarray(mesh.texture)
        material = SimpleMaterial(image=image, diffuse=_WHITE, ambient=_WHITE, specular=[0, 0, 0, 255])
        material.name = picture.stem  # which is what the picture is called
    made = _as_trimesh(mesh, material)
    text, files = export_obj(made, include_normals=True, return_texture=True, mtl_name=library.name)
    written = {path.parent / name: content for name, content in files.items()}
    for name, content in {**written, path: text.encode()}.items():
        with atomic_path(name) as temporary:
            temporary.write_bytes(content)
    return [path, *written]


def _beside(path: Path) -> tuple[Path, Path]:
    """The .mtl and the texture of an .obj, whose names have nothing that ends a word in these formats."""
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    return path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}.png")


def _as_trimesh(mesh: Mesh, material: Any) -> Trimesh:
    """The mesh as trimesh has it: with a material of trimesh's that has the texture, or with none and the colors of its
    vertices.
    """
    from trimesh import Trimesh
    from trimesh.visual import ColorVisuals, TextureVisuals

    visual: Any = None
    if material is not None:
        visual = TextureVisuals(uv=mesh.uvs, material=material)
    elif mesh.colors is not None:
        visual = ColorVisuals(vertex_colors=(mesh.colors.clip(0, 1) * 255).round().astype(np.uint8))
    return Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, visual=visual, process=False)


def _unlit(tree: dict[str, Any]) -> None:
    """Say in a glTF that its colors are to be shown as they are (KHR_materials_unlit, Khronos)."""
    name = "KHR_materials_unlit"
    for material in tree.get("materials", []):
        material.setdefault("extensions", {})[name] = {}
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), name})
