"""E dense networks of one shape, evaluated together: one batched matrix product per layer.

On a CPU the relu chain is one autograd node with a written-out backward pass: products with a narrow side are taken the
faster way round (256 rows to 1 unit: 31 us as (W h^T)^T, 141 us as h W^T), and unwanted gradients are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.models.layers.dense import activation
from distrl.models.parameters.precision import HiddenPrecision

Members: TypeAlias = slice | Sequence[int] | None


class DenseEnsemble(nn.Module, HiddenPrecision):
    """Hidden layers with a nonlinearity, then a linear one: (N, in) to (E, N, out).

    First weights are uniform in +-1/sqrt(inputs), as in `nn.Linear`; `layer_norm`: Ba et al. 2016.

    Attributes:
        weights: (E, in, out) of the hidden layers; biases: (E, 1, out).
        head_weight: (E, output_size, in); head_bias: (E, output_size, 1).
    """

    def __init__(
        self,
        members: int,
        input_size: int,
        hidden: Sequence[int],
        output_size: int,
        activation_name: str,
        layer_norm: bool = False,
    ):
        super().__init__()
        sizes = [input_size, *hidden]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(_uniform((members, fan_in, fan_out), fan_in) for fan_in, fan_out in shapes)
        self.biases = nn.ParameterList(_uniform((members, 1, fan_out), fan_in) for fan_in, fan_out in shapes)
        self.head_weight = _uniform((members, output_size, sizes[-1]), sizes[-1])
        self.head_bias = _uniform((members, output_size, 1), sizes[-1])
        self.gains = nn.ParameterList(torch.ones(members, 1, size) for size in hidden if layer_norm)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, size) for size in hidden if layer_norm)
        self.chain = activation_name == "relu" and not layer_norm
        self.activation: Callable[[Tensor], Tensor] = activation(activation_name)
        self.feature_size = sizes[-1]

    def forward(self, x: Tensor, *, frozen: bool = False, members: Members = None) -> Tensor:
        """Map (N, in), the same for every network, or (E, N, in) to (E, N, output_size).

        Args:
            frozen: Gradients flow into `x` only.
            members: The networks to evaluate: a slice, or a list of numbers; None: all.
        """
        parameters = [
            _chosen(parameter, frozen, members)
            for parameter in (*self.weights, *self.biases, self.head_weight, self.head_bias)
        ]
        if self.chain and x.device.type == "cpu" and not self.bf16 and not torch.compiler.is_compiling():
            return ReluChain.apply(x, *parameters)
        *layers, head_weight, head_bias = parameters
        features = self._hidden(x, layers, frozen, members)
        return torch.baddbmm(head_bias.transpose(1, 2), features, head_weight.transpose(1, 2))

    def features(self, x: Tensor, *, frozen: bool = False, members: Members = None) -> Tensor:
        """Return the input of the last layer, (E, N, feature_size). Arguments as for `forward`."""
        layers = [_chosen(parameter, frozen, members) for parameter in (*self.weights, *self.biases)]
        return self._hidden(x, layers, frozen, members)

    def head(self, features: Tensor) -> Tensor:
        """Apply the last layer: (E, N, feature_size) to (E, N, output_size)."""
        return torch.baddbmm(self.head_bias.transpose(1, 2), features, self.head_weight.transpose(1, 2))

    def _hidden(self, x: Tensor, layers: Sequence[Tensor], frozen: bool, members: Members) -> Tensor:
        count = len(layers) // 2
        hidden = x
        if x.ndim == 2:
            hidden = x.expand(len(layers[0] if count else _chosen(self.head_weight, True, members)), *x.shape)
        with self.hidden_precision(x.device):
            for layer in range(count):
                hidden = torch.baddbmm(layers[count + layer], hidden, layers[layer])
                if self.gains:
                    gain, shift = (_chosen(group[layer], frozen, members) for group in (self.gains, self.shifts))
                    hidden = F.layer_norm(hidden, hidden.shape[-1:]) * gain + shift
                hidden = self.activation(hidden)
        return hidden.float() if self.bf16 else hidden


class ReluChain(torch.autograd.Function):
    """Layers h_l = relu(h_{l-1} W_l + b_l), and (V h^T)^T + c at the end, of E networks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        *layers, head_weight, head_bias = parameters
        count = len(layers) // 2
        hidden = [x.expand(len(head_weight), *x.shape) if x.ndim == 2 else x]
        for layer in range(count):
            hidden.append(torch.baddbmm(layers[count + layer], hidden[-1], layers[layer]).relu_())
        ctx.shared_input = x.ndim == 2
        ctx.save_for_backward(*hidden, *layers[:count], head_weight)
        return torch.baddbmm(head_bias, head_weight, hidden[-1].transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError("ReluChain cannot be differentiated twice; set DenseEnsemble.chain to False.")
        count = len(ctx.saved_tensors) // 2 - 1
        hidden, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        by_x, *wanted = ctx.needs_input_grad
        gradients: list[Tensor | None] = [None] * len(wanted)
        if wanted[-1]:
            gradients[-2:] = [torch.bmm(by_out.transpose(1, 2), hidden[-1]), by_out.sum(1).unsqueeze(-1)]
        if not (by_x or any(wanted[:-2])):
            return (None, *gradients)
        # A product with one column is a plain multiplication, ten times faster as such.
        grad = by_out * weights[-1] if by_out.shape[-1] == 1 else torch.bmm(by_out, weights[-1])
        for layer in reversed(range(count)):
            torch.ops.aten.threshold_backward.grad_input(grad, hidden[layer + 1], 0, grad_input=grad)  # grad * [h > 0]
            if wanted[layer]:
                gradients[layer] = torch.bmm(hidden[layer].transpose(1, 2), grad)
                gradients[count + layer] = grad.sum(1, keepdim=True)
            if layer or by_x:
                grad = torch.bmm(grad, weights[layer].transpose(1, 2))
        if not by_x:
            return (None, *gradients)
        return (grad.sum(0) if ctx.shared_input else grad, *gradients)


def _chosen(parameter: Tensor, frozen: bool, members: Members) -> Tensor:
    if frozen:
        parameter = parameter.detach()
    return parameter if members is None else parameter[members]


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-1.0, 1.0) / math.sqrt(fan_in))
