"""Fully connected layers, with a written-out backward pass for tanh networks on a CPU.

On a CPU torch's tanh takes seven times numpy's time, and autograd as long for bookkeeping as for arithmetic. So a chain
of tanh layers is one autograd node with numpy's tanh, a third of the time; everything else is plain torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.base.errors import ConfigError, unknown

HIDDEN_GAIN = math.sqrt(2.0)

#: Rows below which plain torch is as fast.
CHAIN_ROWS = 32

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the nonlinearity of this name."""
    if name not in ACTIVATIONS:
        raise ConfigError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


def orthogonal(layer: Any, gain: float) -> Any:
    """Initialize a layer: orthogonal weight, zero bias (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Dense(nn.Module):
    """Fully connected layers, each with a nonlinearity: (N, input_size) to (N, output_size)."""

    #: Plain torch throughout, so that gradients have gradients.
    twice_differentiable = False

    def __init__(self, input_size: int, hidden: Sequence[int], activation_name: str):
        super().__init__()
        sizes = [input_size, *hidden]
        self.output_size = sizes[-1]
        self.layers = nn.ModuleList(
            orthogonal(nn.Linear(fan_in, fan_out), HIDDEN_GAIN) for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.activation_name = activation_name
        self.activation = activation(activation_name)
        self.chain = activation_name == "tanh" and len(hidden) > 0

    def forward(self, features: Tensor, head: nn.Linear | None = None) -> Tensor:
        """Return features (N, output_size), or a head's linear output of them."""
        if self.chain and self._plain_cpu(features):
            layers = [*self.layers, *([head] if head is not None else [])]
            parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
            if not torch.is_grad_enabled():
                return tanh_layers(features, parameters, head is not None)[-1]
            if features.shape[0] >= CHAIN_ROWS:
                return TanhChain.apply(head is not None, features, *parameters)
        # Functional calls: at batch 8 the module calls of nn.Sequential cost as much as the arithmetic.
        for layer in self.layers:
            features = self.activation(F.linear(features, layer.weight, layer.bias))  # type: ignore[arg-type]
        return features if head is None else F.linear(features, head.weight, head.bias)

    def _plain_cpu(self, features: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()  # first: an exported graph must not depend on the number of rows
            and features.ndim == 2
            and features.dtype == torch.float32
            and features.device.type == "cpu"
            and not self.twice_differentiable
            and not torch.is_autocast_enabled("cpu")
        )


def tanh_layers(x: Tensor, parameters: Sequence[Tensor], linear_end: bool) -> list[Tensor]:
    """Return h_0 = x and every h_l = tanh(h_{l-1} W_l^T + b_l), or linear at the end."""
    hidden, layers = [x], len(parameters) // 2
    for layer in range(layers):
        out = torch.addmm(parameters[2 * layer + 1], hidden[-1], parameters[2 * layer].t())
        if layer < layers - 1 or not linear_end:
            values = out.numpy()
            np.tanh(values, out=values)
        hidden.append(out)
    return hidden


class TanhChain(torch.autograd.Function):
    """`tanh_layers` as one autograd node."""

    @staticmethod
    def forward(ctx: Any, linear_end: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        hidden = tanh_layers(x, parameters, linear_end)
        ctx.linear_end = linear_end
        ctx.save_for_backward(*parameters[0::2], *(hidden[:-1] if linear_end else hidden))
        return hidden[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError("TanhChain cannot be differentiated twice; set Dense.twice_differentiable.")
        layers = len(ctx.saved_tensors) // 2  # weights, and as many or one more activations
        weights, hidden = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        gradients: list[Tensor | None] = []
        for layer in reversed(range(layers)):
            if layer < layers - 1 or not ctx.linear_end:
                grad = torch.ops.aten.tanh_backward(grad, hidden[layer + 1])  # grad * (1 - h^2)
            # Of b_l and W_l, turned round below. h^T g, not g^T h: with few inputs the latter is four times slower.
            gradients += [grad.sum(0), (hidden[layer].t() @ grad).t()]
            if layer or ctx.needs_input_grad[1]:
                grad = grad @ weights[layer]
        return (None, grad if ctx.needs_input_grad[1] else None, *reversed(gradients))
