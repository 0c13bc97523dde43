"""The N x M errors of quantile regression on a CPU, in reused memory.

256 distributions with 25 quantiles, two critics and 46 target atoms have 600,000 errors. A plain expression allocates a
dozen such arrays, which takes longer than the arithmetic; here three buffers persist.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

#: Errors below which the plain expression is as fast.
FEWEST = 20_000

#: Numbers that a buffer grows to at most; larger batches use the plain expression.
MOST = 2**24

_kept = threading.local()


def pays(values: Tensor, target_values: Tensor, kappa: float) -> bool:
    """Return True where `pairs` supports these arguments and is faster."""
    errors = values.numel() * target_values.shape[-1]
    return (
        kappa > 0
        and FEWEST <= errors <= MOST
        and values.device.type == "cpu"
        and values.dtype == target_values.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


def pairs(values: Tensor, taus: Tensor, target_values: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Compute `quantile_loss.quantile_huber` (...) and its gradient for equally likely targets.

    With c = clip(u, -kappa, kappa), split into its positive and negative parts c+ and c-, an error's slope is
    (tau c+ + (1 - tau) c-) / kappa, and its cost the same with c (u - c / 2) in place of c.

    Args:
        values: theta (..., N).
        taus: (N,) or (..., N).
        target_values: (..., M).
    """
    count = target_values.shape[-1]
    errors, part, cost = _buffers((*torch.broadcast_shapes(values.shape, (*target_values.shape[:-1], 1)), count))
    torch.sub(target_values.unsqueeze(-2), values.unsqueeze(-1), out=errors)
    ones = errors.new_full((count,), 1.0 / (kappa * count))
    loss, gradient = errors.new_zeros(()), errors.new_zeros(())
    for weight, low, high in ((taus, 0.0, kappa), (1.0 - taus, -kappa, 0.0)):
        torch.clamp(errors, low, high, out=part)
        gradient = gradient - weight * _sum(part, ones)
        torch.add(errors, part, alpha=-0.5, out=cost)
        loss = loss + weight * _sum(cost.mul_(part), ones)
    return loss.sum(-1), gradient


def _sum(terms: Tensor, ones: Tensor) -> Tensor:
    """Sum over the last dimension and scale, as a matrix-vector product."""
    return torch.mv(terms.view(-1, len(ones)), ones).view(terms.shape[:-1])


def _buffers(shape: Sequence[int]) -> list[Tensor]:
    """Return three arrays in memory that persists for this thread."""
    size = math.prod(shape)
    memory = getattr(_kept, "memory", None)
    if memory is None or memory.numel() < 3 * size:
        with torch.inference_mode(False):
            memory = _kept.memory = torch.empty(3 * size)
    return [memory[start : start + size].view(shape) for start in (0, size, 2 * size)]
