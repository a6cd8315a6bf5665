"""How much an edit did, measured on views of the scene before and after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.editing.view_sets import spread_cameras
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rendering import render_channels, render_splats

HARDLY = 16.0
"""Mean changes of color below this, of 255, count as hardly changed. On the demo, a style at 12 is seen only side by
side, a pattern at 28 at once."""
_ORBITS, _VIEWS, _SIZE = 2, 3, 128
_ALL = 0.98


@dataclass(frozen=True)
class EditChange:
    """How much an edit did to what it could change."""

    color: float
    """Mean absolute change of red, green and blue over the object's pixels, 0 to 255."""
    silhouette: float
    """Overlap of the object's silhouettes before and after: intersection over union, 0 to 1."""
    share: float = 1.0
    """Share of the object's pixels that show what the edit could change: less than 1 for an edit of a part."""

    @property
    def hardly(self) -> bool:
        """Whether people would say that nothing happened."""
        return self.color < HARDLY and self.silhouette > 1 - HARDLY / 255

    def sentence(self, flags: str | None = None) -> str:
        """What people are told, without a full stop.

        Args:
            flags: what flags of an edit begin with, "--" or "--pipeline.edit.", to name those that help where hardly
                anything changed; without, it is said in words, for panels.

        Example:
            >>> EditChange(41.2, 0.98).sentence()
            "mean change of the object's color 41/255, silhouette kept 0.98"
        """
        what = "the object's color"
        if self.share < _ALL:
            what = f"the color of the edited part ({max(self.share, 0.01):.0%} of the object)"
        text = f"mean change of {what} {self.color:.0f}/255, silhouette kept {self.silhouette:.2f}"
        if not self.hardly:
            return text
        if flags is None:
            return f"{text}; hardly changed: raise the amount to 2, or say what the object is"
        return f"{text}; hardly changed: try {flags}amount 2, or say what the object is with {flags}noun"


@torch.no_grad()
def measure_change(before: SplatCloud, after: SplatCloud) -> EditChange:
    """How much splats changed, on six renders of 128 pixels from all around; colors where changed splats are seen.

    Args:
        before: in the object frame, on any device, which renders.
        after: the same splats under an edit; where their number is another, everything counts as changed.
    """
    after = after.to(before.device)
    poses = orbit_camera_to_world(*spread_cameras(_ORBITS, _VIEWS)).flatten(0, 1)
    (old, covered), (new, covers) = (render_splats(cloud, poses, _SIZE) for cloud in (before, after))
    could = None
    if len(before) == len(after):
        changed = torch.zeros(len(before), dtype=torch.bool, device=before.device)
        for name, values in before.tensors().items():
            changed |= (values != after.tensors()[name]).flatten(1).any(dim=1)
        if changed.any() and not changed.all():
            marks = changed.float()[:, None]
            could = torch.maximum(*(render_channels(cloud, marks, poses, _SIZE)[0] for cloud in (before, after))) > 0.25
    return compare_views(old.clamp(0, 1), new.clamp(0, 1), covered, covers, could)


def compare_views(
    before: Float[Tensor, "F 3 H W"],
    after: Float[Tensor, "F 3 H W"],
    alpha_before: Float[Tensor, "F 1 H W"],
    alpha_after: Float[Tensor, "F 1 H W"],
    could_change: Bool[Tensor, "F 1 H W"] | None = None,
) -> EditChange:
    """How much views changed: colors over all pixels that show the object before or after.

    Args:
        before: RGB in [0, 1].
        after: the same views under an edit.
        alpha_before: coverage by the object, in [0, 1].
        alpha_after: the same under the edit.
        could_change: where the edit could change anything; everywhere if None.
    """
    own, its = alpha_before > 0.5, alpha_after > 0.5
    either = own | its
    where = either if could_change is None else either & could_change
    total = max(int(either.sum()), 1)
    difference = (after - before).abs().mean(dim=1, keepdim=True)[where]
    color = 255 * float(difference.mean()) if len(difference) else 0.0
    return EditChange(color, int((own & its).sum()) / total if either.any() else 1.0, int(where.sum()) / total)
