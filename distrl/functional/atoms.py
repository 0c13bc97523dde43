"""Discrete return distributions as atoms: `values (..., M)`, with `probs (..., M)` of sum 1.

Every head converts to atoms and learns from atoms; a Bellman target is `bellman(reward, discount, values)` with
unchanged probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Levels within this of a cumulative probability count as equal to it: sums of float32 probabilities are no better.
LEVEL_TOLERANCE = 1e-6


class Atoms(NamedTuple):
    """A discrete distribution.

    Attributes:
        values: (..., M), in any order; (..., M, K) for a joint distribution over K reward channels.
        probs: (..., M), not negative, summing to 1.
    """

    values: Tensor
    probs: Tensor


def equal_probs(values: Tensor) -> Tensor:
    """Return 1/M for each of M values (..., M), as a view of one number."""
    return values.new_full((1,), 1.0 / values.shape[-1]).expand(values.shape)


def is_one_number(probs: Tensor) -> bool:
    """Return True for a view of a single number, as `equal_probs` makes: order is irrelevant."""
    return not any(probs.stride()) and probs.ndim > 0


def midpoints(count: int, like: Tensor) -> Tensor:
    """Return the levels (2i - 1) / (2 count), i = 1..count, of the dtype and device of `like`.

    >>> midpoints(2, torch.zeros(()))
    tensor([0.2500, 0.7500])
    """
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


def bellman(reward: Tensor, discount: Tensor, values: Tensor) -> Tensor:
    """Compute reward + discount * values, atom by atom.

    Args:
        reward: (...); (..., K) for values of K channels.
        discount: (...), gamma^n (1 - terminated).
        values: (..., M), or (..., M, K).
    """
    if values.ndim == discount.ndim + 2:
        return reward.unsqueeze(-2) + discount[..., None, None] * values
    return reward.unsqueeze(-1) + discount.unsqueeze(-1) * values


def atoms_mean(values: Tensor, probs: Tensor) -> Tensor:
    """Compute the expectation (...)."""
    return (values * probs).sum(-1)


def atoms_variance(values: Tensor, probs: Tensor) -> Tensor:
    """Compute the variance (...)."""
    centered = values - atoms_mean(values, probs).unsqueeze(-1)
    return (probs * centered.square()).sum(-1)


def sorted_atoms(values: Tensor, probs: Tensor) -> Atoms:
    """Sort a distribution by its values."""
    ascending, order = values.sort(-1)
    if is_one_number(probs):
        return Atoms(ascending, probs.expand(values.shape))
    return Atoms(ascending, probs.expand(values.shape).gather(-1, order))


def atoms_quantile(values: Tensor, probs: Tensor, tau: Tensor | float, ordered: bool = False) -> Tensor:
    """Compute F^-1(tau), the smallest value with a cumulative probability of at least tau.

    Args:
        tau: Levels in [0, 1]: a number, or a tensor (S,) or (..., S).
        ordered: The values ascend already.

    Returns:
        (...) for a number, (..., S) for a tensor.
    """
    if not ordered:
        values, probs = sorted_atoms(values, probs)
    cumulative = probs.expand(values.shape).cumsum(-1)
    cumulative[..., -1] = 1.0  # rounding must not leave the last levels without a value
    levels = torch.as_tensor(tau, dtype=values.dtype, device=values.device)
    flat = levels.reshape(1) if levels.ndim == 0 else levels
    wanted = flat.expand(*values.shape[:-1], flat.shape[-1])
    # not below the smallest positive number: atoms of probability 0 are no quantiles
    wanted = (wanted - LEVEL_TOLERANCE).clamp(min=torch.finfo(values.dtype).tiny)
    found = values.gather(-1, torch.searchsorted(cumulative.detach().contiguous(), wanted.contiguous()))
    return found.squeeze(-1) if levels.ndim == 0 else found


def atoms_cdf(values: Tensor, probs: Tensor, x: Tensor | float) -> Tensor:
    """Compute P(Z <= x): (...) for a number, (..., S) for a tensor (S,) or (..., S)."""
    points = torch.as_tensor(x, dtype=values.dtype, device=values.device)
    if points.ndim == 0:
        return (probs * (values <= points)).sum(-1)
    return (probs.unsqueeze(-2) * (values.unsqueeze(-2) <= points.unsqueeze(-1))).sum(-1)
