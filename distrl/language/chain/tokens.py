"""Masked token sequences: helpers of token-level components.

Tensors are (N, L), sequences by tokens; `mask` (N, L) bool says which tokens the policy chose and is trained on.
Prompts, padding, tool output and injected text have mask False: they may hold anything, even NaN, and never count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.functional.scan import reverse_scan

#: Log-ratios are cut here before the exponential: for numerical safety.
LOG_RATIO_LIMIT = 20.0


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where the mask holds, else 0 without gradient, even for values that are not finite."""
    return x.masked_fill(~mask, 0.0)


def log_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor, limit: float = LOG_RATIO_LIMIT) -> Tensor:
    """log pi - log pi_old of trainable tokens, cut to [-limit, limit]; 0 elsewhere. (N, L)."""
    return masked(logp - old_logp.detach(), mask).clamp(-limit, limit)


def to_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Copy a number per sequence (N,) to its trainable tokens, (N, L); (N, L) is masked only."""
    return masked((x[:, None] if x.dim() == 1 else x).expand(mask.shape), mask)


def sequence_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over each sequence's trainable tokens, (N, L) to (N,)."""
    return masked(x, mask).sum(1)


def lengths(mask: Tensor) -> Tensor:
    """Trainable tokens of each sequence, (N,) int64."""
    return mask.sum(1)


def sequence_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over each sequence's trainable tokens, (N, L) to (N,); 0 for a sequence without any."""
    return sequence_sum(x, mask) / lengths(mask).clamp(min=1)


def last_token(mask: Tensor) -> Tensor:
    """(N, L) bool: the last trainable token of each sequence that has one."""
    later = mask.flip(1).cumsum(1).flip(1)
    return mask & (later == 1)


def next_trainable(x: Tensor, mask: Tensor, end: Tensor | float = 0.0) -> Tensor:
    """The value of `x` at the next trainable token of the sequence, 0 elsewhere. (N, L).

    Args:
        mask: (N, L) bool. Tokens in between, such as a tool's answer, are stepped over.
        end: Value at the last trainable token, a number or (N,).
    """
    index = _compact(mask)
    packed = x.gather(1, index)
    following = torch.cat([packed[:, 1:], packed[:, :1]], dim=1)
    back = torch.zeros_like(x).scatter(1, index, following)
    last = last_token(mask)
    ends = end[:, None].to(x.dtype).expand(x.shape) if isinstance(end, Tensor) else torch.full_like(x, end)
    return masked(torch.where(last, ends, back), mask)


def scan_trainable(delta: Tensor, decay: float, mask: Tensor) -> Tensor:
    """A_t = delta_t + decay * A_{next trainable token}, without gradient; 0 elsewhere. (N, L).

    Tokens that the policy did not choose consume no discount: the recurrence passes them by.
    """
    index = _compact(mask)
    packed = masked(delta, mask).gather(1, index).t().contiguous()
    total = reverse_scan(packed, torch.full_like(packed, decay)).t()
    return masked(torch.zeros_like(total).scatter(1, index, total), mask)


def _compact(mask: Tensor) -> Tensor:
    """(N, L) positions with each sequence's trainable tokens first, in order."""
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)


def masked_standardize(x: Tensor, mask: Tensor, eps: float = 1e-8, ddof: int = 0) -> Tensor:
    """(x - mean) / (std + eps) where the mask holds; 0 elsewhere and where nothing varies."""
    value = masked(x.detach().double(), mask)
    count = mask.sum()
    centered = masked(value - value.sum() / count.clamp(min=1), mask)
    std = (centered.square().sum() / (count - ddof).clamp(min=1)).sqrt()
    floor = 1e-8 + 1e-12 * value.abs().amax() if value.numel() else std.new_zeros(())
    result = torch.where(std < floor, torch.zeros_like(centered), centered / (std + eps))
    return result.to(x.dtype if x.is_floating_point() else torch.float32)
