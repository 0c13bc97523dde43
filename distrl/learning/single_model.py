"""Algorithms that learn all networks as one module with one optimizer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import NonFiniteError
from distrl.base.pack import State
from distrl.learning.algorithm import Algorithm, non_finite_cause
from distrl.models.parameters.adam import FlatAdam
from distrl.models.parameters.flat import FlatParameters
from distrl.models.parameters.trained import TrainedModule


class SingleModelAlgorithm(Algorithm):
    """Base of the algorithms whose whole model is one `TrainedModule`."""

    adam_eps: ClassVar[float] = 1e-5

    def __init__(self, config: Any, model: Any, **options: Any):
        super().__init__(config, model, **options)
        self.rng = np.random.default_rng(0)
        self._train(TrainedModule(self.model, self.make_optimizer))

    def _train(self, trained: TrainedModule) -> None:
        self.trained, self.flat = trained, trained.flat

    def make_optimizer(self, flat: FlatParameters) -> torch.optim.Optimizer:
        """Build the optimizer: Adam over the flat vector in one fused kernel."""
        return FlatAdam(flat.parameter(), eps=self.adam_eps)

    def set_learning_rates(self) -> None:
        """Give the optimizer the step sizes of the resolved config."""
        self.trained.set_learning_rates(float(self.config.learning_rate))

    def clip_gradient(self) -> Any:
        """Scale the gradient to norm `max_grad_norm` at most; returns the norm before."""
        return self.trained.clip(self.config.max_grad_norm)

    def refuse(self, *batches: Columns) -> NonFiniteError:
        """Return the error for an update that was rolled back."""
        return NonFiniteError(
            non_finite_cause(*batches), "The weights are those before this update; lower learning_rate."
        )

    def state(self) -> State:
        model: dict[str, Tensor] = self.model.state_dict()
        return {
            "model": {name: value.clone() for name, value in model.items()},
            "optimizer": self.trained.optimizer_state(),
        }

    def load_state(self, state: State) -> None:
        self.model.load_state_dict({name: torch.as_tensor(value) for name, value in state["model"].items()})
        self.trained.load_optimizer_state(state["optimizer"])
