"""All parameters of a module in one flat vector.

Clipping is one norm, an optimizer one fused kernel, publishing one copy, hashing one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # float32 numbers: 64 bytes


@dataclass(frozen=True)
class FlatParameters:
    """The flat vectors behind a module's parameters and gradients.

    Attributes:
        data: float32 (size,), each parameter at a multiple of 64 bytes; gaps hold zeros.
        grad: float32 (size,), gradients in the same places; every `parameter.grad` is a view of it.
        names: Names of the parameters; tied ones are listed once.
        offsets: First number of each parameter in `data`.
    """

    data: Tensor
    grad: Tensor
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place: a `None` would make autograd allocate new ones."""
        self.grad.zero_()

    def parameter(self, start: int = 0, stop: int | None = None) -> nn.Parameter:
        """Return part of the vector as one parameter, as optimizers want it, with its gradient."""
        whole = start == 0 and stop is None
        parameter = nn.Parameter(self.data if whole else self.data[start:stop])
        parameter.grad = self.grad if whole else self.grad[start:stop]
        return parameter

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return named views of a vector of the same layout, such as Adam's moments."""
        return {
            name: _view(flat, offset, shape)
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }


def flatten_parameters(module: nn.Module) -> FlatParameters:
    """Move all trainable parameters of a module into one flat vector, as views of it.

    Clear gradients with `FlatParameters.zero_grad`: `module.zero_grad()` drops the views. `module.to(device)` and deep
    copies drop them, too.

    Raises:
        TypeError: A parameter that is not float32, or parameters on several devices.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    for name, parameter in named:
        if parameter.dtype != torch.float32 or parameter.device != named[0][1].device:
            raise TypeError(
                f"parameter {name} is {parameter.dtype} on {parameter.device}; expected float32, one device"
            )
    offsets, end = [], 0
    for _, parameter in named:
        offsets.append(end)
        end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
    data = torch.zeros(end, device=named[0][1].device if named else None)
    grad = torch.zeros_like(data)
    shapes = tuple(tuple(parameter.shape) for _, parameter in named)
    with torch.no_grad():
        for (_, parameter), shape, offset in zip(named, shapes, offsets, strict=True):
            view = _view(data, offset, shape)
            view.copy_(parameter)
            parameter.data = view
            parameter.grad = _view(grad, offset, shape)
    return FlatParameters(data, grad, tuple(name for name, _ in named), shapes, tuple(offsets))


def _view(flat: Tensor, offset: int, shape: tuple[int, ...]) -> Tensor:
    return flat[offset : offset + torch.Size(shape).numel()].view(shape)
