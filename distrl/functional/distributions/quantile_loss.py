"""Quantile regression: the losses of QR-DQN, IQN and FQF.

The pairwise losses compute their gradient along with their value (one pass over the N x M errors), so they can be
differentiated once only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distrl.functional.atoms import is_one_number
from distrl.functional.distributions.quantile_pairs import pairs, pays


def with_gradient(value: Tensor, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Give `value` (...) the derivative `gradient` (..., N) by `inputs` (..., N), and no other."""
    if not inputs.requires_grad:
        return value
    return value + ((inputs - inputs.detach()) * gradient).sum(-1)


def huber(error: Tensor, kappa: float | None) -> Tensor:
    """Compute 0.5 u^2 up to |u| = kappa, then kappa (|u| - kappa / 2). Huber 1964.

    kappa None is 0.5 u^2 everywhere, 0 is |u|.

    >>> huber(torch.tensor([0.5, 3.0]), 1.0)
    tensor([0.1250, 2.5000])
    """
    if kappa is None:
        return 0.5 * error.square()
    if kappa == 0:
        return error.abs()
    clipped = error.clamp(-kappa, kappa)
    return clipped * (error - 0.5 * clipped)


def quantile_huber(
    values: Tensor, taus: Tensor, target_values: Tensor, target_probs: Tensor, kappa: float = 1.0
) -> Tensor:
    """Compute the quantile Huber loss (...) against atoms. Dabney et al. 2018 (QR-DQN), eq. 10.

    sum_i E_{y ~ target} |tau_i - 1{u_ij < 0}| H_kappa(u_ij) / kappa with u_ij = y_j - theta_i. kappa = 0 is the pinball
    loss, minimized by the target's quantiles; kappa > 0 smooths it and biases quantiles by at most kappa.

    Args:
        values: theta (..., N), the only argument that gets a gradient.
        taus: Levels in (0, 1), (N,) or (..., N).
        target_values, target_probs: y (..., M).
    """
    if is_one_number(target_probs) and pays(values, target_values, kappa):
        with torch.no_grad():
            loss, gradient = pairs(values, taus, target_values, kappa)
        return with_gradient(loss, values, gradient)
    with torch.no_grad():
        error = target_values.unsqueeze(-2) - values.unsqueeze(-1)  # (..., N, M)
        weight = taus.unsqueeze(-1) - (error < 0).to(error.dtype)
        weight.abs_()
        if kappa > 0:
            clipped = error.clamp(-kappa, kappa)
            slope = weight.mul_(clipped).div_(kappa)
            cost = clipped.mul_(-0.5).add_(error).mul_(slope)  # H_kappa(u) = clip(u) (u - clip(u) / 2)
        else:
            slope = weight * error.sign()
            cost = weight.mul_(error.abs_())
        probs = target_probs.unsqueeze(-2)
        loss = cost.mul_(probs).sum((-1, -2))
        gradient = -slope.mul_(probs).sum(-1)
    return with_gradient(loss, values, gradient)


def fraction_term(widths: Tensor, boundary_values: Tensor, midpoint_values: Tensor) -> Tensor:
    """Return zeros (...) whose gradient moves the fractions of FQF. Yang et al. 2019, prop. 1.

    The Wasserstein-1 distance between the quantile function and its N steps changes with boundary tau_i by
    2 F^-1(tau_i) - F^-1(tau_hat_i) - F^-1(tau_hat_{i-1}); values get no gradient.

    Args:
        widths: tau_{i+1} - tau_i, (..., N), summing to 1.
        boundary_values: F^-1(tau_i) for the N - 1 inner boundaries, (..., N - 1).
        midpoint_values: F^-1(tau_hat_i), (..., N).
    """
    taus = widths.cumsum(-1)[..., :-1]
    gradient = 2.0 * boundary_values - midpoint_values[..., 1:] - midpoint_values[..., :-1]
    return with_gradient(torch.zeros_like(widths[..., 0]), taus, gradient.detach())


def cosine_features(taus: Tensor, count: int) -> Tensor:
    """Compute cos(pi i tau), i = 0..count-1, (..., count). Dabney et al. 2018 (IQN), eq. 4.

    >>> cosine_features(torch.tensor(0.5, dtype=torch.float64), 4).round(decimals=6) + 0.0
    tensor([ 1.,  0., -1.,  0.], dtype=torch.float64)
    """
    frequencies = math.pi * torch.arange(count, dtype=taus.dtype, device=taus.device)
    return torch.cos(taus.unsqueeze(-1) * frequencies)
