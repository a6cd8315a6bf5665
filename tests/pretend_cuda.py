"""A CUDA device that is not there, with values: tensors say where they would be, and mixing devices fails as on a GPU.

Unlike torch's fake tensors these compute, on the CPU, so that code may look at values and go backward: whole runs work.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch._dynamo  # optimizers import it, which must not happen while functions are replaced
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda:0")
_MARK = "_pretends_to_be_on_cuda"
_COPIES = {torch.Tensor.copy_, torch.Tensor.set_, torch._has_compatible_shallow_copy_type}
_TAKES_CPU_INDICES = {
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    torch.Tensor.index_put,
    torch.Tensor.index_put_,
}


def on_cuda(tensor: Tensor) -> bool:
    """Whether a tensor pretends to be on the GPU."""
    return getattr(tensor, _MARK, False)


def _property(name: str) -> Any:
    return inspect.getattr_static(torch.Tensor, name)


def _mark(tree: Any, value: bool = True) -> Any:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            setattr(leaf, _MARK, value)
    return tree


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class PretendCuda(TorchFunctionMode):
    """While active, ``device="cuda"`` makes marked tensors, and results of marked tensors are marked."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == _property("device").__get__ and on_cuda(args[0]):
            return CUDA
        if func == _property("is_cuda").__get__:
            return on_cuda(args[0])
        if func == _property("is_cpu").__get__:
            return not on_cuda(args[0])
        if func == _property("data").__set__:
            func(*args)
            return _mark(args[0], on_cuda(args[1]))
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and on_cuda(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.__deepcopy__:  # the memory of copies holds all kinds
            return _mark(func(*args, **kwargs), on_cuda(args[0]))
        if func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu, torch.as_tensor):
            return _converted(func, args, kwargs)
        device = kwargs.get("device")
        if device is not None:
            generator = kwargs.get("generator")
            if _is_cuda(device) and generator is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            kwargs["device"] = None if _is_cuda(device) else device
            if not any(on_cuda(tensor) for tensor in _tensors((args, kwargs))):
                return _mark(func(*args, **kwargs), _is_cuda(device))
        mixed = _check(func, args, kwargs)
        result = func(*args, **kwargs)
        return result if func in _COPIES or not mixed else _mark(result, device is None or _is_cuda(device))


def _check(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether any argument is on the GPU; an error if others are not."""
    if func is torch.Tensor.__setitem__ and not _tensors(args[1]):
        return False  # a copy, as of slices
    if func in _TAKES_CPU_INDICES and (on_cuda(args[0]) or all(index.dim() == 0 for index in _tensors(args[1]))):
        args = (args[0], *args[2:])  # indices of no dimension are numbers
    tensors = _tensors((args, kwargs))
    marked = any(map(on_cuda, tensors))
    if marked and func not in _COPIES and not all(on_cuda(tensor) or tensor.dim() == 0 for tensor in tensors):
        name = getattr(func, "__name__", func)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    return marked


def _converted(func: Any, args: Any, kwargs: Any) -> Any:
    source, *rest = args
    before = isinstance(source, Tensor) and on_cuda(source)
    if func is torch.Tensor.cpu or func is torch.Tensor.cuda:
        after, convert = func is torch.Tensor.cuda, {}
    elif func is torch.as_tensor:
        device = kwargs.pop("device", None)
        after = before if device is None else _is_cuda(device)
        convert = None
    elif isinstance(other := kwargs.get("other", rest[0] if rest else None), Tensor):
        after, convert = on_cuda(other), {"dtype": other.dtype}
    else:
        kwargs = {name: value for name, value in kwargs.items() if name not in ("copy",)}
        device, dtype, *_ = torch._C._nn._parse_to(*rest, **kwargs)  # type: ignore[attr-defined]
        after, convert = (before if device is None else _is_cuda(device)), {} if dtype is None else {"dtype": dtype}
    result = torch.as_tensor(*args, **kwargs) if convert is None else source.to(**convert) if convert else source  # type: ignore[call-overload]
    if result is source and before != after:
        result = source.clone()  # a copy, as between devices
    return result if result is source else _mark(result, after)


def _pretend_gsplat(**given: Any) -> Any:
    """Draws as gsplat would on a GPU: by the CPU's own rasterizer, if everything is on the GPU."""
    from invert3d_ns.scenes.rasterization import rasterization

    wrong = [name for name, value in given.items() if isinstance(value, Tensor) and not on_cuda(value)]
    assert not wrong, f"gsplat was given tensors on the CPU: {', '.join(wrong)}"
    with torch._C.DisableTorchFunction():
        image, alphas, meta = rasterization(**given)
        means2d = meta["means2d"]
        if given["absgrad"] and means2d.requires_grad:
            means2d.register_hook(lambda _: setattr(means2d.absgrad, _MARK, True))
    return _mark((image, alphas, meta))


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """A GPU for the time of a context, with gsplat."""
    import gsplat.rendering

    make = torch.Tensor._make_subclass

    def make_subclass(kind: Any, data: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # of parameters
        return _mark(make(kind, data, *args, **kwargs), on_cuda(data))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gsplat.rendering, "rasterization", _pretend_gsplat)
        patch.setattr("invert3d_ns.compat.device_type", lambda: "cuda")
        patch.setattr(torch.Tensor, "_make_subclass", make_subclass)
        patch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "pretended GPU")
        with PretendCuda():
            yield
