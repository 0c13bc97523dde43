"""`Part`: a module that is learned as one piece, with its flat parameters, its optimizer and its slow copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrl.models.parameters.adam import FlatAdam
from distrl.models.parameters.flat import FlatParameters, flatten_parameters


class Part:
    """Parameters in one flat vector, Adam over it in one fused kernel, and a target network where one is wanted.

    Args:
        module: On its device already. Parts of one algorithm share no parameters.
        target: Keep a slow copy, `target`, that `track` moves.
        eps: Of Adam.

    Attributes:
        flat: The module's parameters and gradients as vectors.
        target: The slow copy, or None. Its parameters take no gradients.
    """

    def __init__(self, module: nn.Module, *, target: bool = False, eps: float = 1e-8):
        self.module = module
        self.target: Any = (
            None if not target else copy.deepcopy(module)
        )  # before flattening: views do not survive a copy
        self.flat = flatten_parameters(module)
        self.parameter = nn.Parameter(self.flat.data)
        self.parameter.grad = self.flat.grad
        self.optimizer = FlatAdam(self.parameter, lr=0.0, eps=eps)
        self.target_flat: FlatParameters | None = None
        if self.target is not None:
            self.target_flat = flatten_parameters(self.target)
            self.target.requires_grad_(False)
        self._kept: dict[str, Tensor] = {}

    def step(self, loss: Tensor, learning_rate: float, max_norm: float | None = None) -> Tensor:
        """Minimize: one backward pass and one optimizer step. Returns the gradient's norm before clipping."""
        self.flat.zero_grad()
        loss.backward()
        return self.apply(learning_rate, max_norm)

    def apply(self, learning_rate: float, max_norm: float | None = None) -> Tensor:
        """One optimizer step along the gradient that is there. Returns its norm before clipping."""
        grad = self.flat.grad
        norm = torch.linalg.vector_norm(grad)
        if max_norm is not None:
            grad.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return norm

    def track(self, tau: float = 1.0) -> None:
        """Move the target's parameters by tau towards the module's: target += tau * (module - target)."""
        assert self.target_flat is not None
        if tau >= 1.0:
            self.target_flat.data.copy_(self.flat.data)
        else:
            self.target_flat.data.lerp_(self.flat.data, tau)

    # ---- state -----------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that learning changes, besides the module's buffers."""
        found = {"data": self.flat.data}
        if self.target_flat is not None:
            found["target"] = self.target_flat.data
        slots = self.optimizer.state.get(self.parameter, {})
        return {**found, **{f"adam_{name}": value for name, value in slots.items()}}

    def remember(self) -> None:
        """Keep a copy of everything, for `restore`; into the same memory each time."""
        tensors = self._tensors()
        if self._kept.keys() != tensors.keys():
            self._kept = {name: torch.empty_like(value) for name, value in tensors.items()}
        for name, value in tensors.items():
            self._kept[name].copy_(value)

    def restore(self) -> None:
        """Back to what `remember` kept."""
        if not any(name.startswith("adam_") for name in self._kept):
            self.optimizer.state.clear()
        for name, value in self._tensors().items():
            value.copy_(self._kept[name])
        self.flat.zero_grad()  # a NaN in the gaps between gradients would stay there

    def state(self) -> dict[str, Tensor]:
        """A state for `base.pack`."""
        return {name: value.clone() for name, value in self._tensors().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.flat.data.copy_(_tensor(state["data"]))
        if self.target_flat is not None:
            self.target_flat.data.copy_(_tensor(state["target"]))
        slots = {name.removeprefix("adam_"): _tensor(value) for name, value in state.items() if name[:5] == "adam_"}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {0: slots} if slots else {}, "param_groups": groups})


def _tensor(value: Any) -> Tensor:
    return torch.tensor(value) if isinstance(value, np.ndarray) else value.clone()
