"""Keep a frozen prior's weights in main memory and bring them to the GPU only while they are used.

accelerate's and diffusers' offloading hooks move weights in place (``parameter.data``), under the feet of a backward
pass that still needs them on the GPU. Here a weight on the GPU is a copy of its own, which the graph holds for exactly
as long as it needs it, so gradients reach words and images as without offloading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invert3d_ns.prior.settings import OffloadMode


class Offload:
    """Hooks that bring the weights of frozen networks to a device before a module runs.

    Args:
        networks: in main memory; each is one unit of mode "model". Their weights take no gradients.
        device: where they compute.
        mode: "model" keeps the network that ran last on the device, the others off it; "sequential" brings each layer's
            weights as it runs and drops them after it.
    """

    def __init__(self, networks: Sequence[Sequence[nn.Module]], device: torch.device, mode: OffloadMode) -> None:
        self._units: list[list[_Layer]] = []
        self._handles: list[Any] = []
        self._active: list[_Layer] = []
        for network in networks:
            layers = [_Layer(module, device) for part in network for module in part.modules() if _has_own(module)]
            self._units.append(layers)
            for layer in layers:
                self._hook(layer, layers, mode)

    def _hook(self, layer: _Layer, unit: list[_Layer], mode: OffloadMode) -> None:
        module = layer.module
        if mode == "sequential":
            self._handles.append(module.register_forward_pre_hook(lambda *_: layer.load()))
            # Also when the layer fails, or when checkpointing stops it halfway because it has recomputed enough.
            self._handles.append(module.register_forward_hook(lambda *_: layer.drop(), always_call=True))
        else:
            # On every layer, not on the network: an autoencoder is entered through two doors, and checkpointing
            # recomputes blocks from outside the network.
            self._handles.append(module.register_forward_pre_hook(lambda *_: self._switch_to(unit)))

    def _switch_to(self, unit: list[_Layer]) -> None:
        if self._active is unit:
            return
        for layer in self._active:
            layer.drop()
        for layer in unit:
            layer.load()
        self._active = unit

    def remove(self) -> None:
        """Take the hooks off; every weight is in main memory again, as the very tensor that it was."""
        for handle in self._handles:
            handle.remove()
        for layer in (layer for unit in self._units for layer in unit):
            layer.drop()
        self._handles, self._units, self._active = [], [], []


class _Layer:
    """The tensors that one module holds itself, in main memory, and a copy of them on the device at times."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        if device.type == "cuda":
            # Copies from page-locked memory are several times faster.
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.pin_memory()
        self.parameters = {name: p for name, p in module._parameters.items() if p is not None}
        self.buffers = {name: b for name, b in module._buffers.items() if b is not None}

    def load(self) -> None:
        for name, parameter in self.parameters.items():
            self.module._parameters[name] = nn.Parameter(self._copy(parameter.detach()), requires_grad=False)
        for name, buffer in self.buffers.items():
            self.module._buffers[name] = self._copy(buffer)

    def drop(self) -> None:
        self.module._parameters.update(self.parameters)
        self.module._buffers.update(self.buffers)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True, copy=True)


def _has_own(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
