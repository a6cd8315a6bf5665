"""Pictures of what a radiance field shows within a sphere, with alpha: nothing outside of it is integrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import PinholeCameras

if TYPE_CHECKING:
    from nerfstudio.cameras.rays import RayBundle
    from nerfstudio.models.base_model import Model

_PROPOSED, _SAMPLES = (48, 32), 24
"""Most samples of a ray for each proposal network and for the field. They are nerfstudio's for a scene without end
(256, 96 and 48); here a ray begins and ends where something is."""
_CELLS = 80
"""Of the grid that says where something is, along each axis of the sphere."""
_EMPTY = 0.005
"""Alpha of a cell's width below which there is nothing in it."""
_RAYS_ON_CPU = 512
"""Rays at a time: the samples of more do not fit into a CPU's caches."""
_POINTS = 1 << 16


@dataclass(frozen=True)
class Sphere:
    """The part of a field that is looked at, in the field's own frame."""

    center: Float[Tensor, "3"]
    radius: float


class RadianceField:
    """A nerfstudio model of rays, seen within a sphere only.

    Where a model has proposal networks, as nerfacto has, which bound the weights of its field from above, a grid of
    their densities tells where something is. Rays that meet nothing are not evaluated, and the others from where there
    is something to where there is nothing more. That makes views ten times cheaper on a CPU.

    Not differentiable.

    Args:
        model: gives ``rgb``, ``accumulation`` and ``depth`` of a bundle of rays; also in nerfstudio's ``_fine`` form.
            Its backgrounds become black and its numbers of samples smaller, in place.
        name: of the run, for errors.
    """

    def __init__(self, model: Model, name: str) -> None:
        from nerfstudio.model_components.renderers import RGBRenderer

        self.model, self.name = model, name
        self._grid: Bool[Tensor, "G G G"] | None = None
        self.sphere = Sphere(torch.zeros(3), 1.0)
        for module in model.modules():
            if isinstance(module, RGBRenderer):
                module.background_color = "black"  # so that colors come multiplied with alpha and nothing else
        sampler: Any = getattr(model, "proposal_sampler", None)
        if hasattr(sampler, "num_proposal_samples_per_ray") and hasattr(sampler, "num_nerf_samples_per_ray"):
            most = (*_PROPOSED, *[_PROPOSED[-1]] * len(sampler.num_proposal_samples_per_ray))
            sampler.num_proposal_samples_per_ray = tuple(
                min(pair) for pair in zip(sampler.num_proposal_samples_per_ray, most, strict=False)
            )
            sampler.num_nerf_samples_per_ray = min(sampler.num_nerf_samples_per_ray, _SAMPLES)

    @property
    def box(self) -> Float[Tensor, "2 3"]:
        """The corners of the scene's box, in the field's frame."""
        return self.model.scene_box.aabb.detach().cpu().float()

    def look_at(self, sphere: Sphere) -> None:
        """See what is within ``sphere`` from here on, and nothing else.

        Raises:
            InputError: the model's densities cannot be computed here.
        """
        self.sphere = sphere
        self._grid = self._occupied()

    @torch.no_grad()
    def render(self, camera: PinholeCameras) -> tuple[Float[Tensor, "H W 4"], Float[Tensor, "H W 3"]]:
        """RGBA in [0, 1] (alpha not premultiplied) on the CPU, and where each ray meets the surface.

        Args:
            camera: a single one, in the field's frame, on the CPU.

        Raises:
            InputError: the model cannot be evaluated here, or gives no accumulation and depth, or no numbers.
        """
        from nerfstudio.model_components.scene_colliders import SphereCollider

        rays = SphereCollider(self.sphere.center, self.sphere.radius)(_rays(camera))
        rgba, depth = torch.zeros(len(rays), 4), torch.zeros(len(rays), 1)
        meets = self._shorten(rays)
        on_cpu = self.model.device.type == "cpu"
        count = _RAYS_ON_CPU if on_cpu else self.model.config.eval_num_rays_per_chunk
        for start in range(0, len(meets), count):
            some = meets[start : start + count]
            rgba[some], depth[some] = self._evaluate(rays[some])
        points = rays.origins + rays.directions * depth
        shape = (camera.height, camera.width, -1)
        return rgba.reshape(shape), points.reshape(shape)

    def _evaluate(self, rays: RayBundle) -> tuple[Float[Tensor, "R 4"], Float[Tensor, "R 1"]]:
        try:
            outputs = self.model(rays.to(self.model.device))
        except Exception as error:  # whatever a method raises that needs other hardware or more memory
            raise self._unusable(error) from error
        found = []
        for name in ("rgb", "accumulation", "depth"):
            value = outputs.get(name, outputs.get(f"{name}_fine"))
            if value is None:
                raise InputError(
                    f"the model of {self.name} gives no {name}; give a run of a method that does, or images"
                )
            found.append(value.reshape(len(rays), -1).float().cpu())
        rgb, alpha, depth = found
        if not all(value.isfinite().all() for value in found):
            raise InputError(f"the radiance field of {self.name} gives values that are not finite; train it again")
        alpha = alpha.clamp(0, 1)
        return torch.cat([(rgb / alpha.clamp_min(1e-6)).clamp(0, 1), alpha], dim=-1), depth

    def _shorten(self, rays: RayBundle) -> Int[Tensor, " M"]:
        """Which rays meet something, by number; these then begin and end around it, in place."""
        assert rays.nears is not None and rays.fars is not None, "a collider comes first"
        near, far = rays.nears[:, 0], rays.fars[:, 0]  # both 0 of rays that miss the sphere
        inside = torch.nonzero(far > near)[:, 0]
        if self._grid is None:
            return inside
        met = []
        fractions = torch.linspace(0, 1, _CELLS)
        low, cell = self.sphere.center - self.sphere.radius, 2 * self.sphere.radius / _CELLS
        for some in inside.split(_POINTS // 8):
            start, span = near[some, None], (far - near)[some, None]
            points = rays.origins[some, None] + rays.directions[some, None] * (start + span * fractions)[..., None]
            x, y, z = ((points - low) / cell).long().clamp(0, _CELLS - 1).unbind(dim=-1)
            full = self._grid[x, y, z]
            any_ = full.any(dim=1)
            first = full.float().argmax(dim=1)
            last = _CELLS - 1 - full.flip(1).float().argmax(dim=1)
            begin, end = fractions[(first - 1).clamp_min(0)], fractions[(last + 1).clamp_max(_CELLS - 1)]
            near[some], far[some] = start[:, 0] + span[:, 0] * begin, start[:, 0] + span[:, 0] * end
            met.append(some[any_])
        return torch.cat(met) if met else inside

    @torch.no_grad()
    def _occupied(self) -> Bool[Tensor, "G G G"] | None:
        """Cells around the sphere that hold something, and their neighbors; None of models without proposal networks.

        Other fields have a ``density_fn``, too, but not all of them one that works (TensoRF's, mip-NeRF's).
        """
        densities: Any = getattr(self.model, "density_fns", None)
        if not densities:
            return None
        density = densities[-1]
        axis = (torch.arange(_CELLS) + 0.5) * (2 / _CELLS) - 1
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
        rows = torch.nonzero(points.norm(dim=-1) < 1 + 2 / _CELLS)[:, 0]
        alpha = torch.zeros(len(points))
        for some in rows.split(_POINTS if self.model.device.type == "cuda" else _POINTS // 16):
            positions = (self.sphere.center + self.sphere.radius * points[some]).to(self.model.device)
            try:
                found = density(positions).reshape(-1).float().cpu()
            except Exception as error:  # as in _evaluate
                raise self._unusable(error) from error
            alpha[some] = 1 - torch.exp(-found * self.sphere.radius * (2 / _CELLS))
        full = (alpha > _EMPTY).reshape(1, 1, _CELLS, _CELLS, _CELLS).float()
        return functional.max_pool3d(full, 3, stride=1, padding=1)[0, 0] > 0

    def _unusable(self, error: Exception) -> InputError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return InputError(
            f"the radiance field of {self.name} cannot be drawn on this machine ({reason}); use one like that on which "
            "it was trained, or give the images that it was trained on"
        )


def _rays(camera: PinholeCameras) -> RayBundle:
    """A ray through the center of each pixel, row by row.

    nerfstudio's cameras make them, too, but index tensors by lists, which torch is about to read otherwise.
    """
    from nerfstudio.cameras.rays import RayBundle

    pose, (fx, fy) = camera.camera_to_world[0].float(), camera.intrinsics[0].diagonal()[:2].tolist()
    cx, cy = camera.intrinsics[0, :2, 2].tolist()
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    local = torch.stack([(columns + 0.5 - cx) / fx, -(rows + 0.5 - cy) / fy, -torch.ones(rows.shape)], dim=-1)
    local = local.reshape(-1, 3)
    length = local.norm(dim=-1, keepdim=True)
    return RayBundle(
        origins=pose[:, 3].expand(len(local), 3).contiguous(),
        directions=(local / length) @ pose[:, :3].T,
        pixel_area=length.pow(-3) / (fx * fy),
        camera_indices=torch.zeros(len(local), 1, dtype=torch.long),
    )
