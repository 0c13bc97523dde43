"""GRU and LSTM over whole sequences with resets, with explicit backward passes.

Per step the backward pass is one product with the recurrent weights; other factors and weight gradients are computed
for all steps at once. Gradients are exact but not differentiable again (see `Memory.twice_differentiable`).

Shapes: T steps, B sequences, H units. `gates (T, B, k * H)` is the input half of the gates, biases included. `keep (T,
B, 1)` is 0 where the state is reset before the step, else 1; `resets` lists these steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class GRUUnroll(torch.autograd.Function):
    """`apply(gates (T, B, 3H), state (B, H), weight, bias, keep, resets) -> states (T, B, H)`."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, state: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, resets: list[bool]
    ) -> Tensor:
        size, transposed = state.shape[-1], weight.t()
        sigmoid_gates, tanh_gates = gates.split((2 * size, size), -1)
        keeps = None if keep is None else keep.unbind(0)
        before, mixes, candidates, hiddens, after = [], [], [], [], []
        for t, (sigmoid_gate, tanh_gate) in enumerate(zip(sigmoid_gates.unbind(0), tanh_gates.unbind(0), strict=True)):
            if keeps is not None and resets[t]:
                state = state * keeps[t]
            sigmoid_hidden, hidden = torch.addmm(bias, state, transposed).split((2 * size, size), -1)
            mix = torch.sigmoid(sigmoid_gate + sigmoid_hidden)
            candidate = torch.tanh(torch.addcmul(tanh_gate, mix[:, :size], hidden))
            before.append(state)
            mixes.append(mix)
            candidates.append(candidate)
            hiddens.append(hidden)
            state = torch.lerp(candidate, state, mix[:, size:])
            after.append(state)
        saved = [torch.stack(steps) for steps in (before, mixes, candidates, hiddens)]
        ctx.save_for_backward(weight, keep, *saved)
        ctx.resets = resets
        return torch.stack(after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, keep, before, mixes, candidates, hiddens = ctx.saved_tensors
        reset, update = mixes.chunk(2, -1)
        # Derivatives of the new state by the arguments of the three gates, through tanh and sigmoid.
        by_candidate = (1 - update) * (1 - candidates.square())
        by_reset = by_candidate * hiddens * reset * (1 - reset)
        by_update = (before - candidates) * update * (1 - update)
        factors = torch.stack((by_reset, by_update, by_candidate * reset), -2)
        batch, size = before.shape[1:]
        carry = torch.zeros_like(before[0])
        grads, grads_hidden = [carry] * len(before), [carry] * len(before)
        for t in range(len(before) - 1, -1, -1):
            grads[t] = grad_state = grad[t] + carry
            grads_hidden[t] = (grad_state.unsqueeze(1) * factors[t]).view(batch, 3 * size)
            carry = torch.addmm(grad_state * update[t], grads_hidden[t], weight)
            if keep is not None and ctx.resets[t]:
                carry = carry * keep[t]
        grad_hidden = torch.stack(grads_hidden)
        grad_gates = torch.cat((grad_hidden[..., : 2 * size], torch.stack(grads) * by_candidate), -1)
        return grad_gates, carry, *_weight_grads(grad_hidden, before), None, None


class LSTMUnroll(torch.autograd.Function):
    """`apply(gates (T, B, 4H), state, cell (B, H), weight, bias, keep, resets)`.

    Gates are in torch's order: input, forget, content, output. Returns the states and cells (T, B, H) after each step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        state: Tensor,
        cell: Tensor,
        weight: Tensor,
        bias: Tensor,
        keep: Tensor | None,
        resets: list[bool],
    ) -> tuple[Tensor, Tensor]:
        size, transposed = state.shape[-1], weight.t()
        keeps = None if keep is None else keep.unbind(0)
        before, cells_before, activations, squashed, after, cells = [], [], [], [], [], []
        for t, gate in enumerate((gates + bias).unbind(0)):
            if keeps is not None and resets[t]:
                state, cell = state * keeps[t], cell * keeps[t]
            before.append(state)
            cells_before.append(cell)
            total = torch.addmm(gate, state, transposed)
            active = torch.sigmoid(total)
            content = torch.tanh(total[:, 2 * size : 3 * size])
            active[:, 2 * size : 3 * size] = content
            cell = torch.addcmul(active[:, size : 2 * size] * cell, active[:, :size], content)
            tanh_cell = torch.tanh(cell)
            state = active[:, 3 * size :] * tanh_cell
            activations.append(active)
            squashed.append(tanh_cell)
            after.append(state)
            cells.append(cell)
        saved = [torch.stack(steps) for steps in (before, cells_before, activations, squashed)]
        ctx.save_for_backward(weight, keep, *saved)
        ctx.resets = resets
        return torch.stack(after), torch.stack(cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_cells: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, keep, before, cells_before, activations, squashed = ctx.saved_tensors
        inlet, forget, content, outlet = activations.chunk(4, -1)
        # Derivatives of the cell by the arguments of its three gates, of the state by the output gate's and the cell.
        cell_factors = torch.stack(
            (content * inlet * (1 - inlet), cells_before * forget * (1 - forget), inlet * (1 - content.square())), -2
        )
        by_outlet = squashed * outlet * (1 - outlet)
        by_cell = outlet * (1 - squashed.square())
        batch, size = before.shape[1:]
        carry = carry_cell = torch.zeros_like(before[0])
        grads_total = [carry] * len(before)
        for t in range(len(before) - 1, -1, -1):
            grad_state = grad[t] + carry
            grad_cell = torch.addcmul(grad_cells[t] + carry_cell, grad_state, by_cell[t])
            by_three = (grad_cell.unsqueeze(1) * cell_factors[t]).view(batch, 3 * size)
            grads_total[t] = torch.cat((by_three, grad_state * by_outlet[t]), -1)
            carry, carry_cell = grads_total[t] @ weight, grad_cell * forget[t]
            if keep is not None and ctx.resets[t]:
                carry, carry_cell = carry * keep[t], carry_cell * keep[t]
        grad_total = torch.stack(grads_total)
        return grad_total, carry, carry_cell, *_weight_grads(grad_total, before), None, None


def _weight_grads(grad: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of weight and bias from those of `before @ weight.T + bias`."""
    rows = grad.flatten(0, 1)
    return rows.t() @ before.flatten(0, 1), rows.sum(0)
