"""The compiled kernel (``csrc/``) behind torch's autograd."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from invert3d_ns.base.errors import InputError

SIMD_LEVELS = ("baseline", "avx2", "avx512")
SIMD_VARIABLE = "INVERT3D_SIMD"
"""Environment variable that asks for one of :data:`SIMD_LEVELS` instead of the widest that the machine runs."""
BACKWARD_BYTES = 32 * 2**20
"""The backward pass handles so many tiles at a time that what they give to splats takes no more memory than this."""


INTERFACE = 1
"""What ``invert3d_interface`` of the compiled kernel must return: other arguments than it takes would crash."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernel's library, or None where the package was installed without a C compiler.

    Raises:
        InputError: it was compiled from other sources than these.
    """
    try:
        import invert3d_ns.scenes.rasterization._kernel as _kernel  # type: ignore[import-not-found]

        lib = ctypes.CDLL(_kernel.__file__)
    except (ImportError, OSError):
        return None
    if not hasattr(lib, "invert3d_interface") or lib.invert3d_interface() != INTERFACE:
        raise InputError(
            "the compiled rasterization kernel is of another version of invert3d-ns; reinstall the package"
        )
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    lib.invert3d_forward.argtypes = [*[integer] * 7, long, *[pointer] * 9, integer, ctypes.POINTER(pointer)]
    lib.invert3d_backward.argtypes = [pointer, integer, long, *[pointer] * 7]
    lib.invert3d_free.argtypes = [pointer]
    lib.invert3d_free.restype = None
    return lib


def available_levels() -> tuple[str, ...]:
    """SIMD levels that this machine runs, widest last; empty without a kernel."""
    lib = library()
    return SIMD_LEVELS[: lib.invert3d_simd_level() + 1] if lib is not None else ()


def _level() -> int:
    levels, requested = available_levels(), os.environ.get(SIMD_VARIABLE)
    if not requested:
        return len(levels) - 1
    if requested not in levels:
        raise InputError(f"{SIMD_VARIABLE}={requested} does not run here; use one of: {', '.join(levels)}")
    return levels.index(requested)


def supports(tensor: Tensor) -> bool:
    """Whether the kernel is made for tensors of this type and device."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


class _State:
    """Owns what one forward pass keeps for its backward passes."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.pointer = ctypes.c_void_p()
        self._free = lib.invert3d_free

    def __del__(self) -> None:
        self._free(self.pointer)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _flat(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor.detach().to(dtype).contiguous()


def _forward(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    radii: Tensor,
    depths: Tensor,
    offsets: Sequence[int],
    width: int,
    height: int,
    tile_size: int,
    keep: bool,
) -> tuple[Tensor, Tensor, _State]:
    lib = library()
    assert lib is not None
    cameras, channels = len(offsets) - 1, colors.shape[-1]
    render = torch.empty(cameras, height, width, channels)
    alphas = torch.empty(cameras, height, width, 1)
    arrays = [_flat(t) for t in (means2d, conics, colors, opacities)] + [_flat(radii, torch.int32), _flat(depths)]
    state = _State(lib)
    failed = lib.invert3d_forward(
        _level(),
        torch.get_num_threads(),
        cameras,
        channels,
        width,
        height,
        tile_size,
        opacities.numel(),
        (ctypes.c_int64 * len(offsets))(*offsets),
        *map(_address, arrays),
        _address(render),
        _address(alphas),
        keep,
        ctypes.byref(state.pointer),
    )
    if failed:
        raise MemoryError(f"no memory to draw {opacities.numel()} Gaussians at {width}x{height}")
    return render, alphas, state


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, *constants: Any) -> Any:
        *arguments, absgrad = constants
        render, alphas, ctx.state = _forward(means2d, conics, colors, opacities, *arguments, keep=True)
        ctx.save_for_backward(means2d)
        ctx.shapes = [t.shape for t in (means2d, conics, colors, opacities)]
        ctx.absgrad = absgrad
        return render, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_render: Tensor, v_alphas: Tensor) -> Any:
        lib = library()
        assert lib is not None
        grads = [torch.zeros(shape) for shape in ctx.shapes]
        absolute = torch.zeros(ctx.shapes[0]) if ctx.absgrad else None
        v_render, v_alphas = _flat(v_render), _flat(v_alphas)
        failed = lib.invert3d_backward(
            ctx.state.pointer,
            torch.get_num_threads(),
            BACKWARD_BYTES,
            *map(_address, (v_render, v_alphas, *grads, absolute)),
        )
        if failed:
            raise MemoryError("no memory for the gradients of a rendering")
        if absolute is not None:
            ctx.saved_tensors[0].absgrad = absolute
        return (*grads, *[None] * 7)


def composite(
    means2d: Float[Tensor, "*M 2"],
    conics: Float[Tensor, "*M 3"],
    colors: Float[Tensor, "*M K"],
    opacities: Float[Tensor, "*M"],
    radii: Int[Tensor, "*M"],
    depths: Float[Tensor, "*M"],
    offsets: Sequence[int],
    width: int,
    height: int,
    *,
    tile_size: int = 16,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "C height width K"], Float[Tensor, "C height width 1"]]:
    """:func:`._reference.composite` in float32 on the CPU. ``tile_size`` must be a multiple of 4.

    Uses ``torch.get_num_threads()`` threads; the result does not depend on their number.
    """
    tensors = (means2d, conics, colors, opacities)
    if tile_size % 4 != 0:
        raise ValueError(f"tile_size must be a multiple of 4, got {tile_size}")
    if not all(map(supports, tensors)):
        raise ValueError("the compiled rasterization kernel takes float32 tensors on the CPU; use the torch backend")
    constants = (radii, depths, offsets, width, height, tile_size)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Composite.apply(*tensors, *constants, absgrad)
    return _forward(*tensors, *constants, keep=False)[:2]
