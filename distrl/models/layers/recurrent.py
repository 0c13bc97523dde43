"""GRU or LSTM memory, whose state is zeroed before a step that is `first`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_map, tree_stack
from distrl.base.errors import ConfigError, unknown
from distrl.config.sections.model import ModelConfig
from distrl.models.layers.recurrent_unroll import GRUUnroll, LSTMUnroll


class Memory(nn.Module):
    """Base class of GRU and LSTM, with weights as in `torch.nn.GRUCell` and `LSTMCell`.

    With `twice_differentiable`, unroll by plain autograd, which is several times slower.
    """

    gates: int
    twice_differentiable = False

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.size = int(size)
        self.weight_ih = nn.Parameter(torch.empty(self.gates * size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * size, size))
        self.bias_ih = nn.Parameter(torch.zeros(self.gates * size))
        self.bias_hh = nn.Parameter(torch.zeros(self.gates * size))
        for weight in (*self.weight_ih.chunk(self.gates), *self.weight_hh.chunk(self.gates)):
            nn.init.orthogonal_(weight)

    def initial_state(self, batch: int) -> Tree:
        """The state before an episode, zeros (B, size)."""
        return self.weight_hh.new_zeros(batch, self.size)

    def step(self, gates: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """Take one step from gates (B, gates * size): features (B, size) and the next state."""
        raise NotImplementedError

    def forward(self, features: Tensor, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """One step: features (B, input_size) to (B, size) and the state after it."""
        if state is None:
            state = self.initial_state(features.shape[0])
        elif first is not None:
            state = _reset(state, _keep(first, features.dtype))
        return self.step(F.linear(features, self.weight_ih, self.bias_ih), state)

    def unroll(self, features: Tensor, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Map features (T, B, input_size) to (T, B, size), and the states after each step."""
        steps, batch = features.shape[:2]
        state = self.initial_state(batch) if state is None else state
        keep = None if first is None else _keep(first, features.dtype)
        resets = [False] * steps if first is None else first.any(1).tolist()
        gates = F.linear(features, self.weight_ih, self.bias_ih)
        if not self.twice_differentiable:
            return self.sequence(gates, state, keep, resets)
        outputs, states = [], []
        for t in range(steps):
            if keep is not None and resets[t]:
                state = _reset(state, keep[t])
            output, state = self.step(gates[t], state)
            outputs.append(output)
            states.append(state)
        return torch.stack(outputs), tree_stack(states)

    def sequence(self, gates: Tensor, state: Tree, keep: Tensor | None, resets: list[bool]) -> tuple[Tensor, Tree]:
        """All steps from the input half of the gates (T, B, gates * size): see `memory_unroll`."""
        raise NotImplementedError


class GRU(Memory):
    """Gated recurrent unit (Cho et al. 2014, as in torch): the state is the output, (B, size)."""

    gates = 3

    def step(self, gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self.size
        hidden = F.linear(state, self.weight_hh, self.bias_hh)
        reset, update = torch.sigmoid(gates[..., : 2 * size] + hidden[..., : 2 * size]).chunk(2, -1)
        candidate = torch.tanh(torch.addcmul(gates[..., 2 * size :], reset, hidden[..., 2 * size :]))
        state = torch.lerp(candidate, state, update)
        return state, state

    def sequence(self, gates: Tensor, state: Tree, keep: Tensor | None, resets: list[bool]) -> tuple[Tensor, Tree]:
        states = GRUUnroll.apply(gates, state, self.weight_hh, self.bias_hh, keep, resets)
        return states, states


class LSTM(Memory):
    """LSTM (Hochreiter and Schmidhuber 1997, with forget gate): the state is (output, cell)."""

    gates = 4

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = self.weight_hh.new_zeros(batch, self.size)
        return zeros, zeros.clone()

    def step(self, gates: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = state
        inlet, forget, content, outlet = (gates + F.linear(hidden, self.weight_hh, self.bias_hh)).chunk(4, -1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(inlet) * torch.tanh(content)
        hidden = torch.sigmoid(outlet) * torch.tanh(cell)
        return hidden, (hidden, cell)

    def sequence(self, gates: Tensor, state: Tree, keep: Tensor | None, resets: list[bool]) -> tuple[Tensor, Tree]:
        states = LSTMUnroll.apply(gates, *state, self.weight_hh, self.bias_hh, keep, resets)
        return states[0], states


MEMORIES: dict[str, type[Memory]] = {"gru": GRU, "lstm": LSTM}


def build_memory(input_size: int, model_config: ModelConfig) -> Memory | None:
    """Build the memory that `model_config.recurrent` names; None for none."""
    name = model_config.recurrent
    if name is None:
        return None
    if name not in MEMORIES:
        raise ConfigError(unknown("recurrent", str(name), MEMORIES))
    return MEMORIES[name](input_size, model_config.recurrent_size)


def _keep(first: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where the state is kept, 0 where it is reset, with a trailing dimension of 1."""
    return torch.logical_not(first).to(dtype).unsqueeze(-1)


def _reset(state: Tree, keep: Tensor) -> Tree:
    return tree_map(lambda leaf: leaf * keep, state)
