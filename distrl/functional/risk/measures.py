"""Risk measures: functionals of a discrete return distribution, for any head.

A measure is called with atoms, `measure(values (..., M), probs (..., M)) -> (...)`. Higher is better, returns are
gains, and the averse settings weigh the lower tail. Results are differentiable by values and by probabilities.

Three distinct problems use risk: greedy acting by the risk of the remaining return (a nested objective), the baseline
of a policy gradient, and the distribution of the whole episode's return (`stock.py`).
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import LEVEL_TOLERANCE, atoms_mean, atoms_variance, is_one_number, sorted_atoms


class RiskMeasure(ABC):
    """A functional of return distributions.

    Attributes:
        is_distortion: An expectation under re-weighted quantiles, with `distort` and `weigh`.
    """

    is_distortion = False

    @abstractmethod
    def __call__(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        """Return the risk-adjusted value (...) of atoms (..., M).

        Args:
            ordered: The values ascend already, which saves a sort.
        """

    @abstractmethod
    def risk_probs(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        """Return d measure / d values, (..., M) in the order of `values`, summing to 1."""

    def distort(self, tau: Tensor) -> Tensor:
        """Return beta(tau): with these levels a plain mean of quantiles is the measure (IQN)."""
        raise ConfigError(
            f"risk measure {type(self).__name__} is no distortion of quantile levels.",
            "Apply it to the atoms, or use mean, cvar, wang, cpw, power, norm, var or mixed_var.",
        )


class Distortion(RiskMeasure):
    """int F^-1(u) dg(u) with an increasing distortion g from g(0) = 0 to g(1) = 1."""

    is_distortion = True

    @abstractmethod
    def weigh(self, level: Tensor) -> Tensor:
        """Return g(u) at cumulative probabilities u."""

    @abstractmethod
    def distort(self, tau: Tensor) -> Tensor:
        """Return beta = g^-1."""

    def weights(self, probs: Tensor) -> Tensor:
        """Return g(u_i) - g(u_{i-1}) for ascending atoms: (..., M), summing to 1."""
        if probs.shape[-1] == 1:
            return torch.ones_like(probs)
        if probs.ndim > 1 and is_one_number(probs):  # one row serves all
            return self.weights(probs[(0,) * (probs.ndim - 1)]).expand(probs.shape)
        edge = torch.finfo(probs.dtype).eps
        inner = probs.cumsum(-1)[..., :-1].clamp(edge, 1.0 - edge)
        reached = self.weigh(inner)
        # the ends are exact whatever rounding did: weights always sum to 1
        first, last = torch.zeros_like(reached[..., :1]), torch.ones_like(reached[..., :1])
        return torch.diff(reached, dim=-1, prepend=first, append=last)

    def __call__(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        if not ordered:
            values, probs = sorted_atoms(values, probs)
        return (self.weights(probs) * values).sum(-1)

    @torch.no_grad()
    def risk_probs(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        probs = probs.expand(values.shape)
        if ordered:
            return self.weights(probs)
        order = values.argsort(-1)
        return torch.empty_like(values).scatter_(-1, order, self.weights(probs.gather(-1, order)))


@register.risk("mean", paper="risk-neutral", entries=[3, 10])
class Mean(Distortion):
    """The expectation: risk-neutral."""

    def weigh(self, level: Tensor) -> Tensor:
        return level

    def distort(self, tau: Tensor) -> Tensor:
        return tau

    def weights(self, probs: Tensor) -> Tensor:
        return probs

    def __call__(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        return atoms_mean(values, probs)

    @torch.no_grad()
    def risk_probs(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        return probs.expand(values.shape)


@register.risk("mean_variance", paper="Markowitz 1952; Sobel 1982")
class MeanVariance(RiskMeasure):
    """E Z - weight Var Z.

    Args:
        weight: In 1 / units of return; above 0 is averse.
    """

    def __init__(self, weight: float = 0.5):
        self.weight = finite("mean_variance", "weight", weight)

    def __call__(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        return atoms_mean(values, probs) - self.weight * atoms_variance(values, probs)

    @torch.no_grad()
    def risk_probs(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        centered = values - atoms_mean(values, probs).unsqueeze(-1)
        return probs * (1.0 - 2.0 * self.weight * centered)


@register.risk("entropic", paper="Howard and Matheson 1972")
class Entropic(RiskMeasure):
    """(1 / beta) log E exp(beta Z): averse for beta < 0, the mean at 0.

    Args:
        beta: In 1 / units of return.
    """

    def __init__(self, beta: float = -1.0):
        self.beta = finite("entropic", "beta", beta)

    def __call__(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        if self.beta == 0:
            return atoms_mean(values, probs)
        # about the mean: with a small beta, log E exp is a difference of nearly equal numbers
        center = atoms_mean(values, probs).detach().unsqueeze(-1)
        spread = torch.logsumexp(self.beta * (values - center) + probs.log(), -1) / self.beta
        return center.squeeze(-1) + spread

    @torch.no_grad()
    def risk_probs(self, values: Tensor, probs: Tensor, ordered: bool = False) -> Tensor:
        return torch.softmax(self.beta * values + probs.log(), -1)


@register.risk("var", paper="value at risk, Jorion 1996")
class ValueAtRisk(Distortion):
    """The level-quantile F^-1(level), with a noisy gradient (one atom).

    Args:
        level: In (0, 1].
    """

    def __init__(self, level: float = 0.1):
        self.level = in_unit("var", "level", level)

    def weigh(self, level: Tensor) -> Tensor:
        return (level >= self.level - LEVEL_TOLERANCE).to(level.dtype)

    def distort(self, tau: Tensor) -> Tensor:
        return torch.full_like(tau, self.level)


def make_risk(name: str, **options: Any) -> RiskMeasure:
    """Make a risk measure by name: `make_risk("cvar", level=0.1)`."""
    measure = register.get("risk", name)
    known = [key for key in inspect.signature(measure).parameters if key not in ("args", "kwargs")]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"risk measure {name!r} has no option {key!r}.",
                f"Its options: {', '.join(known)}." if known else "It has none.",
            )
    return measure(**options)


def in_unit(measure: str, key: str, value: float) -> float:
    """Require a number in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise ConfigError(
            f"risk {measure}: {key} is {value}; expected a number in (0, 1].",
            f"For example {key}: 0.1, the worst tenth; 1 is everything.",
        )
    return float(value)


def finite(measure: str, key: str, value: float) -> float:
    """Require a finite number."""
    if not math.isfinite(value):
        raise ConfigError(f"risk {measure}: {key} is {value}; expected a finite number.")
    return float(value)
