"""Derivatives of losses and objectives in numpy, keyed by their torch function.

Each takes the arguments of its torch function as arrays and returns (value, derivative by the first argument), one
number per row; at a kink, the derivative of the unclipped side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from distrl.functional.distributions.quantile_loss import huber
from distrl.functional.policy.objectives import (
    clipped_surrogate,
    clipped_value_loss,
    policy_gradient,
    spo_objective,
    value_loss,
)

ValueAndDerivative = tuple[np.ndarray, np.ndarray]


def _policy_gradient(logp: np.ndarray, advantage: np.ndarray) -> ValueAndDerivative:
    return advantage * logp, advantage


def _clipped_surrogate(
    ratio: np.ndarray,
    advantage: np.ndarray,
    clip: float,
    dual_clip: float | None = None,
    clip_high: float | None = None,
) -> ValueAndDerivative:
    plain, bound = ratio * advantage, advantage + clip * np.abs(advantage)
    if clip_high is not None:
        bound = np.where(advantage > 0, advantage + clip_high * advantage, bound)
    objective, slope = np.minimum(plain, bound), advantage * (plain <= bound)
    if dual_clip is None:
        return objective, slope
    floored = (advantage < 0) & (objective < dual_clip * advantage)
    return np.where(floored, dual_clip * advantage, objective), slope * ~floored


def _spo_objective(ratio: np.ndarray, advantage: np.ndarray, eps: float) -> ValueAndDerivative:
    distance, pull = ratio - 1.0, np.abs(advantage) * (1.0 / eps)
    return ratio * advantage - 0.5 * pull * distance * distance, advantage - pull * distance


def _value_loss(value: np.ndarray, returns: np.ndarray) -> ValueAndDerivative:
    error = value - returns
    return 0.5 * error * error, error


def _clipped_value_loss(
    value: np.ndarray, old_value: np.ndarray, returns: np.ndarray, clip: float
) -> ValueAndDerivative:
    moved = value - old_value
    error, near_error = value - returns, old_value + np.clip(moved, -clip, clip) - returns
    plain, near = 0.5 * error * error, 0.5 * near_error * near_error
    inside = np.abs(moved) <= clip
    return np.maximum(plain, near), np.where(plain >= near, error, near_error * inside)


def _huber(error: np.ndarray, kappa: float | None) -> ValueAndDerivative:
    if kappa is None:
        return 0.5 * np.square(error), error
    if kappa == 0:
        return np.abs(error), np.sign(error)
    slope = np.clip(error, -kappa, kappa)
    return slope * (error - 0.5 * slope), slope


#: torch function -> its value and derivative in numpy
DERIVATIVES: dict[Callable[..., Tensor], Callable[..., ValueAndDerivative]] = {
    policy_gradient: _policy_gradient,
    clipped_surrogate: _clipped_surrogate,
    spo_objective: _spo_objective,
    value_loss: _value_loss,
    clipped_value_loss: _clipped_value_loss,
    huber: _huber,
}


def differentiate(function: partial[Tensor], x: np.ndarray) -> ValueAndDerivative:
    """Evaluate a function of the table at x (N,), its other arguments bound."""
    return DERIVATIVES[function.func](x, *function.args, **function.keywords)


def has_derivative(function: object) -> bool:
    """Return True for a `partial` of a function of the table."""
    return isinstance(function, partial) and function.func in DERIVATIVES
