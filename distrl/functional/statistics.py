"""Statistics of masked batches, on one process. Masks are bool; None counts everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average the elements where `mask` is set, also next to others that are not finite.

    The mean over nothing is 0.

    >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    if mask is None:
        return x.mean() if x.numel() else x.sum()
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def masked_normalize(x: Any, mask: Any = None, eps: float = 1e-8) -> Any:
    """Compute (x - mean) / (std + eps) over the elements where `mask` is set, 0 elsewhere.

    The standard deviation has the unbiased denominator n - 1. Below 1e-8, within rounding of the mean, and for fewer
    than two elements the values are centered and not divided, so that equal advantages become zeros and not noise.
    Tensors, or numpy arrays.
    """
    if isinstance(x, np.ndarray):
        return _normalize_array(x, mask, eps)
    if mask is None:
        if x.numel() < 2:
            return torch.zeros_like(x)
        std, mean = torch.std_mean(x)
        centered = x - mean
    else:
        mean = masked_mean(x, mask)
        centered = (x - mean).masked_fill(~mask, 0.0)
        std = (centered.square().sum() / (mask.sum() - 1).clamp(min=1)).sqrt()
    # tensors throughout, no `if`: a comparison on the host would wait for an accelerator
    floor = (4.0 * torch.finfo(x.dtype).eps * mean.abs()).clamp(min=1e-8)
    return centered / torch.where(std < floor, torch.ones_like(std), std + eps)


def _normalize_array(x: np.ndarray, mask: np.ndarray | None, eps: float) -> np.ndarray:
    """Compute `masked_normalize` of a numpy array."""
    count = x.size if mask is None else int(mask.sum())
    if count < 2:
        return np.zeros_like(x)
    mean = x.sum() / count if mask is None else np.where(mask, x, 0).sum() / count
    centered = x - mean if mask is None else np.where(mask, x - mean, 0)
    flat = centered.ravel()
    std = math.sqrt(np.dot(flat, flat) / (count - 1))
    floor = max(4.0 * float(np.finfo(x.dtype).eps) * abs(mean), 1e-8)
    return centered if std < floor else centered * x.dtype.type(1.0 / (std + eps))


def explained_variance(value: Tensor, returns: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute 1 - var(returns - value) / var(returns): 1 is a perfect critic, 0 a constant one.

    0 for constant returns.
    """
    total = _variance(returns, mask)
    explained = 1.0 - _variance(returns - value, mask) / total
    return torch.where(total > 0, explained, torch.zeros_like(total))


def approx_kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(old || new) per element from samples of old: ratio - 1 - log ratio.

    Schulman 2020, "k3": unbiased and never negative. The argument is log new - log old.
    """
    return torch.expm1(log_ratio) - log_ratio


def effective_sample_size(log_weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute (sum w)^2 / sum w^2 of importance weights from their logarithms. Kong 1992.

    Between 1 (one sample dominates) and the number of samples (equal weights); 0 for no samples. Weights are scaled by
    their maximum first, so large logarithms do not overflow.
    """
    kept = log_weight if mask is None else log_weight[mask]
    if kept.numel() == 0:
        return log_weight.new_zeros(())
    weight = (kept - kept.max()).exp()
    return weight.sum().square() / weight.square().sum()


def _variance(x: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the variance with denominator n."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)
