"""Temporal-difference learning of tables from single transitions: of means, and of quantiles."""

from __future__ import annotations

import torch
from torch import Tensor


def td_update(
    values: Tensor, state: int, reward: float, next_state: int, gamma: float, step: float, terminated: bool = False
) -> None:
    """TD(0), in place: V(s) += step (r + gamma V(s') - V(s)); the baseline of quantile TD.

    Args:
        values: (S,).
        terminated: The episode ended with this step, so V(s') counts as 0.
    """
    target = reward + (0.0 if terminated else gamma * float(values[next_state]))
    values[state] += step * (target - float(values[state]))


def qtd_update(
    theta: Tensor, state: int, reward: float, next_state: int, gamma: float, step: float, terminated: bool = False
) -> None:
    """Update quantiles in place: theta_i(s) += step mean_j [tau_i - 1{r + gamma theta_j(s') < theta_i(s)}].

    Rowland et al. 2023. The value of a state is the mean of its quantiles. An update moves no quantile by more than
    `step`, however large the reward: with heavy-tailed rewards the mean is estimated better than by `td_update`.

    Args:
        theta: (S, m) quantiles at (2i - 1) / (2m).
        step: Step size; 10 to 100 times that of TD.
    """
    size = theta.shape[1]
    tau = (torch.arange(size, dtype=theta.dtype) + 0.5) / size
    after = torch.zeros_like(tau) if terminated else theta[next_state]
    targets = (reward + gamma * after).sort().values
    # the share of targets below each quantile, by one search instead of m^2 comparisons
    below = torch.searchsorted(targets.contiguous(), theta[state].contiguous()).to(theta.dtype) / size
    theta[state] += step * (tau - below)
