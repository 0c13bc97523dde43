"""Aggregation: weights that reduce losses of tokens, rows or groups to one number.

An aggregation is a *weighting* and reads only the mask, so a learner computes it once for the whole minibatch, takes
each shard's rows of it, and adds shard sums: denominators are global by construction.

    loss = aggregate(token_losses, token_mean(mask))

Sequences without a trainable token are left out of every count. The weights are float64; `aggregate` casts them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.groups import Groups
from distrl.language.chain.tokens import lengths


def aggregate(loss: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum, a scalar. Elements of weight 0 never count, even if they are not finite.

    Args:
        loss: (N, L) per token, (N,) per row, or (Q,) per group.
    """
    return (loss.masked_fill(weight == 0, 0.0) * weight.to(loss.dtype)).sum()


@register.aggregation("token_mean", paper="DAPO, Yu et al. 2025")
def token_mean(mask: Tensor) -> Tensor:
    """Every token counts alike: 1 / all trainable tokens. (N, L). Long sequences weigh more than short ones."""
    return mask.double() / mask.sum().clamp(min=1)


@register.aggregation("seq_mean_token_mean", paper="GRPO, Shao et al. 2024")
def seq_mean_token_mean(mask: Tensor) -> Tensor:
    """Every sequence counts alike, every token inside it: 1 / (B T_i). (N, L). Tokens of long answers count less."""
    return mask.double() * (row_mean(mask) / lengths(mask).clamp(min=1))[:, None]


@register.aggregation("seq_mean_token_sum", paper="Williams 1992; RLOO, Ahmadian et al. 2024")
def seq_mean_token_sum(mask: Tensor) -> Tensor:
    """The whole answer is one action: 1 / B for every token. (N, L)."""
    return mask.double() * row_mean(mask)[:, None]


@register.aggregation("seq_mean_token_sum_norm", paper="Dr. GRPO, Liu et al. 2025")
def seq_mean_token_sum_norm(mask: Tensor, *, max_length: int) -> Tensor:
    """One constant for all tokens: 1 / (B max_length). (N, L). No bias for short or for long answers.

    Args:
        max_length: The generation budget, in tokens: a constant of the run, not the padded length of this batch.
    """
    if max_length < 1:
        raise ConfigError(
            f"aggregation seq_mean_token_sum_norm: max_length is {max_length}.", "Give the generation budget in tokens."
        )
    return seq_mean_token_sum(mask) / max_length


@register.aggregation("group_mean", paper="COPO, 2025; Knapsack RL, 2025", entries=[96, 108])
def group_mean(mask: Tensor, group: Tensor, *, within: str = "token") -> Tensor:
    """Every prompt counts alike, however many samples it got. (N, L).

    Args:
        within: `token`: each of a prompt's tokens counts alike; `sequence`: each of its sequences does.
    """
    groups = Groups(group)
    length = lengths(mask)
    tokens = groups.sum(length)
    share = 1.0 / (tokens > 0).sum().clamp(min=1).double()
    if within == "token":
        return mask.double() * (share / groups.spread(tokens).clamp(min=1))[:, None]
    if within == "sequence":
        rows = groups.spread(groups.sum((length > 0).long()))
        return mask.double() * (share / (rows.clamp(min=1) * length.clamp(min=1)))[:, None]
    raise ConfigError(f"aggregation group_mean: no within {within!r}.", "Write token or sequence.")


def row_mean(mask: Tensor) -> Tensor:
    """Weights of row losses: 1 / B for the B sequences that have a trainable token, 0 for the others. (N,)."""
    present = mask.any(1)
    return present.double() / present.sum().clamp(min=1)


def group_loss_mean(group: Tensor) -> Tensor:
    """Weights of group losses: 1 / Q for each of the Q groups of the minibatch. (Q,)."""
    groups = len(torch.unique(group))
    return torch.full((groups,), 1.0 / max(groups, 1), dtype=torch.float64, device=group.device)
