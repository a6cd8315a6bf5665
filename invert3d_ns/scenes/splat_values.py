"""What the numbers of splats may be: special values are mended or dropped, and conventions are checked by evidence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.cloud import SplatCloud, unit_quaternions

_OPAQUE = 20.0
"""The logit whose sigmoid is 1 in float32: what an infinite one is read as."""
_MOST_BAD = 0.5
"""Share of unusable splats from which on a file is refused."""
_MANY = 100
"""From this number of splats on, statistics say something."""
_THIN = 1e-3
"""Thickness of a splat that has none, as a share of its width."""
_COARSE = 1e-3
"""Distance of neighboring numbers, as a share of the scene, from which on rounding is seen."""
_CROWDED = 0.5
"""Of logarithms of sizes none is negative and most are below this only if all splats are one unit wide, or nearly."""
_LARGE = 0.1
"""A typical size of many splats, as a share of the scene, beyond which they show nothing but fog."""


def checked(cloud: SplatCloud, path: Path | str) -> SplatCloud:
    """Splats as a file holds them, with every value finite, rotations of length 1, and sizes as logarithms.

    Infinite opacities are what they mean, 1 and 0. Splats with another value that is no finite number, or without a
    rotation, are dropped with a warning that counts them. Scales that can only be lengths are read as such, with a
    warning. Opacities that look like no logits are warned about, and so are centers that float32 cannot tell apart.

    Args:
        cloud: whose rotations may have any length, and whose scales may be two, of flat splats.
        path: the file, for messages.

    Raises:
        InputError: there are no splats, most are unusable, or none has an extent that makes sense.
    """
    if len(cloud) == 0:
        raise InputError(f"{path} has 0 splats; export the scene again")
    opacities = cloud.opacities
    infinite = opacities.isinf()
    if infinite.any():
        opacities = torch.where(infinite, opacities.sign() * _OPAQUE, opacities)
        cloud = replace(cloud, opacities=opacities)
    cloud = _with_thickness(_with_logarithms(cloud, path), path)
    usable = _usable(cloud)
    bad = len(cloud) - int(usable.sum())
    if bad > _MOST_BAD * len(cloud):
        raise InputError(
            f"{path} has NaN, infinity or no rotation in {bad} of {len(cloud)} splats; export the scene again"
        )
    if bad:
        warn(f"{path} has NaN, infinity or no rotation in {bad} of {len(cloud)} splats, which are left out")
        cloud = cloud.select(usable)
    logits = cloud.opacities
    if len(cloud) >= _MANY and logits.min() >= 0 and logits.max() <= 1 and logits.max() - logits.min() > 1e-3:
        warn(
            f"the opacities of {path} all lie between 0 and 1: they are read as logits, as 3DGS writes them; if the "
            "views look washed out, export the file with logits"
        )
    step, extent = float(cloud.means.abs().max()) * 2**-23, _extent(cloud.means)
    if step > _COARSE * extent > 0:
        warn(
            f"the positions of {path} lie so far from their origin that 32-bit numbers round them to steps of "
            f"{step:.2g} ({step / extent:.1%} of the object); export it around its origin, or with 64-bit positions"
        )
    return replace(cloud, quats=unit_quaternions(cloud.quats))


def _usable(cloud: SplatCloud) -> Bool[Tensor, " N"]:
    usable = cloud.quats.norm(dim=-1) > 0
    for tensor in cloud.tensors().values():
        usable &= tensor.flatten(1).isfinite().all(dim=1)
    return usable


def _with_logarithms(cloud: SplatCloud, path: Path | str) -> SplatCloud:
    """The cloud with scales that are logarithms, also where the file has lengths.

    Logarithms of sizes are negative wherever a splat is thinner than one unit, which in any scene some are, unless its
    unit is tiny. So scales of which none is negative are lengths if as logarithms they would fill the scene with fog,
    or would all be of one size, thin sides and thick, though the numbers differ several times.
    """
    usable = _usable(cloud)
    scales = cloud.scales[usable]
    if not len(scales) or scales.min() < 0:
        return cloud
    extent = _extent(cloud.means[usable])
    typical = float(scales.max(dim=-1).values.median())
    limit = extent * (_LARGE if len(scales) >= _MANY else 1.0)
    crowded = len(scales) >= _MANY and 0 < typical < _CROWDED and float(scales.min()) < _CROWDED * typical
    if extent == 0 or (math.exp(min(typical, 700.0)) <= limit and not crowded):
        return cloud
    if typical > limit:
        raise InputError(
            f"the splats of {path} are larger than the scene, whether its scales are logarithms or lengths; export it "
            "again with the logarithms of sizes, as 3DGS writes them"
        )
    why = "make every splat about one unit wide" if crowded else "fill the scene"
    warn(
        f"the scales of {path} are lengths, not logarithms as in 3DGS (none is negative, and as logarithms they would "
        f"{why}): they are read as lengths"
    )
    widest = cloud.scales.amax(dim=-1, keepdim=True)
    return replace(cloud, scales=cloud.scales.clamp_min(_THIN * widest).log())


def _with_thickness(cloud: SplatCloud, path: Path | str) -> SplatCloud:
    """The cloud with a third scale, where the file has flat splats (2DGS), which have two."""
    if cloud.scales.shape[1] == 3:
        return cloud
    warn(f"{path} has flat splats (2DGS): each is given a thickness of {_THIN:g} of its width")
    thickness = cloud.scales.amin(dim=-1, keepdim=True) + math.log(_THIN)
    return replace(cloud, scales=torch.cat([cloud.scales, thickness], dim=-1))


def _extent(means: Float[Tensor, "N 3"]) -> float:
    """Distance from the median center within which 90 % of the centers lie."""
    distance = (means - means.median(dim=0).values).norm(dim=-1)
    return float(distance.kthvalue(max(1, int(0.9 * len(distance)))).values)
