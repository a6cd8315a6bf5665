"""Latent splats: several objects in one set of splats, each of which has its attributes at every vertex of a simplex.

An attribute at weights u is what all objects share plus sum_i u_i times what object i has for itself, so that splat i
is the same part in every object and in all that lies between them. Beyond A3D, whose field is a NeRF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn
from torch.nn import Parameter

from invert3d_ns.scenes.aligned_splats import weighted_sum
from invert3d_ns.scenes.blending import Blend, SameEverywhere, along_edges, vertex
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.runs import OWN
from invert3d_ns.scenes.splat_parameters import GAUSSIANS, parameters_from_cloud
from invert3d_ns.scenes.splats import ObjectSplatModel, ObjectSplatModelConfig


@dataclass
class LatentSplatModelConfig(ObjectSplatModelConfig):
    """Splats of several objects at once, in the object frame."""

    _target: type = field(default_factory=lambda: LatentSplatModel)
    objects: Annotated[int, tyro.conf.Suppress] = 1
    """How many; the method sets it."""


class LatentSplatModel(ObjectSplatModel):
    """Splats of K objects, drawn under :attr:`blend`. Of one object it is an :class:`ObjectSplatModel`.

    Attributes:
        blend: what is drawn: a point of the simplex, or a hybrid. The first object, unless told otherwise.
        anchored: whether the first object is what all share, and stays as it is.
        follows_time: whether the time of a camera (0 to 1) says where on the way through all objects it looks.
    """

    config: LatentSplatModelConfig

    def populate_modules(self) -> None:
        """Build the splats; no object has anything for itself yet."""
        super().populate_modules()
        self.objects = self.config.objects
        self.blend: Blend = SameEverywhere.of(vertex(0, self.objects))
        self.anchored, self.follows_time = False, True
        if self.objects > 1:
            for name in GAUSSIANS:
                self.gauss_params[name + OWN] = nn.Parameter(self._nothing_of_its_own(self.gauss_params[name]))

    def _nothing_of_its_own(self, shared: Tensor) -> Tensor:
        return torch.zeros(len(shared), self.objects, *shared.shape[1:], device=shared.device)

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        """All groups, those of what objects have for themselves too."""
        return {name: [parameter] for name, parameter in self.gauss_params.items()}

    def groups(self) -> dict[str, Tensor]:
        """The tensors that are drawn: those of the blend."""
        shared = super().groups()
        if self.objects == 1:
            return shared
        own = {name: self.gauss_params[name + OWN] for name in GAUSSIANS}
        weights = self.blend.at((shared["means"] + own["means"].mean(1)).detach())
        if self.anchored:
            weights = torch.cat([torch.zeros_like(weights[:, :1]), weights[:, 1:]], dim=1)
        return {name: shared[name] + weighted_sum(own[name], weights) for name in GAUSSIANS}

    def drawn(self) -> SplatCloud:
        """The splats of the blend, differentiable in every group."""
        return self._as_cloud(self.groups())

    def train_only(self, *names: str) -> None:
        """Train the named groups, and no others."""
        for name, parameter in self.gauss_params.items():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        self.frozen = not names

    @contextmanager
    def gradients_of(self, mask: Float[Tensor, " N"] | None) -> Iterator[None]:
        """Within a block, scale the gradients of every splat by a factor; as they are if None."""
        hooks = []
        for parameter in self.gauss_params.values():
            if mask is not None and parameter.requires_grad:
                factor = mask.view(-1, *[1] * (parameter.ndim - 1)).to(parameter)
                hooks.append(parameter.register_hook(lambda gradient, factor=factor: gradient * factor))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def at(self, blend: Blend) -> Iterator[None]:
        """Draw another blend within a block."""
        before, self.blend = self.blend, blend
        try:
            yield
        finally:
            self.blend = before

    def each_object(self) -> tuple[SplatCloud, ...]:
        """All objects as they are now, aligned, detached, on the CPU."""
        found = []
        for index in range(self.objects):
            with self.at(SameEverywhere.of(vertex(index, self.objects))):
                found.append(self.cloud())
        return tuple(found)

    def adopt(self, cloud: SplatCloud) -> None:
        """Make all objects those splats; see :meth:`ObjectSplatModel.adopt`."""
        super().adopt(cloud)
        for name in GAUSSIANS if self.objects > 1 else ():
            self.gauss_params[name + OWN].data = self._nothing_of_its_own(self.gauss_params[name])

    def add_object(self) -> int:
        """Have one more object, which is what all share until it is trained: of an anchored model, the first.

        Parameters stay themselves, and trained or not as they were; optimizers that know them must be made anew. What
        is drawn stays, but a hybrid, which gives way to the first object.

        Returns:
            Its index.
        """
        index = self.objects
        for name in GAUSSIANS:
            shared, own = self.gauss_params[name], self.gauss_params.get(name + OWN)
            column = torch.zeros_like(shared.data)[:, None]
            if own is None:
                own = nn.Parameter(torch.zeros_like(column), requires_grad=shared.requires_grad)
                self.gauss_params[name + OWN] = own
            own.data, own.grad = torch.cat([own.data, column], dim=1), None
        self._have(index + 1)
        return index

    def remove_object(self) -> None:
        """Take the last object away, of two or more; what is drawn stays if that has no part in it.

        Raises:
            ValueError: there is only one.
        """
        if self.objects < 2:
            raise ValueError("the only object of a model stays")
        for name in GAUSSIANS:
            own = self.gauss_params[name + OWN]
            own.data, own.grad = own.data[:, :-1].clone(), None
            if self.objects == 2:  # of one object alone, nothing is its own
                self.gauss_params[name].data += 0 if self.anchored else own.data[:, 0]
                del self.gauss_params[name + OWN]
        self._have(self.objects - 1)

    def _have(self, objects: int) -> None:
        """Be of so many objects, and draw what was drawn if that can be, else the first object."""
        weights = self.blend.weights if isinstance(self.blend, SameEverywhere) else ()
        kept, gone = weights[:objects], weights[objects:]
        self.objects = objects
        if kept and not any(gone):
            self.blend = SameEverywhere((*kept, *[0.0] * (objects - len(kept))))
        else:
            self.blend = SameEverywhere.of(vertex(0, objects))

    def load_state_dict(self, state_dict: dict[str, Any], **kwargs: Any):  # type: ignore[override]
        """See :meth:`ObjectSplatModel.load_state_dict`; objects may be more, or fewer, than the settings say."""
        own = state_dict.get("gauss_params.means" + OWN)
        if own is not None and self.objects > 1 and own.shape[1] != self.objects:
            self._have(own.shape[1])
        return super().load_state_dict(state_dict, **kwargs)

    def adopt_each(self, clouds: Sequence[SplatCloud], *, anchored: bool = False) -> None:
        """Make the objects aligned splats, of any number, before an optimizer has them.

        Args:
            clouds: one for each object, of equally many splats.
            anchored: whether the first stays as it is; else what all share is the mean.
        """
        self.adopt(clouds[0])
        self.anchored = anchored
        if self.objects == 1:
            return
        each = [parameters_from_cloud(cloud) for cloud in clouds]
        for name in GAUSSIANS:
            values = torch.stack([parameters[name] for parameters in each], 1).to(self.device)
            shared = values[:, 0] if anchored else values.mean(1)
            self.gauss_params[name].data = shared.clone()
            self.gauss_params[name + OWN].data = values - shared[:, None]
        if anchored:
            self.freeze(*GAUSSIANS)

    def fit_views(
        self,
        images: Float[Tensor, "P F 3 H W"],
        weights: Float[Tensor, "P K"],
        camera_to_world: Float[Tensor, "F r 4"],
        *,
        count: int,
        steps: int,
        seed: int,
        keep_first: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Make the objects those that views of blends of them show; see :func:`.fit_aligned_splats`.

        Args:
            keep_first: the first object stays as it is, and the others start from it.
        """
        from invert3d_ns.scenes.aligned_fitting import fit_aligned_splats

        given = self.each_object()[0].to(self.device) if keep_first else None
        clouds = fit_aligned_splats(
            images, weights, camera_to_world, count=count, steps=steps, seed=seed, given=given, progress=progress
        )
        self.adopt_each(clouds, anchored=keep_first)

    def moved(self) -> Float[Tensor, ""]:
        """Mean squared distance of each object's splats from where all share them, in world units."""
        return self.gauss_params["means" + OWN].square().sum(-1).mean()

    def step_post_backward(self, step: int) -> None:
        """Densify and prune by what is largest in any object: a splat that one of them shows is no splat too many."""
        if self.info:
            self.share_the_largest()
        super().step_post_backward(step)

    @torch.no_grad()
    def share_the_largest(self) -> None:
        """Make opacities and sizes that all share the largest of any object's; what is drawn stays.

        Weights sum to 1, so what is added to what all share and taken from what each has for itself changes nothing.
        """
        for name in ("opacities", "scales") if self.objects > 1 and not self.anchored else ():
            own = self.gauss_params[name + OWN]
            most = own.amax(1)
            self.gauss_params[name] += most
            own -= most[:, None]

    def blend_in_time(self, camera: Cameras) -> Blend | None:
        """Where on the way through all objects a camera's time leads; None where it says nothing, as in training."""
        if camera.times is None or not self.follows_time or self.training:
            return None
        return SameEverywhere.of(along_edges(float(camera.times.flatten()[0]), self.objects))

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:
        """See :meth:`ObjectSplatModel.get_outputs`; a camera's time leads along the edges."""
        blend = self.blend_in_time(camera)
        if blend is None:
            return super().get_outputs(camera)
        with self.at(blend):
            return super().get_outputs(camera)

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides tensors."""
        return {**super().get_extra_state(), "anchored": self.anchored}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        super().set_extra_state(state)
        if state.get("anchored", False):
            self.anchored = True
            self.freeze(*GAUSSIANS)
