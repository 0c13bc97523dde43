"""Dynamic reward weighting: weights of several rewards that change during training.

Two modes. *Hypervolume*: fixed weights, and a factor on the advantage that grows while validation finds new trade-offs.
*Gradient*: weights move towards the objectives whose gradient helps all of them. Under advantages divided by a group's
standard deviation a common factor of the rewards cancels: the hypervolume factor belongs on the advantage.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from distrl.base.registry import register


def hypervolume(points: Tensor, reference: Tensor) -> float:
    """Volume between a reference point and the points that dominate it, all objectives maximized. Zitzler 1999.

    Recursive slicing: exact, meant for up to 4 objectives and some tens of points.

    Args:
        reference: (D,), below what is interesting; points that are not above it in every objective add nothing.
    """
    height = (points.double() - reference.double()).clamp(min=0.0)
    return _volume(height)


def _volume(height: Tensor) -> float:
    if not len(height):
        return 0.0
    if height.shape[1] == 1:
        return float(height.max())
    order = height[height[:, -1].argsort(descending=True)]
    levels = [*order[:, -1].tolist(), 0.0]
    # between two levels of the last objective, the slice is the volume of all points that reach that high
    return sum(
        (high - low) * _volume(order[: i + 1, :-1])
        for i, (high, low) in enumerate(itertools.pairwise(levels))
        if high > low
    )


def hypervolume_factor(gain: float) -> float:
    """Factor of the next advantages after a gain of hypervolume: 0.5 + 1.5 tanh(gain), in [0.5, 2)."""
    return 0.5 + 1.5 * math.tanh(gain)


def extend_front(front: Tensor, point: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """The buffer of validation points with a new one, if it adds volume, and how much it adds.

    Returns:
        (P or P + 1, D) and the gain.
    """
    longer = torch.cat([front, point[None].to(front)])
    gain = hypervolume(longer, reference) - hypervolume(front, reference)
    return (longer, gain) if gain > 0 else (front, 0.0)


def pareto_front(points: Tensor) -> Tensor:
    """The points that no other one dominates, each once, in order. (P, D) to (at most P, D). Volume is the same."""
    at_least = (points[:, None] >= points[None]).all(2)
    better = at_least & ~at_least.T
    equal_before = torch.tril(at_least & at_least.T, diagonal=-1).any(1)
    return points[~better.any(0) & ~equal_before]


def gradient_influence(gradients: Tensor) -> Tensor:
    """I_j = <g_j, sum of all g_k>: how much a step on objective j alone helps the sum. (J, D) to (J,)."""
    return gradients @ gradients.sum(0)


def mirror_step(weights: Tensor, influence: Tensor, rate: float, floor: float = 0.0) -> Tensor:
    """w exp(rate I) / sum: weights on the simplex after one step of mirror ascent. (J,).

    Args:
        weights: (J,), positive.
        influence: (J,), `gradient_influence` averaged over a few steps.
        rate: Learning rate of the actor over the regularizer mu.
        floor: No weight falls below it; at most 1 / J.
    """
    moved = torch.softmax(weights.log() + rate * influence, 0)
    return floor + (1.0 - floor * len(moved)) * moved if floor else moved


@register.combination("dynamic_reward_weighting", paper="Dynamic Reward Weighting, 2025", entries=[30])
def dynamic_reward_weighting(components: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight * component with the weights of `mirror_step`, normalized to sum to 1. (R,)."""
    return components.nan_to_num(nan=0.0) @ (weights / weights.sum()).to(components)
