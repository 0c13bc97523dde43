"""Orchestrated value mapping: expected returns of reward channels, each under its own map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.functional.atoms import Atoms, atoms_mean
from distrl.functional.distributions.base import ReturnDistribution
from distrl.functional.distributions.quantile_loss import huber
from distrl.functional.distributions.value_maps import ValueMap, compose


class MappedChannels(ReturnDistribution):
    """Mapped means of reward channels: params (..., L). Fatemi and Tavakoli 2022.

    Q~_j = f_j(Q_j) for channels r_j with r = sum_j w_j r_j: a distribution of one atom with L channels, with targets
    r_j + discount * f_j^-1(Q~_j) as for joint distributions; the loss compares in the mapped space.

    Args:
        maps: f_j, one for each channel.
        weights: w_j.
        kappa: Huber threshold in the mapped space; None squares.
    """

    ordered = True

    def __init__(self, maps: Sequence[ValueMap], weights: Sequence[float], kappa: float | None = 1.0):
        self.maps, self.weights, self.kappa = list(maps), tuple(weights), kappa
        self.param_size = self.channels = len(self.maps)

    def mean(self, params: Tensor) -> Tensor:
        return compose(params, self.maps, self.weights)

    def atoms(self, params: Tensor) -> Atoms:
        mean = self.mean(params).unsqueeze(-1)
        return Atoms(mean, torch.ones_like(mean))

    def target_atoms(self, params: Tensor) -> Atoms:
        """Return Q_j of every channel, unmapped: values (..., 1, L)."""
        parts = [f.inverse(q) for f, q in zip(self.maps, params.unbind(-1), strict=True)]
        values = torch.stack(parts, -1).unsqueeze(-2)
        return Atoms(values, torch.ones_like(values[..., 0]))

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        """Sum Huber's loss of f_j(target_j) - Q~_j over channels (...). Targets (..., M, L)."""
        with torch.no_grad():
            means = [atoms_mean(values, target_probs) for values in target_values.unbind(-1)]
            goals = torch.stack([f.forward(mean) for f, mean in zip(self.maps, means, strict=True)], -1)
        return huber(goals - params, self.kappa).sum(-1)
