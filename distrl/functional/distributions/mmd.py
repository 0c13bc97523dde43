"""Maximum mean discrepancy, the loss of MD3QN and, with one channel, of MMD-DQN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown

KERNELS = ("gaussian", "energy")

#: Squared lengths h of the Gaussian kernels whose sum fits returns of any scale.
BANDWIDTHS = tuple(float(size**2) for size in range(1, 11))


def mmd_squared(
    particles: Tensor,
    target: Tensor,
    target_probs: Tensor | None = None,
    kernel: str = "gaussian",
    bandwidths: Sequence[float] = BANDWIDTHS,
) -> Tensor:
    """Compute MMD^2 as a biased V-statistic, (...). Zhang et al. 2021 (MD3QN).

    E k(Z, Z') - 2 E k(Z, Y) + E k(Y, Y') with k(x, y) = sum_h exp(-|x - y|^2 / (2 h)) or -|x - y| (energy distance,
    which needs no bandwidth and scales with the returns).

    Args:
        particles: Z, (..., M, K) equally likely vectors of K channels; gets the gradient.
        target: Y, (..., L, K), without gradient.
        target_probs: (..., L); None means equal ones.
        kernel: gaussian or energy.
        bandwidths: h, in squared units of return.
    """
    if kernel not in KERNELS:
        raise ConfigError(unknown("kernel", kernel, KERNELS))
    target = target.detach()
    own = _kernel(particles, particles, kernel, bandwidths).mean((-1, -2))
    cross = _kernel(particles, target, kernel, bandwidths)
    theirs = _kernel(target, target, kernel, bandwidths)
    if target_probs is None:
        return own - 2.0 * cross.mean((-1, -2)) + theirs.mean((-1, -2))
    probs = target_probs.detach()
    cross_mean = (cross.mean(-2) * probs).sum(-1)
    return own - 2.0 * cross_mean + ((theirs * probs.unsqueeze(-2)).sum(-1) * probs).sum(-1)


def _kernel(x: Tensor, y: Tensor, kernel: str, bandwidths: Sequence[float]) -> Tensor:
    """Compute k(x_i, y_j): (..., M, K) and (..., L, K) to (..., M, L)."""
    # cdist: its gradient at distance 0 is 0, where a plain square root gives NaN
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    if kernel == "energy":
        return -distance
    squared = distance.square()
    total = torch.zeros_like(squared)
    for h in bandwidths:
        total = total + torch.exp(squared * (-0.5 / h))
    return total
