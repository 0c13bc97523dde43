"""Which prompts to sample, and which groups to keep: the pure part of curricula.

Weights (Q,) are probabilities over the items of a pool, made from their success rates so far, NaN where not known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.language.chain.groups import Groups


def mix_uniform(probability: Tensor, share: float) -> Tensor:
    """(1 - share) probability + share / Q: no item is ever lost from sight. (Q,)."""
    return (1.0 - share) * probability + share / len(probability)


@register.item_weight("uniform")
def uniform(success_rate: Tensor) -> Tensor:
    """All items alike. (Q,)."""
    return torch.full_like(success_rate, 1.0 / max(len(success_rate), 1))


@register.item_weight("success_band", paper="curricula by success rate")
def success_band(success_rate: Tensor, *, low: float = 0.2, high: float = 0.8, uniform_share: float = 0.1) -> Tensor:
    """Items with a success rate in [low, high], and those never tried, alike; others only by the uniform share. (Q,).

    Args:
        success_rate: (Q,), NaN: not known.
        low: Too hard below.
        high: Too easy above.
        uniform_share: Of the uniform distribution in the mix. With no item inside the band, all of it.
    """
    inside = ((success_rate >= low) & (success_rate <= high)) | success_rate.isnan()
    count = inside.sum()
    if not bool(count):
        return uniform(success_rate)
    return mix_uniform(inside.to(success_rate.dtype) / count, uniform_share)


def informative_groups(accuracy: Tensor, group: Tensor, threshold: float = 0.5) -> Tensor:
    """DAPO's dynamic sampling: (R,) bool, rows whose group has both right and wrong answers.

    Args:
        accuracy: (R,) what the verifier said, not the shaped reward; at least `threshold` is right.
        group: (R,) int64.
        threshold: See above.
    """
    groups = Groups(group)
    right = groups.sum((accuracy >= threshold).long())
    return groups.spread((right > 0) & (right < groups.count))


def zero_variance_share(reward: Tensor, group: Tensor) -> float:
    """Share of groups whose rewards are all equal: nothing can be learned from them by comparison."""
    groups = Groups(group)
    return float(groups.all_equal(reward.double()).double().mean()) if len(groups) else 0.0


def update_success_rate(old: Tensor, reward: Tensor, item: Tensor, decay: float = 0.0) -> Tensor:
    """Success rates after a batch. (Q,).

    Args:
        old: (Q,), NaN where not known.
        reward: (R,) success of each answer, in [0, 1].
        item: (R,) int64 in [0, Q).
        decay: What remains of an old rate; 0 takes the batch's mean, as it is for an unknown one.
    """
    groups = Groups(item)
    mean = groups.mean(reward.to(old.dtype))
    before = old[groups.ids]
    return old.index_copy(0, groups.ids, torch.where(before.isnan(), mean, decay * before + (1.0 - decay) * mean))
