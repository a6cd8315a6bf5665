"""Splats that follow views: which of their numbers are optimized, how fast, and what those take that no view shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing import view_sets
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import SH_C0

if TYPE_CHECKING:
    from invert3d_ns.editing.edit import Change
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig

_COLORS = ("features_dc", "features_rest")
_GEOMETRY = ("means", "scales", "quats", "opacities")
_RATES = {"means": 5e-4, "scales": 5e-3, "quats": 5e-3, "opacities": 2e-2}


class FollowingSplats:
    """Splats of which some may change: their leaves and the optimizer of these.

    Args:
        cloud: all splats; never written to. Everything is on its device.
        free: those that may change.
        change: whether only their colors, or their geometry as well.
        config: learning rates.
        pixels: pixels of one step, over which the loss is a mean; Adam's epsilon is given in their unit.
    """

    def __init__(
        self, cloud: SplatCloud, free: Bool[Tensor, " N"], change: Change, config: SceneEditConfig, *, pixels: int
    ) -> None:
        self._cloud = cloud
        self._free, self._all = free.to(cloud.means.device), bool(free.all())
        names = _COLORS if change == "colors" else _COLORS + _GEOMETRY
        self._leaves = {name: getattr(cloud, name)[self._free].clone().requires_grad_() for name in names}
        self._unseen = torch.zeros(0, dtype=torch.long)
        self._neighbors = torch.zeros(0, 4, dtype=torch.long)
        rates = {"features_dc": config.color_rate, "features_rest": config.color_rate / 20}
        rates |= {name: rate * config.geometry_rate for name, rate in _RATES.items()}
        # A splat of a tenth of one pixel moves at half the rate: Adam would move it as fast as any, by noise.
        epsilons: dict[str, float] = dict.fromkeys(_COLORS, 0.1 * (SH_C0 / (3 * pixels)))
        self._optimizer = torch.optim.Adam(
            [
                {"params": [leaf], "lr": rates[name], "first": rates[name], "eps": epsilons.get(name, 1e-15)}
                for name, leaf in self._leaves.items()
            ]
        )

    def lift(self, change: Float[Tensor, "N 3"], weight: Float[Tensor, " N"]) -> None:
        """Add to each free splat's color the mean change of the pixels that it makes, if any view shows it.

        Args:
            change: of RGB in [0, 1], for every splat of the cloud.
            weight: contribution of the splat in pixels, as :func:`~invert3d_ns.editing.view_sets.lifted_change` has it.
        """
        change, weight = change[self._free], weight[self._free]
        self._leaves["features_dc"].data += torch.where(weight[:, None] > view_sets.SEEN, change / SH_C0, 0.0)
        seen, unseen = (weight > view_sets.SEEN).nonzero()[:, 0].cpu(), (weight <= view_sets.SEEN).nonzero()[:, 0].cpu()
        if len(seen) and len(unseen):
            self._unseen = unseen
            own = self._cloud.select(self._free).to("cpu")
            self._neighbors = view_sets.neighbors_of_unseen(own, seen, unseen)

    def current(self) -> SplatCloud:
        """All splats as they are now, differentiable in those that may change; where all may, nothing is copied."""
        if self._all:
            return replace(self._cloud, **self._leaves)
        rows = (self._free.nonzero()[:, 0],)
        moved = {name: getattr(self._cloud, name).index_put(rows, leaf) for name, leaf in self._leaves.items()}
        return replace(self._cloud, **moved)

    def descend(self, loss: Tensor, factor: float) -> None:
        """Take one optimizer step that lowers ``loss``, at ``factor`` times the learning rates."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["first"] * factor
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def settled(self) -> dict[str, Tensor]:
        """Values of the free splats by the fields that may change, on the CPU.

        Splats that no view shows take the mean change of color of those like them; rotations have unit length.
        """
        leaves = {name: leaf.detach().cpu().clone() for name, leaf in self._leaves.items()}
        if len(self._unseen):
            change = leaves["features_dc"] - self._cloud.features_dc[self._free].cpu()
            leaves["features_dc"][self._unseen] += change[self._neighbors].mean(dim=1) - change[self._unseen]
        if "quats" in leaves:
            leaves["quats"] = functional.normalize(leaves["quats"], dim=-1)
        return leaves

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, besides the constructor's arguments."""
        return {
            "leaves": {name: leaf.detach().clone() for name, leaf in self._leaves.items()},
            "optimizer": self._optimizer.state_dict(),
            "unseen": self._unseen,
            "neighbors": self._neighbors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            InputError: it is of other splats, or of other numbers of them.
        """
        shapes = [{name: leaf.shape for name, leaf in leaves.items()} for leaves in (self._leaves, state["leaves"])]
        if shapes[0] != shapes[1]:
            raise InputError("the saved edit is of another scene or has other settings; start it again")
        with torch.no_grad():
            for name, leaf in self._leaves.items():
                leaf.copy_(state["leaves"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._unseen, self._neighbors = state["unseen"].cpu(), state["neighbors"].cpu()
