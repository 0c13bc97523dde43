"""E critics Q(s, a) of one shape: observations and actions to return distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.config.sections.model import ModelConfig
from distrl.control.models.observation_vector import ObservationVector
from distrl.models.heads.make import make_return_head
from distrl.models.layers.dense_ensemble import DenseEnsemble


class CriticEnsemble(nn.Module):
    """E critics: observations and unit actions to parameters of return distributions.

    A torso for images is shared. Families with one linear layer are computed as batched products; implicit ones (IQN,
    FQF) have a head for each critic.

    Args:
        critics: E.
        hidden: Layer sizes in place of `model_config.hidden`.
        layer_norm: Normalize hidden layers, which bounds values at high replay ratios (Ball et al. 2023, section 4.2).
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        model_config: ModelConfig,
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
        """Draw uniform levels (members, rows, noise_size) for implicit heads; None for the others."""
        if not self.noise_size:
            return None
        return rng.random((members or self.critics, rows, self.noise_size), dtype=np.float32)

    def forward(
        self,
        obs: Tree,
        action: Tensor,
        *,
        frozen: bool = False,
        members: slice | Sequence[int] | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Compute parameters of return distributions (E, N, P).

        Args:
            frozen: Gradients flow into `action` only: for the actor's update.
            members: Slice or list of critics; None for all.
            noise: Of `draw_noise` for as many members; without it implicit heads use fixed levels.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            vector = self.encoder(obs)
        x = torch.cat((vector, action), -1)
        if not self.heads:
            return self.dense(x, frozen=frozen, members=members)  # type: ignore[no-any-return]
        features = self.dense.features(x, frozen=frozen, members=members)
        every = range(self.critics)
        chosen = self.heads[members] if isinstance(members, slice) else [self.heads[i] for i in members or every]
        rows = []
        for i, head in enumerate(chosen):
            inputs = (features[i], None if noise is None else noise[i])
            if frozen:
                fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
                rows.append(torch.func.functional_call(head, fixed, inputs))
            else:
                rows.append(head(*inputs))
        return torch.stack(rows).squeeze(-2)
