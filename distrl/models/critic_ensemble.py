"""E critics Q(s, a) of one shape: observations and actions to return distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distrl.models.dense_ensemble import DenseEnsemble
from distrl.models.observation_vector import ObservationVector


class CriticEnsemble(nn.Module):
    """Observations and unit actions to the flat parameters of E return distributions.

    So a critic may say a number, quantiles, or any other law. A torso, where pictures need one, is shared.

    Args:
        observation_space: Of one environment.
        action_size: Numbers in one action.
        model_config: Reads torso, hidden, activation.
        critics: E.
        output_size: P, numbers that describe one return distribution.
        hidden: Layer sizes in place of `model_config.hidden`.
        layer_norm: Normalize hidden layers: keeps values in bounds at high replay ratios (Ball et al. 2023, section
            4.2).
    """

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        model_config: Any,
        *,
        critics: int = 2,
        output_size: int = 1,
        hidden: Sequence[int] | None = None,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.critics, self.output_size = critics, output_size
        self.encoder = ObservationVector(observation_space, model_config)
        self.dense = DenseEnsemble(
            critics,
            self.encoder.output_size + action_size,
            model_config.hidden if hidden is None else hidden,
            output_size,
            model_config.activation,
            layer_norm,
        )

    def forward(self, obs: Any, action: Tensor, *, frozen: bool = False, members: Any = None) -> Tensor:
        """Parameters of return distributions, (E, N, P).

        Args:
            obs: Normalized observations, tree (N, ...).
            action: Unit actions (N, action_size).
            frozen: Gradients flow into `action` only, not into this module: what an actor's update needs.
            members: Ask these critics only: a slice, or a list of numbers.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            vector = self.encoder(obs)
        return self.dense(torch.cat((vector, action), -1), frozen=frozen, members=members)  # type: ignore[no-any-return]
