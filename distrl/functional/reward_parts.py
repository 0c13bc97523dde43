"""From a verifier's named parts to one reward: parts, transform, combination, gates, length, shaping, in this order.

Parts are (R, K) with a fixed order of names; NaN means that a part does not apply to a row. What stands before length
and shaping (`value`) is what curricula read: a penalty for length must not make a prompt look hard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register

_TESTS = ["tests/functional/test_llm_rewards.py"]


@register.part_transform("affine", tests=_TESTS)
def affine(part: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Maps [low, high] to [0, 1], not cut off: what BNPO needs of a reward. (R,)."""
    return (part - low) / (high - low)


@register.part_transform("threshold", tests=_TESTS)
def threshold(part: Tensor, *, at: float = 0.5) -> Tensor:
    """1 where the part reaches `at`, else 0; NaN stays. (R,)."""
    return torch.where(part.isnan(), part, (part >= at).to(part.dtype))


@register.part_transform("clip", tests=_TESTS)
def clip(part: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Cut to [low, high]. (R,)."""
    return part.clamp(low, high)


@register.combination("weighted_sum", tests=_TESTS)
def weighted_sum(parts: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight * part over the parts that apply. (R,).

    Args:
        parts: (R, K), NaN where a part does not apply.
        weights: (K,).
    """
    return (parts.nan_to_num(nan=0.0) * weights.to(parts)).sum(1)


@register.combination("product", tests=_TESTS)
def product(parts: Tensor, weights: Tensor) -> Tensor:
    """Product of part ** weight over the parts that apply: none can make up for another. (R,). Parts in [0, 1]."""
    return torch.where(parts.isnan(), torch.ones_like(parts), parts ** weights.to(parts)).prod(1)


@register.combination("minimum", tests=_TESTS)
def minimum(parts: Tensor, weights: Tensor) -> Tensor:
    """Smallest weight * part among those that apply, 0 where none does. (R,)."""
    lowest = torch.where(parts.isnan(), torch.full_like(parts, torch.inf), parts * weights.to(parts)).amin(1)
    return torch.where(lowest.isinf() & parts.isnan().all(1), torch.zeros_like(lowest), lowest)


@register.combination("result_times_consistency", paper="R1-Reward, 2025", entries=[161], tests=_TESTS)
def result_times_consistency(parts: Tensor, weights: Tensor) -> Tensor:
    """result (1 + w_1 consistency) + w_2 format: being consistent pays only if the result is right. (R,).

    Args:
        parts: (R, 3): result, consistency, format.
        weights: (3,); the first scales the result. The paper's: 1, 0.5, 0.5.
    """
    result, consistency, form = parts.nan_to_num(nan=0.0).unbind(1)
    return weights[0] * result * (1.0 + weights[1] * consistency) + weights[2] * form


@register.gate("require", tests=_TESTS)
def require(reward: Tensor, condition: Tensor, *, at: float = 0.5, otherwise: float = 0.0) -> Tensor:
    """The reward where the part `condition` reaches `at`, else `otherwise`: no points without the format. (R,)."""
    return torch.where(condition >= at, reward, torch.full_like(reward, otherwise))


@register.gate("conditioned", paper="GDPO, 2025", entries=[146], tests=_TESTS)
def conditioned(reward: Tensor, condition: Tensor, *, at: float = 0.5) -> Tensor:
    """An easy part counts only where a hard one reaches `at`, so that it cannot swamp it. (R,)."""
    return reward * (condition >= at)


@register.length_reward("overlong", paper="DAPO, Yu et al. 2025", tests=_TESTS)
def overlong(length: Tensor, *, max_length: int = 20480, buffer: int = 4096) -> Tensor:
    """0 up to max_length - buffer tokens, then down to -1 at max_length in a straight line, -1 beyond. (R,) float32."""
    return ((max_length - buffer - length.float()) / buffer).clamp(-1.0, 0.0)


def overlong_filter(mask: Tensor, truncated: Tensor) -> Tensor:
    """The mask without truncated answers: they stay in their group's statistics and leave the loss. (N, L). DAPO."""
    return mask & ~truncated.bool()[:, None]


@dataclass(frozen=True)
class RewardPlan:
    """What happens to parts on their way to a reward; every step is optional but the combination.

    Attributes:
        names: Of the K parts, in order.
        weights: (K,) by default ones.
        transforms: Name of a part -> function (R,) -> (R,).
        combination: (parts (R, K), weights (K,)) -> (R,).
        part_gates: (gated part, conditioning part, gate), applied before the combination, after all transforms.
        gates: (conditioning part, gate) on the combined reward; the condition is the transformed part.
        length: length in tokens (R,) -> (R,), added.
        shaping: reward (R,) -> (R,), last.
    """

    names: Sequence[str]
    weights: Sequence[float] | None = None
    transforms: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    combination: Callable[[Tensor, Tensor], Tensor] = weighted_sum
    part_gates: Sequence[tuple[str, str, Callable[[Tensor, Tensor], Tensor]]] = ()
    gates: Sequence[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = ()
    length: Callable[[Tensor], Tensor] | None = None
    shaping: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        named = [
            *self.transforms,
            *(n for gate in self.part_gates for n in gate[:2]),
            *(gate[0] for gate in self.gates),
        ]
        for name in named:
            if name not in self.names:
                raise ConfigError(unknown("reward part", name, self.names))
        if self.weights is not None and len(self.weights) != len(self.names):
            raise ConfigError(
                f"{len(self.weights)} weights for {len(self.names)} reward parts ({', '.join(self.names)}).",
                "Give one weight for each part.",
            )


@dataclass(frozen=True)
class Rewards:
    """What became of the parts.

    Attributes:
        parts: (R, K) transformed and gated, uncombined: what GDPO and BNPO normalize one by one.
        value: (R,) combined and gated: how well the task was done. For curricula and success rates.
        reward: (R,) with length and shaping: what is learned from.
    """

    parts: Tensor
    value: Tensor
    reward: Tensor


def combine(plan: RewardPlan, parts: Tensor, length: Tensor) -> Rewards:
    """Apply a plan.

    Args:
        plan: What to do.
        parts: (R, K) as the verifier gave them.
        length: (R,) tokens of each answer.
    """
    columns = {name: plan.transforms.get(name, _same)(parts[:, k]) for k, name in enumerate(plan.names)}
    gated = dict(columns)
    for name, condition, gate in plan.part_gates:
        gated[name] = gate(gated[name], columns[condition])
    stacked = torch.stack([gated[name] for name in plan.names], dim=1)
    weights = torch.ones(len(plan.names)) if plan.weights is None else torch.tensor(plan.weights)
    value = plan.combination(stacked, weights.to(stacked))
    for condition, combined_gate in plan.gates:
        value = combined_gate(value, columns[condition])
    reward = value if plan.length is None else value + plan.length(length).to(value)
    return Rewards(stacked, value, reward if plan.shaping is None else plan.shaping(reward))


def _same(part: Tensor) -> Tensor:
    return part
