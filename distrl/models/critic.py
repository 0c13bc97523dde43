"""The critic: observations to values."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distrl.models.dense import orthogonal
from distrl.models.torsos import through_head

VALUE_GAIN = 1.0


class Critic(nn.Module):
    """A value head on its own torso, or on features that the policy computes.

    Args:
        torso: Its own torso, or None where policy and critic share theirs.
        feature_size: Width of the features that the head reads.
    """

    def __init__(self, torso: Any, feature_size: int):
        super().__init__()
        self.torso = torso
        self.head = orthogonal(nn.Linear(feature_size, 1), VALUE_GAIN)

    def forward(self, obs: Any) -> Tensor:
        """Values (N,) of normalized observations, tree (N, ...). Only with its own torso."""
        return through_head(self.torso, self.head, obs).squeeze(-1)

    def of_features(self, features: Tensor) -> Tensor:
        """Values (...) of features (..., feature_size)."""
        return F.linear(features, self.head.weight, self.head.bias).squeeze(-1)
