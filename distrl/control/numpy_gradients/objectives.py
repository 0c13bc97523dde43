"""Objectives and value losses with their derivatives, one number per row, in numpy.

Counterparts of `functional.policy.objectives` for learners on a CPU: each returns (value, derivative). Where a
minimum or maximum has two equal sides either derivative is right; here it is that of the unclipped side.
"""

from __future__ import annotations

import numpy as np

Slope = tuple[np.ndarray, np.ndarray]


def clipped_surrogate_slope(
    ratio: np.ndarray, advantage: np.ndarray, clip: float, dual_clip: float | None = None
) -> Slope:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7) and its derivative by the ratio: A where not clipped."""
    plain, bound = ratio * advantage, advantage + clip * np.abs(advantage)
    objective, slope = np.minimum(plain, bound), advantage * (plain <= bound)
    if dual_clip is None:
        return objective, slope
    floored = (advantage < 0) & (objective < dual_clip * advantage)
    return np.where(floored, dual_clip * advantage, objective), slope * ~floored


def spo_slope(ratio: np.ndarray, advantage: np.ndarray, eps: float) -> Slope:
    """SPO's objective (Xie et al. 2024) and its derivative by the ratio: A - |A| / eps (ratio - 1)."""
    distance, pull = ratio - 1.0, np.abs(advantage) * (1.0 / eps)
    return ratio * advantage - 0.5 * pull * distance * distance, advantage - pull * distance


def value_loss_slope(value: np.ndarray, returns: np.ndarray) -> Slope:
    """Half the squared error and its derivative by the value."""
    error = value - returns
    return 0.5 * error * error, error


def clipped_value_loss_slope(value: np.ndarray, old_value: np.ndarray, returns: np.ndarray, clip: float) -> Slope:
    """The larger of two half squared errors, of the value and of the value moved at most `clip`; by the value."""
    moved = value - old_value
    error, near_error = value - returns, old_value + np.clip(moved, -clip, clip) - returns
    plain, near = 0.5 * error * error, 0.5 * near_error * near_error
    inside = np.abs(moved) <= clip
    return np.maximum(plain, near), np.where(plain >= near, error, near_error * inside)
