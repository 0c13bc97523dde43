"""Risk measures that distort probabilities: CVaR, Wang, CPW, power, norm, mixed VaR.

Each has its distortion g (`weigh`, of cumulative probabilities) and its inverse beta (`distort`, of sampled levels).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.risk.measures import Distortion, finite, in_unit

_IQN = "Dabney et al. 2018 (IQN)"


@register.risk("cvar", paper="Rockafellar and Uryasev 2000; " + _IQN, entries=[3, 10, 76])
class CVaR(Distortion):
    """Mean of the worst `level` of outcomes: g(u) = min(u / level, 1).

    Args:
        level: In (0, 1]; 1 is the mean.
    """

    def __init__(self, level: float = 0.1):
        self.level = in_unit("cvar", "level", level)

    def weigh(self, level: Tensor) -> Tensor:
        return (level / self.level).clamp(max=1.0)

    def distort(self, tau: Tensor) -> Tensor:
        return self.level * tau


@register.risk("wang", paper="Wang 2000; " + _IQN, entries=[3, 10])
class Wang(Distortion):
    """Quantiles shifted by eta standard deviations: g(u) = Phi(Phi^-1(u) - eta).

    Of N(m, s) it is m + eta s.

    Args:
        eta: Below 0 averse, above 0 seeking; 0 the mean.
    """

    def __init__(self, eta: float = -0.75):
        self.eta = finite("wang", "eta", eta)

    def weigh(self, level: Tensor) -> Tensor:
        return torch.special.ndtr(torch.special.ndtri(level) - self.eta)

    def distort(self, tau: Tensor) -> Tensor:
        return torch.special.ndtr(torch.special.ndtri(tau) + self.eta)


@register.risk("power", paper=_IQN, entries=[3])
class Power(Distortion):
    """Power distortion: g(u) = 1 - (1 - u)^(1 + |eta|) for eta < 0, u^(1 + eta) else.

    Args:
        eta: Below 0 averse, above 0 seeking; 0 the mean.
    """

    def __init__(self, eta: float = -2.0):
        self.eta = finite("power", "eta", eta)

    def weigh(self, level: Tensor) -> Tensor:
        if self.eta >= 0:
            return level.pow(1.0 + self.eta)
        return 1.0 - (1.0 - level).pow(1.0 - self.eta)

    def distort(self, tau: Tensor) -> Tensor:
        if self.eta >= 0:
            return tau.pow(1.0 / (1.0 + self.eta))
        return 1.0 - (1.0 - tau).pow(1.0 / (1.0 - self.eta))


@register.risk("cpw", paper="Tversky and Kahneman 1992; " + _IQN, entries=[3])
class CPW(Distortion):
    """Cumulative probability weighting: beta(tau) = tau^n / (tau^n + (1 - tau)^n)^(1 / n).

    Locally averse near 1 and seeking near 0, as people are.

    Args:
        curvature: n; 0.71 fits people, 1 is the mean. From 0.3 (below, beta is not monotone) to 1.
    """

    def __init__(self, curvature: float = 0.71):
        if not 0.3 <= curvature <= 1.0:
            raise ConfigError(
                f"risk cpw: curvature is {curvature}; expected a number from 0.3 to 1.", "For example 0.71."
            )
        self.curvature = float(curvature)

    def distort(self, tau: Tensor) -> Tensor:
        power = tau.pow(self.curvature)
        return power / (power + (1.0 - tau).pow(self.curvature)).pow(1.0 / self.curvature)

    def weigh(self, level: Tensor) -> Tensor:
        return bisect_inverse(self.distort, level)


@register.risk("norm", paper=_IQN, entries=[3])
class Norm(Distortion):
    """Levels as means of `count` uniform numbers: inner quantiles count more, both tails less.

    g is the distribution function of that mean (Irwin-Hall).

    Args:
        count: From 1 (the mean) to 10.
    """

    def __init__(self, count: int = 3):
        if count != int(count) or not 1 <= count <= 10:
            raise ConfigError(f"risk norm: count is {count}; expected a whole number from 1 to 10.", "For example 3.")
        self.count = int(count)

    def weigh(self, level: Tensor) -> Tensor:
        k = self.count
        terms = [
            (-1) ** j * math.comb(k, j) * (k * level - j).clamp(min=0).double().pow(k) / math.factorial(k)
            for j in range(k + 1)
        ]
        return torch.stack(terms).sum(0).clamp(0, 1).to(level.dtype)

    def distort(self, tau: Tensor) -> Tensor:
        return bisect_inverse(self.weigh, tau)


@register.risk("mixed_var", paper="RiskPO (mixed value at risk)", entries=[94])
class MixedVaR(Distortion):
    """Mixed value at risk: (weight RVaR_{0:low} + RVaR_{low:high}) / (1 + weight).

    RVaR_{a:b} is the mean of the quantiles a to b. The upper tail has no weight: no reward for gambling.

    Args:
        low: In (0, 1).
        high: In (low, 1].
        weight: Of the lower tail, at least 0.
    """

    def __init__(self, low: float = 0.2, high: float = 0.8, weight: float = 1.5):
        self.low, self.high = in_unit("mixed_var", "low", low), in_unit("mixed_var", "high", high)
        if low >= high:
            raise ConfigError(f"risk mixed_var: low is {low} and high {high}; expected low < high.")
        if not 0.0 <= weight < math.inf:
            raise ConfigError(f"risk mixed_var: weight is {weight}; expected a number of at least 0.")
        self.weight = float(weight)

    def weigh(self, level: Tensor) -> Tensor:
        tail = (level / self.low).clamp(max=1.0)
        middle = ((level - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return (self.weight * tail + middle) / (1.0 + self.weight)

    def distort(self, tau: Tensor) -> Tensor:
        share = self.weight / (1.0 + self.weight)  # of the lower tail
        if share == 0:
            return self.low + (self.high - self.low) * tau
        upper = self.low + (self.high - self.low) * (tau - share) / (1.0 - share)
        return torch.where(tau < share, self.low * tau / share, upper)


def bisect_inverse(function: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """Invert an increasing function on [0, 1] at `level`, differentiably."""
    with torch.no_grad():
        low, high = torch.zeros_like(level), torch.ones_like(level)
        for _ in range(torch.finfo(level.dtype).bits - 8):  # a bit each; float32 has 24, float64 53
            middle = 0.5 * (low + high)
            below = function(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found = 0.5 * (low + high)
    if not level.requires_grad:
        return found
    with torch.enable_grad():
        point = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point)
    return found + (level - level.detach()) / slope
