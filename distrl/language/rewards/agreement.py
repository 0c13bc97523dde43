"""Rewards from agreement among the answers to a prompt, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.groups import Groups, outcome_entropy


@register.reward("ttrv", paper="TTRV, 2025", entries=[119])
def ttrv(answer: Tensor, group: Tensor, *, alpha: float = 0.75, entropy_mode: str = "batch") -> Tensor:
    """Share of the answer in its group, less alpha times the group's entropy. (R,) float64.

    The entropy of a group is the same for all its members: an advantage that centers groups cancels it exactly, so
    with `batch` take advantage `batch_normalized`. `marginal` gives each member what the entropy would be without it
    less what it is, which survives centering.

    Args:
        answer: (R,) int64 ids; negative where no answer could be read: reward 0, counted nowhere.
        entropy_mode: `batch`, `group_const` (the same rewards; the advantage decides) or `marginal`.
    """
    groups = Groups(group)
    share, entropy, total = outcome_entropy(answer, groups)
    if entropy_mode in ("batch", "group_const"):
        calm = -groups.spread(entropy)
    elif entropy_mode == "marginal":
        calm = _entropy_without(share, groups.spread(total), groups.spread(entropy)) - groups.spread(entropy)
    else:
        raise ConfigError(f"reward ttrv: no entropy_mode {entropy_mode!r}.", "Write batch, group_const or marginal.")
    return torch.where(answer >= 0, share + alpha * calm, torch.zeros_like(share))


def _entropy_without(share: Tensor, total: Tensor, entropy: Tensor) -> Tensor:
    """Entropy of a group's answers after taking one of this row's kind away. (R,).

    With counts m of n in all, H = ln n - (1/n) sum m ln m: only one term of the sum and n change.
    """
    count, n = share * total, total
    sum_of_logs = n * (n.clamp(min=1).log() - entropy)  # sum of m ln m
    rest = (count - 1).clamp(min=0)
    changed = sum_of_logs - torch.xlogy(count, count) + torch.xlogy(rest, rest)
    left = (n - 1).clamp(min=1)
    return left.log() - changed / left


@register.reward("majority", paper="TTRL, 2025", entries=[119])
def majority(answer: Tensor, group: Tensor) -> Tensor:
    """1 where the answer is its group's most frequent one (the first seen on ties), else 0. (R,) float64."""
    groups = Groups(group)
    share = outcome_entropy(answer, groups)[0]
    best = share == groups.spread(groups.extremes(share)[1])
    rows = torch.arange(len(answer), device=answer.device)
    first = groups.extremes(torch.where(best, rows, len(answer)).double())[0].long()
    return ((answer == groups.spread(answer[first])) & (answer >= 0)).double()
