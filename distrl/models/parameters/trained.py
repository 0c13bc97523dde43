"""`TrainedModule`: a module with its optimizer and an optional target network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrl.base.pack import State
from distrl.models.parameters.adam import FlatAdam
from distrl.models.parameters.flat import FlatParameters, flatten_parameters


class TrainedModule:
    """Flat parameters of a module, their optimizer, and an optional target network.

    Args:
        module: On its device already. Modules of one algorithm share no parameters.
        make_optimizer: Builds an optimizer over the flat vector, in one or more parameter groups. Default: Adam.
        target: Keep a copy without gradients, `target`, which `track` moves.
        eps: Epsilon of the default Adam.
        flat: The module's flat parameters, if they exist already.
    """

    def __init__(
        self,
        module: nn.Module,
        make_optimizer: Callable[[FlatParameters], torch.optim.Optimizer] | None = None,
        *,
        target: bool = False,
        eps: float = 1e-8,
        flat: FlatParameters | None = None,
    ):
        self.module = module
        self.target: Any = copy.deepcopy(module) if target else None  # before flattening: copies have no views
        self.flat = flatten_parameters(module) if flat is None else flat
        self.optimizer: torch.optim.Optimizer = (
            make_optimizer(self.flat) if make_optimizer else FlatAdam(self.flat.parameter(), lr=0.0, eps=eps)
        )
        self.target_flat: FlatParameters | None = None
        if self.target is not None:
            self.target_flat = flatten_parameters(self.target)
            self.target.requires_grad_(False)
        self._saved: dict[str, Tensor] = {}

    def minimize(self, loss: Tensor, learning_rate: float, max_norm: float | None = None) -> Tensor:
        """Take one optimizer step on a loss. Returns the gradient's norm before clipping."""
        self.flat.zero_grad()
        loss.backward()
        return self.step(learning_rate, max_norm)

    def step(self, learning_rate: float, max_norm: float | None = None) -> Tensor:
        """Take one optimizer step along the present gradient. Returns its norm before clipping."""
        norm = self.clip(max_norm)
        self.set_learning_rates(learning_rate)
        self.optimizer.step()
        return norm

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale the gradient to norm `max_norm` at most; returns the norm before."""
        norm = torch.linalg.vector_norm(self.flat.grad)
        if max_norm is not None:
            self.flat.grad.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def set_learning_rates(self, *rates: float) -> None:
        """Set the step size of each parameter group."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def track(self, tau: float = 1.0) -> None:
        """Move the target's parameters: target += tau * (module - target)."""
        assert self.target_flat is not None
        if tau >= 1.0:
            self.target_flat.data.copy_(self.flat.data)
        else:
            self.target_flat.data.lerp_(self.flat.data, tau)

    def reset(self, fresh: nn.Module) -> None:
        """Restart from the weights of another module: optimizer moments 0, the target a copy."""
        self.flat.data.copy_(flatten_parameters(fresh).data)
        for slot in self._moments().values():
            slot.zero_()
        if self.target is not None:
            self.track(1.0)

    def remember(self) -> None:
        """Copy weights, target and optimizer state, for `rollback`."""
        tensors = self._tensors()
        if self._saved.keys() != tensors.keys():
            self._saved = {name: torch.empty_like(value) for name, value in tensors.items()}
        for name, value in tensors.items():
            self._saved[name].copy_(value)

    def rollback(self) -> None:
        """Restore what `remember` copied."""
        if not any(name.startswith("optimizer.") for name in self._saved):
            self.optimizer.state.clear()
        for name, value in self._tensors().items():
            value.copy_(self._saved[name])
        self.flat.zero_grad()  # a NaN in the gaps between gradients would stay there

    def forget(self) -> None:
        """Free the memory of `remember`."""
        self._saved = {}

    def _tensors(self) -> dict[str, Tensor]:
        """Return everything that learning changes, besides the module's buffers."""
        found = {"data": self.flat.data}
        if self.target_flat is not None:
            found["target"] = self.target_flat.data
        return {**found, **{f"optimizer.{key}": value for key, value in self._moments().items()}}

    def _moments(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors by number of the parameter and name."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return {
            f"{number}.{name}": value
            for number, parameter in enumerate(parameters)
            for name, value in self.optimizer.state.get(parameter, {}).items()
        }

    def state(self) -> State:
        """Return a state for `base.pack`: weights, target and optimizer."""
        target = None if self.target_flat is None else self.target_flat.data.clone()
        return {"data": self.flat.data.clone(), "target": target, "optimizer": self.optimizer_state()}

    def load_state(self, state: State) -> None:
        """Load what `state` returned."""
        self.flat.data.copy_(_tensor(state["data"]))
        if self.target_flat is not None:
            self.target_flat.data.copy_(_tensor(state["target"]))
        self.load_optimizer_state(state["optimizer"])

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimizer's tensors: number of the parameter -> name -> tensor."""
        slots: dict[str, dict[str, Tensor]] = {}
        for key, value in self._moments().items():
            number, name = key.split(".", 1)
            slots.setdefault(number, {})[name] = value.clone()
        return slots

    def load_optimizer_state(self, state: Mapping[str, Mapping[str, np.ndarray | Tensor]]) -> None:
        """Load what `optimizer_state` returned."""
        slots = {int(key): {name: _tensor(value) for name, value in slot.items()} for key, slot in state.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _tensor(value: np.ndarray | Tensor) -> Tensor:
    return torch.tensor(value) if isinstance(value, np.ndarray) else value.clone()
