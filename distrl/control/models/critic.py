"""Critics: observations to values, or to whole distributions of the return."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.functional.risk.measures import RiskMeasure
from distrl.models.heads.base import ReturnHead
from distrl.models.layers.dense import orthogonal
from distrl.models.layers.torsos import through_head

VALUE_GAIN = 1.0


class Critic(nn.Module):
    """Value head on its own torso, or on shared features where `torso` is None."""

    def __init__(self, torso: Any, feature_size: int):
        super().__init__()
        self.torso = torso
        self.head = orthogonal(nn.Linear(feature_size, 1), VALUE_GAIN)

    def forward(self, obs: Tree, levels: Tensor | None = None) -> Tensor:
        """Values (N,) of normalized observations, tree (N, ...). Only with its own torso."""
        return through_head(self.torso, self.head, obs).squeeze(-1)

    def of_features(self, features: Tensor, levels: Tensor | None = None) -> Tensor:
        """Values (...) of features (..., feature_size)."""
        return F.linear(features, self.head.weight, self.head.bias).squeeze(-1)

    def value(self, output: Tensor) -> Tensor:
        """The value in what `forward` gives: here, all of it."""
        return output


class DistributionalCritic(nn.Module):
    """Critic whose output is a return distribution, and whose value is its mean or `risk`."""

    def __init__(self, torso: Any, head: ReturnHead, risk: RiskMeasure):
        super().__init__()
        self.torso = torso
        self.head = head
        self.distribution = head.distribution
        self.risk = risk

    def forward(self, obs: Tree, levels: Tensor | None = None) -> Tensor:
        """Compute parameters (N, P); only with its own torso.

        Heads with random levels are deterministic without `levels (N, noise_size)`.
        """
        return self.of_features(self.torso(obs), levels)

    def of_features(self, features: Tensor, levels: Tensor | None = None) -> Tensor:
        """Parameters (..., P) of features (..., feature_size)."""
        return self.head(features, levels).squeeze(-2)

    def value(self, output: Tensor) -> Tensor:
        """The risk-adjusted value (...) of distributions (..., P)."""
        return self.distribution.risk(output, self.risk)
