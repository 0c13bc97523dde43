"""Transforms, combinations and gates of reward components; `plan.py` fixes the order.

Components are (R, K); NaN: does not apply to the row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register


@register.component_transform("affine")
def affine(component: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Maps [low, high] to [0, 1], not cut off: what BNPO needs of a reward. (R,)."""
    return (component - low) / (high - low)


@register.component_transform("threshold")
def threshold(component: Tensor, *, at: float = 0.5) -> Tensor:
    """1 where the component reaches `at`, else 0; NaN stays. (R,)."""
    return torch.where(component.isnan(), component, (component >= at).to(component.dtype))


@register.component_transform("clip")
def clip(component: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Cut to [low, high]. (R,)."""
    return component.clamp(low, high)


@register.combination("weighted_sum")
def weighted_sum(components: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight * component over those that apply. (R,)."""
    return (components.nan_to_num(nan=0.0) * weights.to(components)).sum(1)


@register.combination("product")
def product(components: Tensor, weights: Tensor) -> Tensor:
    """Product of component ** weight over those that apply, in [0, 1]; 0 if none. (R,)."""
    result = torch.where(components.isnan(), torch.ones_like(components), components ** weights.to(components)).prod(1)
    return result.masked_fill(components.isnan().all(1), 0.0)


@register.combination("minimum")
def minimum(components: Tensor, weights: Tensor) -> Tensor:
    """Smallest weight * component among those that apply, 0 where none does. (R,)."""
    lowest = torch.where(
        components.isnan(), torch.full_like(components, torch.inf), components * weights.to(components)
    ).amin(1)
    return torch.where(lowest.isinf() & components.isnan().all(1), torch.zeros_like(lowest), lowest)


@register.combination("result_times_consistency", paper="R1-Reward, 2025", entries=[161])
def result_times_consistency(components: Tensor, weights: Tensor) -> Tensor:
    """w_0 result (1 + w_1 consistency) + w_2 format. (R,).

    Args:
        components: (R, 3): result, consistency, format.
        weights: (3,); the first scales the result. The paper's: 1, 0.5, 0.5.
    """
    result, consistency, form = components.nan_to_num(nan=0.0).unbind(1)
    return weights[0] * result * (1.0 + weights[1] * consistency) + weights[2] * form


@register.gate("require")
def require(reward: Tensor, condition: Tensor, *, at: float = 0.5, otherwise: float = 0.0) -> Tensor:
    """The reward where the component `condition` reaches `at`, else `otherwise`. (R,)."""
    return torch.where(condition >= at, reward, torch.full_like(reward, otherwise))


@register.gate("conditioned", paper="GDPO, 2025", entries=[146])
def conditioned(reward: Tensor, condition: Tensor, *, at: float = 0.5) -> Tensor:
    """The reward where the component `condition` reaches `at`, else 0. (R,)."""
    return reward * (condition >= at)


@register.length_reward("overlong", paper="DAPO, Yu et al. 2025")
def overlong(length: Tensor, *, max_length: int = 20480, buffer: int = 4096) -> Tensor:
    """0 up to max_length - buffer tokens, then linear to -1 at max_length. (R,) float32."""
    return ((max_length - buffer - length.float()) / buffer).clamp(-1.0, 0.0)


@register.shaping("scale")
def scale(reward: Tensor, *, factor: float = 1.0, shift: float = 0.0) -> Tensor:
    """factor * reward + shift. (R,)."""
    return factor * reward + shift
