"""Actor-critic whose value is distilled from the quantiles of a side network (PG-Rainbow)."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_leaves
from distrl.config.sections.model import ModelConfig
from distrl.control.models.actor_critic import ActorCritic
from distrl.control.models.q_network import QPolicy
from distrl.models.layers.dense import HIDDEN_GAIN, orthogonal

#: Smallest root mean square that quantiles are divided by.
SMALLEST_SCALE = 1e-6


class DistilledActorCritic(ActorCritic):
    """V_psi(s) = f_psi(V_theta(s) * q(s)), with N quantiles q of a separately trained network.

    The side network is no submodule and gets no gradient. Its quantiles are divided by `scale`, their root mean square;
    until `ready`, every quantile is 1.

    Args:
        hidden: Units of f's hidden layer; 0 makes f the mean, without parameters.
        averaged: Average the quantiles over the policy's actions instead of taking the best action's.
    """

    ready: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        *,
        side: QPolicy,
        quantiles: int,
        hidden: int,
        averaged: bool = True,
        **options: Any,
    ):
        super().__init__(observation_space, action_space, model_config, **options)
        self.quantile_count, self.averaged = quantiles, averaged
        self.distill: nn.Sequential | None = None
        if hidden:
            first = orthogonal(nn.Linear(quantiles, hidden), HIDDEN_GAIN)
            self.distill = nn.Sequential(first, nn.ReLU(), orthogonal(nn.Linear(hidden, 1), 1.0))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.register_buffer("scale", torch.ones(()))
        self._side = (side,)  # in a tuple: neither parameters nor state of this module

    @property
    def side(self) -> QPolicy:
        """The quantile network."""
        return self._side[0]

    def critic_forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> Tensor:
        return self.distilled(super().critic_forward(obs, state, first), self.quantiles(obs))

    def evaluate(
        self,
        obs: Tree,
        state: Tree = None,
        first: Tensor | None = None,
        levels: Tensor | None = None,
        quantiles: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As in `ActorCritic`; `quantiles` (N_rows, N) where they are known already."""
        params, value = super().evaluate(obs, state, first, levels)
        return params, self.distilled(value, self.quantiles(obs) if quantiles is None else quantiles)

    def distilled(self, value: Tensor, quantiles: Tensor) -> Tensor:
        """f(V_theta * q): (...) from values (...) and quantiles (..., N)."""
        joint = value.unsqueeze(-1) * quantiles
        return joint.mean(-1) if self.distill is None else self.distill(joint).squeeze(-1)

    @torch.no_grad()
    def quantiles(self, obs: Tree) -> Tensor:
        """q(s) / scale, (B, N), of normalized observations, tree (B, ...)."""
        if not bool(self.ready):
            leaf = tree_leaves(obs)[0]
            return torch.ones(len(leaf), self.quantile_count, device=leaf.device)
        return self.raw_quantiles(obs) / self.scale

    @torch.no_grad()
    def raw_quantiles(self, obs: Tree) -> Tensor:
        """Compute return quantiles (B, N) at even levels, for the policy's or the best action."""
        params = self.side.returns(obs)
        values = params[..., : self.quantile_count]  # (B, A, N); the levels follow
        if self.averaged:
            weight = self.policy(obs)[0].softmax(-1)
        else:
            best = self.side.distribution.mean(params).argmax(-1)
            weight = nn.functional.one_hot(best, values.shape[1]).to(values.dtype)
        return (weight.unsqueeze(-1) * values).sum(1)

    @torch.no_grad()
    def measure_scale(self, quantiles: Tensor, rate: float) -> None:
        """Let `scale` follow the root mean square of raw quantiles; the first ones set it."""
        size = quantiles.square().mean().sqrt().clamp_min(SMALLEST_SCALE)
        self.scale.copy_(torch.where(self.ready, self.scale.lerp(size, rate), size))
