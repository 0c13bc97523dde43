"""Robust Bellman errors: Huber and absolute value of the *expected* error. Patterson et al. 2022; entry 70.

The Huber function of E[delta | s] cannot be sampled directly: huber(E delta) is not E huber(delta), and clipping each
error pulls the solution towards the median. Its dual form can: a second network h(s) estimates E[delta | s], and is
clipped instead of the error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def conjugate_huber(delta: Tensor, h: Tensor) -> Tensor:
    """h delta - h^2 / 2, whose maximum over |h| <= tau is the Huber function of delta with kappa = tau.

    >>> h = torch.linspace(-1.0, 1.0, 201)
    >>> [round(float(conjugate_huber(torch.tensor(d), h).max()), 4) for d in (0.5, 3.0)]
    [0.125, 2.5]
    """
    return h * delta - 0.5 * h.square()


class RobustLosses(NamedTuple):
    """What to minimize, (...) each.

    Attributes:
        value: Its gradient moves V (or Q).
        auxiliary: Its gradient moves h.
    """

    value: Tensor
    auxiliary: Tensor


def huber_bellman(
    value: Tensor,
    next_value: Tensor,
    h: Tensor,
    reward: Tensor,
    discount: Tensor,
    tau: float = 1.0,
    rho: Tensor | float = 1.0,
    correction: bool = True,
) -> RobustLosses:
    """Losses of the mean Huber Bellman error. Entry 70.

    delta = r + discount V(s') - V(s), hc = clip(h, -tau, tau). The saddle form moves V against
    rho hc (discount grad V(s') - grad V(s)), GTD2 for tau = inf. With gradient correction (TDRC) it is
    m grad V(s) - rho discount hc grad V(s'), m = rho delta while |h| <= tau, else hc: closer to TD, and so faster.
    TDRC also decays the parameters of h; give them weight decay 1 for that.

    Args:
        value: V(s), (...), with gradient.
        next_value: V(s') or max_a Q(s', a), (...), with gradient: no target network.
        h: h(s), (...), with gradient.
        reward: (...).
        discount: gamma (1 - terminated), (...).
        tau: Where Huber turns linear; float("inf") is the squared error.
        rho: Importance weight pi / mu.
        correction: TDRC form; False is the plain saddle.
    """
    delta = reward + discount * next_value - value
    fixed = delta.detach()
    clipped = h.detach().clamp(-tau, tau)
    if correction:
        step = torch.where(h.detach().abs() <= tau, rho * fixed, clipped)
        value_loss = rho * discount * clipped * next_value - step * value
    else:
        value_loss = rho * clipped * delta
    return RobustLosses(value_loss, 0.5 * (rho * fixed - h).square())


def absolute_bellman(
    value: Tensor, next_value: Tensor, h: Tensor, reward: Tensor, discount: Tensor, rho: Tensor | float = 1.0
) -> RobustLosses:
    """Losses of the mean absolute Bellman error: |E delta| = max_{|h| <= 1} h E delta, whose h is the sign.

    Arguments as in `huber_bellman`.
    """
    delta = reward + discount * next_value - value
    return RobustLosses(rho * h.detach().sign() * delta, 0.5 * (rho * delta.detach() - h).square())
