"""Rendering of Gaussian splats on any device, through one function with ``gsplat.rasterization``'s signature.

``_projection`` (torch) puts Gaussians on the image plane, ``_harmonics`` says what color a direction sees,
``_compiled`` (C, ``csrc/``) blends them, ``_reference`` states the same blending in plain torch, and ``_dispatch``
chooses between these and gsplat.
"""

from invert3d_ns.scenes.rasterization._dispatch import kernel_available, rasterization
from invert3d_ns.scenes.rasterization._harmonics import SH_C0, evaluate_harmonics, harmonic_basis
from invert3d_ns.scenes.rasterization._projection import scaled_axes

__all__ = ["SH_C0", "evaluate_harmonics", "harmonic_basis", "kernel_available", "rasterization", "scaled_axes"]
