"""Importance weights for the mismatch between sampler and learner log-probabilities.

Even with equal weights a sampler's engine gives other log-probabilities than the learner: another kernel, another
precision, stale weights or cache. A correction multiplies the loss of each token, without gradient. (N, L) throughout;
columns as in losses/token.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.tokens import lengths, log_ratio, masked, sequence_sum, to_tokens


@torch.no_grad()
def behavior_ratio(old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """old / behavior of trainable tokens, 0 elsewhere. (N, L).

    Args:
        old_logp: (N, L), the learner's.
        behavior_logp: (N, L), the sampler's.
        level: `token`; `sequence`, the product over the sequence; `geometric`, its geometric mean per token.
    """
    change = log_ratio(old_logp, behavior_logp, mask)
    if level == "token":
        return masked(change.exp(), mask)
    total = sequence_sum(change, mask)
    if level == "geometric":
        total = total / lengths(mask).clamp(min=1)
    elif level != "sequence":
        raise ConfigError(f"behavior_correction: no level {level!r}.", "Write token, sequence or geometric.")
    return to_tokens(total.clamp(-20.0, 20.0).exp(), mask)


@register.behavior_correction("none")
def no_correction(mask: Tensor) -> Tensor:
    """Every token counts fully."""
    return mask.to(torch.get_default_dtype())


@register.behavior_correction("tis", paper="Truncated importance sampling, Yao et al. 2025")
def truncated_weight(
    old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, *, cap: float = 2.0, level: str = "token"
) -> Tensor:
    """min(old / behavior, cap). See `behavior_ratio`."""
    return behavior_ratio(old_logp, behavior_logp, mask, level).clamp(max=cap)


@register.behavior_correction("icepop", paper="IcePop, 2025; masked importance sampling")
def masked_weight(
    old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, *, low: float = 0.5, high: float = 5.0, level: str = "token"
) -> Tensor:
    """old / behavior inside [low, high], 0 outside: tokens that disagree too much are not learned from."""
    ratio = behavior_ratio(old_logp, behavior_logp, mask, level)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


@register.behavior_correction("reject_sequences", paper="masked importance sampling, 2025")
def sequence_rejection(
    old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, *, lowest: float = 1e-4, cap: float = 2.0
) -> Tensor:
    """`tis`, and 0 for a whole sequence if a single token of it has a ratio below `lowest`."""
    ratio = behavior_ratio(old_logp, behavior_logp, mask)
    broken = ((ratio < lowest) & mask).any(1)
    return ratio.clamp(max=cap).masked_fill(broken[:, None], 0.0)
