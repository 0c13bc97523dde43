"""Quantile distributions: at fixed levels (QR), given levels (IQN), learned levels (FQF)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.registry import register
from distrl.functional.atoms import Atoms, midpoints
from distrl.functional.distributions.base import ReturnDistribution, at_least_zero, equal_atoms, whole
from distrl.functional.distributions.quantile_loss import fraction_term, quantile_huber

#: Distance between the lowest and the highest quantile of an untrained monotone head, about.
_INITIAL_SPREAD = 1.0


@register.return_distribution("quantile", paper="QR-DQN, Dabney et al. 2018", entries=[10, 77])
class Quantile(ReturnDistribution):
    """Quantiles at the midpoints (2i - 1) / (2 size): `size` equally likely values.

    Args:
        size: Quantiles.
        kappa: Huber threshold in units of return; 0 is the exact quantile loss.
        monotone: Quantiles are params[0] + cumulative softplus of the rest, so they never cross.
    """

    def __init__(self, size: int = 32, kappa: float = 1.0, monotone: bool = False):
        self.size = self.param_size = whole("quantile", "size", size)
        self.kappa = at_least_zero("quantile", "kappa", kappa)
        self.ordered = self.monotone = bool(monotone)

    def values(self, params: Tensor) -> Tensor:
        """Return the quantiles (..., size)."""
        if not self.monotone:
            return params
        steps = F.softplus(params[..., 1:])
        return params[..., :1] + F.pad(steps.cumsum(-1), (1, 0))

    def initial_bias(self) -> Tensor:
        bias = torch.zeros(self.size)
        if self.monotone and self.size > 1:
            step = _INITIAL_SPREAD / self.size
            bias[1:] = math.log(math.expm1(step))
            bias[0] = -0.5 * step * (self.size - 1)  # centered on 0
        return bias

    def atoms(self, params: Tensor) -> Atoms:
        return equal_atoms(self.values(params))

    def mean(self, params: Tensor) -> Tensor:
        return self.values(params).mean(-1)

    def particles(self, params: Tensor, count: int) -> Tensor:
        return self.values(params) if count == self.size else super().particles(params, count)

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        taus = midpoints(self.size, params)
        return quantile_huber(self.values(params), taus, target_values, target_probs, self.kappa)


@register.return_distribution("iqn", paper="IQN, Dabney et al. 2018", entries=[3])
class ImplicitQuantile(ReturnDistribution):
    """Quantiles at given levels: params are values ++ levels, (..., 2 N) for any N.

    The N values count as equally likely: unbiased for uniform random levels. With levels distorted by a risk measure
    (`measure.distort`) the plain mean is the risk-adjusted value.

    Args:
        size: Random levels a row while learning, N and N' of the paper.
        acting_size: Levels without noise, at midpoints; K of the paper.
        kappa: Huber threshold.
    """

    head = "implicit"

    def __init__(self, size: int = 8, acting_size: int = 32, kappa: float = 1.0):
        self.size = whole("iqn", "size", size)
        self.acting_size = whole("iqn", "acting_size", acting_size)
        self.kappa = at_least_zero("iqn", "kappa", kappa)
        self.param_size = 2 * self.acting_size

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and levels, (..., N) each."""
        values, taus = params.chunk(2, -1)
        return values, taus

    def atoms(self, params: Tensor) -> Atoms:
        return equal_atoms(self.split(params)[0])

    def mean(self, params: Tensor) -> Tensor:
        return self.split(params)[0].mean(-1)

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        values, taus = self.split(params)
        return quantile_huber(values, taus.detach(), target_values, target_probs, self.kappa)


@register.return_distribution("fqf", paper="FQF, Yang et al. 2019")
class FractionQuantile(ReturnDistribution):
    """Quantiles at learned fractions: params are values ++ fraction midpoints ++ widths.

    While learning, a head adds the values at the size - 1 inner boundaries of the fractions, (..., 4 size - 1); the
    loss then also moves the fractions, by gradient only: its value remains the quantile Huber loss.

    Args:
        size: Fractions.
        kappa: Huber threshold.
        entropy: Weight of the entropy of the widths; keeps fractions from collapsing. Usual: 0 to 1e-3.
    """

    head = "fractions"

    def __init__(self, size: int = 32, kappa: float = 1.0, entropy: float = 0.0):
        self.size = whole("fqf", "size", size)
        self.kappa = at_least_zero("fqf", "kappa", kappa)
        self.entropy = at_least_zero("fqf", "entropy", entropy)
        self.param_size = 3 * self.size

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values, midpoints of the fractions and their widths, (..., size) each."""
        values, taus, widths = params[..., : self.param_size].chunk(3, -1)
        return values, taus, widths

    def atoms(self, params: Tensor) -> Atoms:
        values, _, widths = self.split(params)
        return Atoms(values, widths.detach())

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        values, taus, widths = self.split(params)
        loss = quantile_huber(values, taus.detach(), target_values, target_probs, self.kappa)
        if params.shape[-1] > self.param_size:
            loss = loss + fraction_term(widths, params[..., self.param_size :].detach(), values.detach())
        if self.entropy:
            bonus = -self.entropy * torch.special.entr(widths).sum(-1)
            loss = loss + bonus - bonus.detach()
        return loss
