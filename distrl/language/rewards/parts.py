"""Transforms, combinations and gates of reward components; `plan.py` fixes the order.

Components are (R, K); NaN: does not apply to the row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register


@register.part_transform("affine")
def affine(part: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Maps [low, high] to [0, 1], not cut off: what BNPO needs of a reward. (R,)."""
    return (part - low) / (high - low)


@register.part_transform("threshold")
def threshold(part: Tensor, *, at: float = 0.5) -> Tensor:
    """1 where the part reaches `at`, else 0; NaN stays. (R,)."""
    return torch.where(part.isnan(), part, (part >= at).to(part.dtype))


@register.part_transform("clip")
def clip(part: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Cut to [low, high]. (R,)."""
    return part.clamp(low, high)


@register.combination("weighted_sum")
def weighted_sum(parts: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight * part over the parts that apply. (R,).

    Args:
        parts: (R, K), NaN where a part does not apply.
        weights: (K,).
    """
    return (parts.nan_to_num(nan=0.0) * weights.to(parts)).sum(1)


@register.combination("product")
def product(parts: Tensor, weights: Tensor) -> Tensor:
    """Product of part ** weight over the parts that apply, in [0, 1]: none makes up for another. 0 if none. (R,)."""
    result = torch.where(parts.isnan(), torch.ones_like(parts), parts ** weights.to(parts)).prod(1)
    return result.masked_fill(parts.isnan().all(1), 0.0)


@register.combination("minimum")
def minimum(parts: Tensor, weights: Tensor) -> Tensor:
    """Smallest weight * part among those that apply, 0 where none does. (R,)."""
    lowest = torch.where(parts.isnan(), torch.full_like(parts, torch.inf), parts * weights.to(parts)).amin(1)
    return torch.where(lowest.isinf() & parts.isnan().all(1), torch.zeros_like(lowest), lowest)


@register.combination("result_times_consistency", paper="R1-Reward, 2025", entries=[161])
def result_times_consistency(parts: Tensor, weights: Tensor) -> Tensor:
    """result (1 + w_1 consistency) + w_2 format: being consistent pays only if the result is right. (R,).

    Args:
        parts: (R, 3): result, consistency, format.
        weights: (3,); the first scales the result. The paper's: 1, 0.5, 0.5.
    """
    result, consistency, form = parts.nan_to_num(nan=0.0).unbind(1)
    return weights[0] * result * (1.0 + weights[1] * consistency) + weights[2] * form


@register.gate("require")
def require(reward: Tensor, condition: Tensor, *, at: float = 0.5, otherwise: float = 0.0) -> Tensor:
    """The reward where the part `condition` reaches `at`, else `otherwise`: no points without the format. (R,)."""
    return torch.where(condition >= at, reward, torch.full_like(reward, otherwise))


@register.gate("conditioned", paper="GDPO, 2025", entries=[146])
def conditioned(reward: Tensor, condition: Tensor, *, at: float = 0.5) -> Tensor:
    """An easy part counts only where a hard one reaches `at`, so that it cannot swamp it. (R,)."""
    return reward * (condition >= at)


@register.length_reward("overlong", paper="DAPO, Yu et al. 2025")
def overlong(length: Tensor, *, max_length: int = 20480, buffer: int = 4096) -> Tensor:
    """0 up to max_length - buffer tokens, then down to -1 at max_length in a straight line, -1 beyond. (R,) float32."""
    return ((max_length - buffer - length.float()) / buffer).clamp(-1.0, 0.0)


@register.shaping("scale")
def scale(reward: Tensor, *, factor: float = 1.0, shift: float = 0.0) -> Tensor:
    """factor * reward + shift. (R,)."""
    return factor * reward + shift
