"""Invertible maps of values, and rewards split into channels with separate maps.

Orchestrated value mapping (Fatemi and Tavakoli 2022) learns Q~_j = f_j(Q_j) for each of L reward channels,
r = sum_j w_j r_j.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown


class ValueMap(ABC):
    """A strictly increasing function of values, for tensors of any shape."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map returns to the network's scale: f(x)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Map the network's scale to returns: f^-1(y)."""


class Identity(ValueMap):
    """f(x) = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y


class Symlog(ValueMap):
    """f(x) = sign(x) ln(1 + |x|). Hafner et al. 2023 (DreamerV3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * x.abs().log1p()

    def inverse(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs().expm1()


class SquareRoot(ValueMap):
    """f(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x. Pohlen et al. 2018, proposition A.2.

    Args:
        eps: Keeps the slope above 0 far from the origin, so that the inverse is Lipschitz.
    """

    def __init__(self, eps: float = 1e-2):
        if eps <= 0:
            raise ConfigError(f"the square-root map has eps {eps}; expected more than 0.", "For example 0.01.")
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * ((x.abs() + 1.0).sqrt() - 1.0) + self.eps * x

    def inverse(self, y: Tensor) -> Tensor:
        root = (1.0 + 4.0 * self.eps * (y.abs() + 1.0 + self.eps)).sqrt()
        return y.sign() * (((root - 1.0) / (2.0 * self.eps)).square() - 1.0)


class LogMap(ValueMap):
    """f(x) = c ln(x + gamma^k) - c k ln gamma for x >= 0. LogDQN, van Seijen et al. 2019.

    Differences of values k steps before a reward, which shrink like gamma^k, become visible.

    Args:
        gamma: The discount, in (0, 1).
        k: Horizon in steps. Larger: finer near 0.
        c: Scale.
    """

    def __init__(self, gamma: float, k: float = 100.0, c: float = 0.5):
        if not 0 < gamma < 1 or k <= 0 or c <= 0:
            raise ConfigError(
                f"the log map has gamma {gamma}, k {k}, c {c}; expected gamma between 0 and 1, k and c above 0.",
                "For example gamma 0.96, k 100, c 0.5.",
            )
        self.c = c
        self.offset = gamma**k
        self.shift = -c * k * math.log(gamma)

    def forward(self, x: Tensor) -> Tensor:
        # a target reward + gamma f^-1(.) stays above -gamma^k; the floor only keeps stray inputs from giving NaN
        return self.c * (x + self.offset).clamp(min=torch.finfo(x.dtype).tiny).log() + self.shift

    def inverse(self, y: Tensor) -> Tensor:
        return ((y - self.shift) / self.c).exp() - self.offset


def make_value_map(name: str, gamma: float = 0.99, k: float = 100.0, c: float = 0.5, eps: float = 1e-2) -> ValueMap:
    """Make a map by name: identity, symlog, sqrt (`eps`), log (`gamma`, `k`, `c`)."""
    makers = {
        "identity": Identity,
        "symlog": Symlog,
        "sqrt": lambda: SquareRoot(eps),
        "log": lambda: LogMap(gamma, k, c),
    }
    if name not in makers:
        raise ConfigError(unknown("value map", name, makers))
    return makers[name]()


def signed_channels(reward: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Split gains and losses: (max(r, 0), max(-r, 0)) as (..., 2), with weights (1, -1).

    van Seijen et al. 2019.
    """
    return torch.stack((reward.clamp(min=0), (-reward).clamp(min=0)), -1), (1.0, -1.0)


def banded_channels(reward: Tensor, edges: Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
    """Split gains and losses by size: a reward goes whole into the band of |r|.

    Args:
        edges: Ascending sizes; n edges make n + 1 bands, and a size equal to an edge belongs to the upper one.

    Returns:
        Channels (..., 2 (n + 1)), all >= 0, gains first, and their weights (1, ..., -1, ...).
    """
    signed, _ = signed_channels(reward)  # (..., 2)
    bounds = torch.tensor([0.0, *edges, math.inf], dtype=reward.dtype, device=reward.device)
    size = signed.unsqueeze(-1)
    inside = (size >= bounds[:-1]) & (size < bounds[1:])
    return (size * inside).flatten(-2), (1.0,) * (len(edges) + 1) + (-1.0,) * (len(edges) + 1)


def compose(mapped: Tensor, maps: Sequence[ValueMap], weights: Sequence[float]) -> Tensor:
    """Compute sum_j w_j f_j^-1(Q~_j): mapped values (..., L) to values (...)."""
    parts = [w * f.inverse(q) for w, f, q in zip(weights, maps, mapped.unbind(-1), strict=True)]
    return torch.stack(parts).sum(0)
