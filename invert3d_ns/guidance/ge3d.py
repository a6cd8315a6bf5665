"""Editing trajectories (GE3D): rendered views are edited in several steps, and pulled towards the edit at each.

Their latents are noised along DDIM without guidance, x_0 ... x_n, and from the last node denoised under the words with
guidance, x~_n = x_n ... x~_0: an edit of 2D views. The gradient on the latents is strength * sum_i w_i (x_i - x~_i),
where the first node is compared with the clean latents; the denoised trajectory is the target, and the noising counts
as an identity, as in the official code. Nodes near the noise settle what is seen, those near the views its detail; the
dynamic balancing coefficients w_i move from the ones to the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.guidance.base import Guidance, GuidanceConfig, GuidanceReport, NoisePredictor
from invert3d_ns.guidance.schedules import annealed
from invert3d_ns.guidance.trajectories import edit_along, start_noise

if TYPE_CHECKING:
    from invert3d_ns.prior.unet import Latents

Share = Annotated[float, at_least(0, 1)]
"""A fraction of the diffusion: 0 is clean, 1 pure noise."""


@dataclass
class EditingTrajectoriesConfig(GuidanceConfig):
    """Editing trajectories, GE3D: several steps up without guidance, the same steps down with it, aligned at each."""

    _target: type = field(default_factory=lambda: EditingTrajectories)
    jumps: Annotated[int, at_least(1, 50)] = 6
    """Steps of a trajectory, n; each costs one call of the UNet up, and two down. Official code: 6 or 8."""
    jump: tuple[Share, Share] = (0.06, 0.08)
    """Shortest and longest step at the start, as fractions of the diffusion; each is drawn anew."""
    jump_end: tuple[Share, Share] = (0.03, 0.05)
    """The same at the end."""
    max_step: Share = 0.48
    """No node lies beyond this fraction of the diffusion at the start."""
    max_step_end: Share = 0.3
    """The same at the end."""
    balance: bool = True
    """Weight the nodes by dynamic balancing coefficients (DBC); otherwise all alike."""
    balance_width: Annotated[float, above(0)] = 1 / 3
    """Standard deviation of the coefficients' bells, as a share of the guidance. Official code: 1,000 of 3,000."""
    noising: Literal["negative", "empty"] = "negative"
    """Words on the way up: the negative prompt (official code) or none (paper)."""
    offset_noise: Annotated[float, at_least(0, 1)] = 0.1
    """Noise at the first node that all places of a channel share. Official code: 0.1."""
    strength: Annotated[float, above(0)] = 0.1
    """Factor on the gradient. Official code: 0.1."""

    def check(self) -> None:
        """Refuse settings that are out of range, by name.

        Raises:
            InputError: jumps that are no ranges, that do not go up, or the first of which may not fit.
        """
        super().check()
        if self.jumps < 1:
            raise InputError(f"a trajectory of {self.jumps} jumps edits nothing; give 1 or more")
        for low, high, most, when in ((*self.jump, self.max_step, ""), (*self.jump_end, self.max_step_end, "-end")):
            if not 0.0 < low <= high <= most <= 1.0:
                raise InputError(
                    f"jumps of {low:g} to {high:g} up to {most:g} do not fit the diffusion, which is 0 to 1; give jump"
                    f"{when} a range above 0 that is no greater than max-step{when}"
                )

    def nodes(self, length: int, generator: torch.Generator, progress: float = 0.0) -> list[int]:
        """Timesteps of a trajectory, from 0 up: :attr:`jumps` random steps, or as many as lie below the greatest.

        The bounds move linearly with ``progress`` (0 to 1).

        Args:
            length: timesteps of the prior's noise schedule.
        """
        low, high = (
            max(round(annealed(first, last, progress) * length), 1)
            for first, last in zip(self.jump, self.jump_end, strict=True)
        )
        most = min(round(annealed(self.max_step, self.max_step_end, progress) * length), length - 1)
        found = [0]
        for step in torch.randint(low, high + 1, (self.jumps,), generator=generator).tolist():
            if found[-1] + step > most:
                break
            found.append(found[-1] + step)
        return found if len(found) > 1 else [0, most]

    def coefficients(self, count: int, progress: float) -> Float[Tensor, " n"]:
        """w_i of the nodes 0 to n - 1, finest first, which sum to 1.

        Bells over progress, exp(-(progress - mu_i)^2 / 2 width^2): that of node n - 1 peaks at the start, that of node
        0 at the end. Fewer jumps than were asked for share the weight of all (in the official code they lose it).
        """
        if not self.balance or count == 1:
            return torch.full((count,), 1 / count)
        peaks = 1 - torch.arange(count) / (count - 1)
        weights = torch.exp(-((progress - peaks) ** 2) / (2 * self.balance_width**2))
        return weights / weights.sum()


class EditingTrajectories(Guidance):
    """The loss of groups of views; for the arguments see :class:`~invert3d_ns.guidance.base.Guidance`.

    Example:
        >>> config = EditingTrajectoriesConfig()
        >>> config.coefficients(6, 0.0).mul(1000).round().int().tolist()
        [4, 22, 76, 188, 323, 387]
    """

    config: EditingTrajectoriesConfig

    noising: NoisePredictor
    """What the way up is made under."""

    def follow(self, conditions: NoisePredictor) -> None:
        """Let other words guide from now on; the words on the way up are encoded here, once for all steps."""
        super().follow(conditions)
        if self.config.noising == "negative":
            self.noising = self.conditions.unguided()
        else:
            from invert3d_ns.prior.conditions import Conditions

            empty = self.prior.encode_prompt("")
            self.noising = Conditions(empty, empty)

    def gradient(
        self, latents: Latents, cameras: Float[Tensor, "B F 16"], generator: torch.Generator, progress: float
    ) -> tuple[Latents, GuidanceReport]:
        """:meth:`trajectory_error` of one trajectory's nodes for all groups, as their steps are made together.

        n calls of the UNet for the way up and n for the way down, with guidance of two conditions each: 18 views for
        each view at n = 6.
        """
        nodes = self.config.nodes(self.prior.num_timesteps, generator, progress)
        noise = start_noise(latents, generator, self.config.offset_noise)
        return self.trajectory_error(latents, noise, nodes, cameras, progress)

    def trajectory_error(
        self,
        latents: Latents,
        noise: Latents,
        nodes: list[int],
        cameras: Float[Tensor, "B F 16"],
        progress: float = 0.0,
    ) -> tuple[Latents, GuidanceReport]:
        """Strength * sum_i w_i (x_i - x~_i), 0 where it is not finite; and what it came from: x~_0 is the target."""
        up, edited = edit_along(self.prior, self.noising, self.conditions, latents, noise, nodes, cameras)
        weights = self.config.coefficients(len(nodes) - 1, progress)
        errors = [latents - edited[0], *(x - y for x, y in zip(up[1:-1], edited[1:-1], strict=True))]
        pulls = torch.stack([float(weight) * error for weight, error in zip(weights, errors, strict=True)])
        gradient = (self.config.strength * pulls.sum(0)).nan_to_num(0.0, 0.0, 0.0)
        last = torch.full((len(latents),), nodes[-1], device=latents.device)
        return gradient, GuidanceReport(last, torch.full(last.shape, self.config.strength), edited[0])
