"""pass@k, estimated from n >= k attempts (Chen et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.language.chain.groups import Groups


def pass_at_k(correct: Tensor, group: Tensor, k: int) -> Tensor:
    """1 - C(n - c, k) / C(n, k) of each group, unbiased. (R,) bool to (Q,) float64; NaN for groups of fewer than k.

    >>> pass_at_k(torch.tensor([True, False, False, False]), torch.zeros(4, dtype=torch.int64), 2).item()
    0.5
    """
    groups = Groups(group)
    n, c = groups.count.double(), groups.sum(correct.double())
    steps = torch.arange(k, dtype=torch.float64, device=n.device)
    # C(n - c, k) / C(n, k) as a product of k fractions; a factor below 0 means that every draw holds a success
    failures = ((n - c)[:, None] - steps).clamp(min=0.0) / (n[:, None] - steps).clamp(min=1.0)
    return (1.0 - failures.prod(1)).masked_fill(n < k, torch.nan)
