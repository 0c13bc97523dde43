"""Advantages of an answer relative to the others to the same prompt.

Flat rewards (R,) and group ids (R,) in, advantages (R,) out, without gradient; groups may differ in size. Papers
differ here in options more than in formulas, so these are explicit everywhere:

- `ddof`: 1 (the public trainers) or 0 (most papers) in the standard deviation.
- `eps`: added to the standard deviation; 1e-6 (verl) or 1e-4 (TRL).
- `all_equal`: what a group without any difference beyond rounding gets. `zero` sets it to 0 exactly, `divide` leaves
  what rounding errors divided by eps give.
- `allow_singleton`: a group of one has nothing to be compared with, which is an error; if allowed, its mean counts
  as 0 and its deviation as 1, so that the advantage is the reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.groups import Groups, as_double, like


def compared(group: Tensor, allow_singleton: bool = False) -> Groups:
    """The groups, none of them a single row unless that is allowed."""
    groups = Groups(group)
    single = groups.ids[groups.count == 1]
    if len(single) and not allow_singleton:
        raise ConfigError(
            f"{len(single)} of {len(groups)} groups have one row (group {int(single[0])}): nothing to compare it with.",
            "Sample at least 2 answers for each prompt, or set allow_singleton: true.",
        )
    return groups


def centers(value: Tensor, groups: Groups) -> Tensor:
    """Group means (Q,), 0 for a group of one."""
    return groups.mean(value).masked_fill(groups.count == 1, 0.0)


def scaled(deviation: Tensor, value: Tensor, groups: Groups, ddof: int, eps: float, all_equal: str) -> Tensor:
    """`deviation` over the groups' standard deviations, with the rule for groups without differences. (R,)."""
    std = groups.std(value, ddof).masked_fill(groups.count == 1, 1.0)
    return without_ties(deviation / groups.spread(std + eps), value, groups, all_equal)


def without_ties(advantage: Tensor, value: Tensor, groups: Groups, all_equal: str) -> Tensor:
    """Zeros for groups of several equal rewards, if the rule says so. (R,)."""
    if all_equal == "divide":
        return advantage
    if all_equal != "zero":
        raise ConfigError(f"no all_equal rule {all_equal!r}.", "Write zero or divide.")
    tied = groups.all_equal(value) & (groups.count > 1)
    return advantage.masked_fill(groups.spread(tied), 0.0)


@register.advantage("reinforce", paper="Williams 1992; ReMax, Li et al. 2023")
def reinforce(reward: Tensor, baseline: Tensor | None = None) -> Tensor:
    """reward - baseline. (R,). The baseline may be anything that does not depend on the row's own answer.

    Args:
        baseline: (R,): a running mean, or the reward of the greedy answer (ReMax).
    """
    return like(as_double(reward) - (0.0 if baseline is None else as_double(baseline)), reward)


@register.advantage("grpo", paper="GRPO, Shao et al. 2024")
def grpo(
    reward: Tensor,
    group: Tensor,
    *,
    ddof: int = 1,
    eps: float = 1e-6,
    all_equal: str = "zero",
    allow_singleton: bool = False,
) -> Tensor:
    """(reward - group mean) / (group std + eps). (R,).

    >>> grpo(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.int64), eps=0.0)
    tensor([ 1.5000, -0.5000, -0.5000, -0.5000])
    """
    groups, value = compared(group, allow_singleton), as_double(reward)
    deviation = value - groups.spread(centers(value, groups))
    return like(scaled(deviation, value, groups, ddof, eps, all_equal), reward)


@register.advantage("dr_grpo", paper="Dr. GRPO, Liu et al. 2025")
def dr_grpo(reward: Tensor, group: Tensor, *, allow_singleton: bool = False) -> Tensor:
    """reward - group mean, not divided: hard and easy prompts keep their own scale. (R,)."""
    groups, value = compared(group, allow_singleton), as_double(reward)
    return like(value - groups.spread(centers(value, groups)), reward)


@register.advantage("rloo", paper="RLOO, Kool et al. 2019; Ahmadian et al. 2024")
def rloo(reward: Tensor, group: Tensor, *, allow_singleton: bool = False) -> Tensor:
    """reward - mean of the group's other rewards, an unbiased baseline. (R,)."""
    groups, value = compared(group, allow_singleton), as_double(reward)
    others = groups.spread(groups.sum(value)) - value
    return like(value - others / groups.spread(groups.count - 1).clamp(min=1), reward)


@register.advantage("quantile_advantage", paper="Quantile Advantage Estimation, 2025", entries=[4])
def quantile_advantage(
    reward: Tensor,
    group: Tensor,
    *,
    level: float | None = 0.4,
    interpolation: str = "linear",
    ddof: int = 1,
    eps: float = 1e-6,
    all_equal: str = "zero",
    allow_singleton: bool = False,
) -> Tensor:
    """GRPO with the mean replaced by the group's quantile. (R,).

    With rewards 0 and 1 and `interpolation: exact` the answers to a prompt solved at a rate of at most 1 - level get 0
    where wrong, those to an easier prompt 0 where right. Raising `level` makes more prompts easy ones.

    Args:
        level: K; None or outside (0, 1): the mean, that is GRPO.
        interpolation: `linear`, `lower`, `higher` as in `torch.quantile`, or `exact`, the gate above (with rewards 0
            and 1 `linear` can give a threshold strictly between, and then signs as with a mean).
    """
    if level is None or not 0.0 < level < 1.0:
        return grpo(reward, group, ddof=ddof, eps=eps, all_equal=all_equal, allow_singleton=allow_singleton)
    groups, value = compared(group, allow_singleton), as_double(reward)
    baseline = groups.quantile(value, level, interpolation).masked_fill(groups.count == 1, 0.0)
    return like(scaled(value - groups.spread(baseline), value, groups, ddof, eps, all_equal), reward)


@register.advantage("mc_grpo", paper="MC-GRPO, 2025", entries=[134])
def mc_grpo(
    reward: Tensor,
    group: Tensor,
    *,
    scale: str = "mad",
    floor: float = 1e-3,
    paper_exact: bool = False,
    ddof: int = 1,
    eps: float = 1e-6,
    all_equal: str = "zero",
    allow_singleton: bool = False,
) -> Tensor:
    """(reward - group median) / (median absolute deviation + floor). (R,).

    Meant for groups of odd size, whose median row has advantage 0. Where the median absolute
    deviation is 0 (with rewards 0 and 1: in every odd group) the standard deviation divides instead.

    Args:
        scale: `mad`, `std` or `none`.
        floor: Added to the median absolute deviation.
        paper_exact: Divide by `floor` alone where that deviation is 0, which makes advantages of 1 / floor.
    """
    groups, value = compared(group, allow_singleton), as_double(reward)
    median = groups.median(value).masked_fill(groups.count == 1, 0.0)
    deviation = value - groups.spread(median)
    if scale == "none":
        return like(deviation, reward)
    by_std = scaled(deviation, value, groups, ddof, eps, all_equal)
    if scale == "std":
        return like(by_std, reward)
    if scale != "mad":
        raise ConfigError(f"advantage mc_grpo: no scale {scale!r}.", "Write mad, std or none.")
    mad = groups.spread(groups.median(deviation.abs()).masked_fill(groups.count == 1, 1.0))
    by_mad = without_ties(deviation / (mad + floor), value, groups, all_equal)
    return like(by_mad if paper_exact else torch.where(mad < 1e-6, by_std, by_mad), reward)
