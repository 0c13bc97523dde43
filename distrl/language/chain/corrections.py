"""Weights for the difference between the policy that sampled and the one that the learner takes for it.

Even with equal weights a sampler's engine gives other log-probabilities than the learner: another kernel, another
precision, stale weights or cache. A correction multiplies the loss of each token, without gradient. (N, L) throughout;
columns as in token_losses.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.statistics import effective_sample_size
from distrl.language.chain.tokens import lengths, log_ratio, masked, sequence_sum, to_tokens


@torch.no_grad()
def behavior_ratio(old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """old / behavior of trainable tokens, 0 elsewhere. (N, L).

    Args:
        old_logp: (N, L), the learner's.
        behavior_logp: (N, L), the sampler's.
        mask: (N, L) bool.
        level: `token`; `sequence`, the product over the sequence; `geometric`, its geometric mean per token.

    Raises:
        ConfigError: Another level.
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
    old_logp: Tensor,
    behavior_logp: Tensor,
    mask: Tensor,
    *,
    low: float = 0.5,
    high: float = 5.0,
    level: str = "token",
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


@torch.no_grad()
def mismatch_statistics(old_logp: Tensor, behavior_logp: Tensor, mask: Tensor, cap: float = 2.0) -> dict[str, Tensor]:
    """How far sampler and learner are apart, over trainable tokens: scalars to log, 0 where there are none.

    Returns:
        `probability_mean`, `probability_max`: of |exp(old) - exp(behavior)|; `logp_mean`, `logp_max`: of the
        log-probabilities' distance; `kl`: KL(behavior || old) by k3; `weight_max`; `truncated`: share of weights
        above `cap`; `effective_share`: effective sample size over the number of tokens.
    """
    change = log_ratio(old_logp, behavior_logp, mask)
    distance = masked(old_logp.exp() - behavior_logp.exp(), mask).abs()
    count = mask.sum().clamp(min=1)
    weight = masked(change.exp(), mask)
    some = mask.any()

    def largest(x: Tensor) -> Tensor:
        return x.amax() if x.numel() else x.new_zeros(())

    return {
        "probability_mean": distance.sum() / count,
        "probability_max": largest(distance),
        "logp_mean": change.abs().sum() / count,
        "logp_max": largest(change.abs()),
        "kl": (torch.expm1(change) - change).sum() / count,
        "weight_max": largest(weight),
        "truncated": (weight > cap).sum() / count,
        "effective_share": effective_sample_size(change, mask) / count if some else change.new_zeros(()),
    }
