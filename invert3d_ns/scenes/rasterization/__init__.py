"""Rendering of Gaussian splats on any device, through one function with ``gsplat.rasterization``'s signature.

``_projection`` (torch) puts Gaussians on the image plane, ``_compiled`` (C, ``csrc/``) blends them, ``_reference``
states the same blending in plain torch, and ``_dispatch`` chooses between these and gsplat.
"""

from invert3d_ns.scenes.rasterization._dispatch import kernel_available, rasterization

__all__ = ["kernel_available", "rasterization"]
