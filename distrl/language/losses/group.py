"""Losses of whole groups, to be MINIMIZED: one number per group (Q,), ids ascending.

Rows of one group must lie in one tensor, so a learner splits minibatches between groups only. Aggregated by
`aggregation.group_loss_mean`. Columns as in token_losses.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.groups import Groups, outcome_entropy
from distrl.language.chain.tokens import lengths, sequence_mean, sequence_sum


@register.group_loss("rebel", paper="REBEL, Gao et al. 2024", entries=[29])
def rebel(
    logp: Tensor, old_logp: Tensor, reward: Tensor, group: Tensor, mask: Tensor, *, eta: float = 1.0, pairs: str = "all"
) -> Tensor:
    """Mean over a group's pairs of ((change(y) - change(y')) / eta - (r(y) - r(y')))^2, change = logp - old. (Q,).

    Regression of relative rewards: its solution is pi_old exp(eta r). Pairs with equal rewards count: they hold
    their log-ratio. A group of one has no pair and contributes 0.

    Args:
        eta: Step size of the mirror descent.
        pairs: `all`, or `adjacent`: first with second, third with fourth.
    """
    if pairs not in ("all", "adjacent"):
        raise ConfigError(f"group_loss rebel: no pairs {pairs!r}.", "Write all or adjacent.")
    groups = Groups(group)
    change = sequence_sum(logp - old_logp.detach(), mask)
    first, second = groups.pairs(adjacent=pairs == "adjacent").unbind(1)
    gap = (change[first] - change[second]) / eta - (reward[first] - reward[second]).detach().to(change.dtype)
    home = groups.row[first]
    total = change.new_zeros(len(groups)).index_add(0, home, gap.square())
    count = torch.bincount(home, minlength=len(groups)).clamp(min=1)
    return total / count


@register.group_loss("drpo", paper="Decoupled Reward Policy Optimization, 2025", entries=[99])
def drpo(
    logp: Tensor,
    correct: Tensor,
    group: Tensor,
    mask: Tensor,
    *,
    max_length: int,
    tau: float = 10.0,
    length_temperature: float = 0.1,
) -> Tensor:
    """tau log mean over wrong answers of exp(s / tau) - weighted mean over right ones of s. (Q,).

    s is an answer's mean log-probability; right answers weigh exp((1 - T / max_length) / length_temperature),
    normalized among themselves: a long right answer counts less, and never against itself. Prompts without both kinds
    give 0 and still count in the mean. The trust region is `divergences.hinge_penalty`.

    Args:
        max_length: Generation budget in tokens.
        tau: Temperature over wrong answers: small ones push the likeliest only.
        length_temperature: lambda; large: all lengths alike.
    """
    groups = Groups(group)
    score = sequence_mean(logp, mask)
    correct = correct.bool() & mask.any(1)
    wrong = ~correct & mask.any(1)
    weight = positive_weights(lengths(mask), correct, groups, max_length, length_temperature).to(score.dtype)
    push = tau * groups.log_mean_exp(score / tau, wrong)
    both = (groups.sum(correct.long()) > 0) & (groups.sum(wrong.long()) > 0)
    return (push - groups.sum(weight * score)) * both


def positive_weights(length: Tensor, correct: Tensor, groups: Groups, max_length: int, temperature: float) -> Tensor:
    """DRPO's weights of right answers: a softmax of (1 - T / max_length) / temperature among them. (N,) float64."""
    value = (1.0 - length.double() / max_length) / temperature
    top = groups.extremes(value.masked_fill(~correct, -torch.inf))[1]
    raw = (value - groups.spread(top)).exp().masked_fill(~correct, 0.0)
    return raw / groups.spread(groups.sum(raw)).clamp(min=1e-300)


def consistency_weight(
    answer: Tensor,
    group: Tensor,
    reward: Tensor | None = None,
    *,
    steepness: float = 3.0,
    threshold: float = 1.0,
    forced: bool = False,
) -> Tensor:
    """COPO's weight of the local advantage, sigmoid(steepness (entropy of the answers - threshold)). (R,) float64.

    Args:
        answer: (R,) int64 ids of final answers.
        reward: (R,), read if `forced`.
        steepness: gamma.
        threshold: rho, in nats.
        forced: 0 where all rewards of a group are equal: the local advantage is 0 there anyway, so that all of the
            loss is the global one.
    """
    groups = Groups(group)
    weight = torch.sigmoid(steepness * (outcome_entropy(answer, groups)[1] - threshold))
    if forced and reward is not None:
        weight = weight.masked_fill(groups.all_equal(reward.double()), 0.0)
    return groups.spread(weight)
