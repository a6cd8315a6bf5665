"""Pictures of meshes by a plain z-buffer, to be held against those of splats."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.scenes.cameras import pinhole_cameras
from invert3d_ns.scenes.meshes.mesh import Mesh
from invert3d_ns.scenes.meshes.triangles import covered_pixels


def draw_mesh(
    mesh: Mesh, poses: Float[Tensor, "F 4 4"], size: int, color: str = "texture"
) -> tuple[Float[Tensor, "F 3 S S"], Float[Tensor, "F 1 S S"]]:
    """Unlit views of a mesh on black, and where it is; ``color`` is "texture", "vertices" or "normals"."""
    cameras = pinhole_cameras(poses, size)
    pictures, masks = [], []
    for matrix, k in zip(cameras.viewmats.double().numpy(), cameras.intrinsics.double().numpy(), strict=True):
        seen = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        depth = seen[:, 2]
        flat = seen[:, :2] / depth[:, None] * k[[0, 1], [0, 1]] + k[:2, 2]
        nearest = np.full(size * size, np.inf)
        winner = np.full(size * size, -1)
        shares = np.zeros((size * size, 3))
        for pixel, face, parts in covered_pixels(flat[mesh.faces], size):
            inverse = (parts / depth[mesh.faces[face]]).sum(axis=1)
            order = np.argsort(inverse, kind="stable")  # the nearest last, which is what stays
            pixel, face, parts, z = pixel[order], face[order], parts[order], 1 / inverse[order]
            last = len(pixel) - 1 - np.unique(pixel[::-1], return_index=True)[1]
            last = last[z[last] < nearest[pixel[last]]]
            corrected = parts[last] / depth[mesh.faces[face[last]]]
            nearest[pixel[last]], winner[pixel[last]] = z[last], face[last]
            shares[pixel[last]] = corrected / corrected.sum(axis=1, keepdims=True)
        mask = winner >= 0
        picture = np.zeros((size * size, 3))
        picture[mask] = _colors(mesh, mesh.faces[winner[mask]], shares[mask], color)
        pictures.append(torch.from_numpy(picture).float().T.reshape(3, size, size))
        masks.append(torch.from_numpy(mask).float().reshape(1, size, size))
    return torch.stack(pictures), torch.stack(masks)


def _colors(mesh: Mesh, corners: np.ndarray, shares: np.ndarray, color: str) -> np.ndarray:
    if color == "normals":
        return 0.5 + 0.5 * (mesh.normals[corners] * shares[:, :, None]).sum(axis=1)
    if color == "vertices":
        assert mesh.colors is not None
        return (mesh.colors[corners] * shares[:, :, None]).sum(axis=1)
    assert mesh.uvs is not None and mesh.texture is not None
    u, v = ((mesh.uvs[corners] * shares[:, :, None]).sum(axis=1)).T
    height, width = mesh.texture.shape[:2]
    grid = torch.from_numpy(np.stack([2 * u - 1, 1 - 2 * v], axis=-1))[None, None].float()
    image = torch.from_numpy(mesh.texture.copy()).float().permute(2, 0, 1)[None] / 255
    assert height == width
    return torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].T.numpy()


def masked_psnr(left: Tensor, right: Tensor, mask: Tensor) -> float:
    """Decibels over the pixels of a mask [F 1 S S], of pictures [F 3 S S] in [0, 1]."""
    wrong = ((left - right).square() * mask).sum() / (3 * mask.sum())
    return float(-10 * wrong.log10())
