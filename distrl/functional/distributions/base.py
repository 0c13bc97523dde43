"""Return distributions, as pure functions of flat parameters, and the scalar family.

An object contains sizes and options only; numbers come as `params (..., P)` from a head (`models/heads/base.py`), and
gradients flow into them. Every family converts to atoms and learns from atoms, so any head can learn from any other's
target.

Shapes: params (..., P); distributions and losses (...); levels, points and noise (S,) or (..., S), results (..., S).
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import Atoms, atoms_cdf, atoms_mean, atoms_quantile, atoms_variance, equal_probs, midpoints
from distrl.functional.distributions.quantile_loss import huber
from distrl.functional.risk.measures import RiskMeasure, ValueAtRisk


class ReturnDistribution(ABC):
    """A family of distributions of the return.

    Attributes:
        param_size: P.
        channels: K, reward channels of the distribution; 1 except for joint distributions.
        ordered: `atoms` gives ascending values.
        head: The network that computes the parameters: linear, implicit or fractions.
        head_gain: Initial gain of that network's last layer.
    """

    param_size: int
    channels: int = 1
    ordered: bool = False
    head: str = "linear"
    head_gain: float = 1.0

    @abstractmethod
    def atoms(self, params: Tensor) -> Atoms:
        """Return values and probs (..., M); densities are discretized finely."""

    @abstractmethod
    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        """Return the loss (...) against a target (..., M), which gets no gradient."""

    def target_atoms(self, params: Tensor) -> Atoms:
        """Return atoms as a target: `atoms`, or (..., M, K) for joint distributions."""
        return self.atoms(params)

    def initial_bias(self) -> Tensor:
        """Return the parameters (P,) of an untrained head's distribution."""
        return torch.zeros(self.param_size)

    def mean(self, params: Tensor) -> Tensor:
        return atoms_mean(*self.atoms(params))

    def variance(self, params: Tensor) -> Tensor:
        return atoms_variance(*self.atoms(params))

    def quantile(self, params: Tensor, tau: Tensor | float) -> Tensor:
        """Return F^-1(tau): (...) for a number, (..., S) for a tensor (S,) or (..., S)."""
        return atoms_quantile(*self.atoms(params), tau, self.ordered)

    def cdf(self, params: Tensor, x: Tensor | float) -> Tensor:
        """Return P(Z <= x): (...) for a number, (..., S) for a tensor (S,) or (..., S)."""
        return atoms_cdf(*self.atoms(params), x)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Sample S returns a row by inverse transform of uniform noise (S,) or (..., S)."""
        return self.quantile(params, noise)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Draw uniform float32 noise for `sample`."""
        return rng.random(tuple(shape), dtype=np.float32)

    def particles(self, params: Tensor, count: int) -> Tensor:
        """Return `count` equally likely values (..., count): quantiles at the midpoints."""
        return self.quantile(params, midpoints(count, params))

    @torch.no_grad()
    def priority(self, params: Tensor, loss: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        """Return priorities (...) >= 0 for prioritized replay: the loss."""
        return loss.clamp(min=0.0)

    def risk(self, params: Tensor, measure: RiskMeasure) -> Tensor:
        """Return the risk-adjusted value (...)."""
        if isinstance(measure, ValueAtRisk):  # exact for densities, whose atoms would round it
            return self.quantile(params, measure.level)
        return measure(*self.atoms(params), ordered=self.ordered)


@register.return_distribution("scalar", paper="the expectation only")
class Scalar(ReturnDistribution):
    """The mean alone: params (..., 1). Squared or Huber loss against the target's mean.

    Args:
        kappa: Huber threshold; null for 0.5 u^2, 0 for |u|.
    """

    ordered = True

    def __init__(self, kappa: float | None = None):
        self.param_size = 1
        self.kappa = None if kappa is None else at_least_zero("scalar", "kappa", kappa)

    def atoms(self, params: Tensor) -> Atoms:
        return Atoms(params, torch.ones_like(params))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(-1)

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        target = atoms_mean(target_values, target_probs).detach()
        return huber(target - params.squeeze(-1), self.kappa)


def make_return_distribution(name: str, **options: Any) -> ReturnDistribution:
    """Make a family by name: `make_return_distribution("quantile", size=32)`."""
    family = register.get("return_distribution", name)
    known = list(inspect.signature(family).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(f"return distribution {name!r} has no option {key!r}.", f"It has: {', '.join(known)}.")
    return family(**options)


def whole(family: str, key: str, value: int, least: int = 1) -> int:
    """Require a whole number of at least `least`."""
    if value != int(value) or value < least:
        raise ConfigError(
            f"return distribution {family}: {key} is {value}; expected a whole number of at least {least}."
        )
    return int(value)


def at_least_zero(family: str, key: str, value: float) -> float:
    """Require a finite number of at least 0."""
    if not 0.0 <= value < math.inf:
        raise ConfigError(f"return distribution {family}: {key} is {value}; expected a number of at least 0.")
    return float(value)


def equal_atoms(values: Tensor) -> Atoms:
    """Return equally likely values as atoms."""
    return Atoms(values, equal_probs(values))
