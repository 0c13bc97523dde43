"""E critics Q(s, a) of one shape: observations and actions to return distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.models.observation_vector import ObservationVector
from distrl.models.heads.make import make_return_head
from distrl.models.layers.dense_ensemble import DenseEnsemble


class CriticEnsemble(nn.Module):
    """Observations and unit actions to the flat parameters of E return distributions.

    A torso, where pictures need one, is shared. Families whose parameters come from one linear layer are part of the
    ensemble's batched products; implicit ones (IQN, FQF) have a head for each critic.

    Args:
        observation_space: Of one environment.
        action_size: Numbers in one action.
        model_config: Reads torso, hidden, activation.
        critics: E.
        head: Family of return distributions, a name or a config.
        hidden: Layer sizes in place of `model_config.hidden`.
        layer_norm: Normalize hidden layers: keeps values in bounds at high replay ratios (Ball et al. 2023, section
            4.2).

    Attributes:
        distribution: The family that reads the parameters.

    Raises:
        ConfigError: A family over several reward channels.
    """

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        model_config: Any,
        *,
        critics: int = 2,
        head: ReturnHeadConfig | str = "scalar",
        hidden: Sequence[int] | None = None,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.critics = critics
        self.encoder = ObservationVector(observation_space, model_config)
        sizes = list(model_config.hidden if hidden is None else hidden)
        prototype = make_return_head(head, sizes[-1] if sizes else self.encoder.output_size + action_size)
        self.distribution = prototype.distribution
        if self.distribution.channels > 1:
            raise ConfigError(
                "a joint return distribution needs several reward channels; continuous control has one.",
                "Use critic_head: quantile, or md3qn for Discrete actions.",
            )
        linear = self.distribution.head == "linear"
        self.dense = DenseEnsemble(
            critics,
            self.encoder.output_size + action_size,
            sizes,
            self.distribution.param_size if linear else 0,
            model_config.activation,
            layer_norm,
        )
        self.heads = nn.ModuleList()
        if linear:
            with torch.no_grad():
                self.dense.head_bias.add_(self.distribution.initial_bias().unsqueeze(-1))
        else:
            self.heads.extend(
                [prototype, *(make_return_head(head, self.dense.feature_size) for _ in range(1, critics))]
            )
        self.noise_size = prototype.noise_size

    def draw_noise(self, rng: np.random.Generator, rows: int, members: int | None = None) -> np.ndarray | None:
        """What implicit heads take while learning: uniform float32 (members, rows, noise_size); None for the others."""
        if not self.noise_size:
            return None
        return rng.random((members or self.critics, rows, self.noise_size), dtype=np.float32)

    def forward(
        self, obs: Any, action: Tensor, *, frozen: bool = False, members: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        """Parameters of return distributions, (E, N, P).

        Args:
            obs: Normalized observations, tree (N, ...).
            action: Unit actions (N, action_size).
            frozen: Gradients flow into `action` only, not into this module: what an actor's update needs.
            members: Ask these critics only: a slice, or a list of their numbers.
            noise: Of `draw_noise`, for as many members; without it implicit heads take fixed levels.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            vector = self.encoder(obs)
        x = torch.cat((vector, action), -1)
        if not self.heads:
            return self.dense(x, frozen=frozen, members=members)  # type: ignore[no-any-return]
        features = self.dense.features(x, frozen=frozen, members=members)
        chosen = self.heads[members] if isinstance(members, slice) else [self.heads[i] for i in members or self._all()]
        rows = []
        for i, head in enumerate(chosen):
            inputs = (features[i], None if noise is None else noise[i])
            if frozen:
                fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
                rows.append(torch.func.functional_call(head, fixed, inputs))
            else:
                rows.append(head(*inputs))
        return torch.stack(rows).squeeze(-2)

    def _all(self) -> range:
        return range(self.critics)
