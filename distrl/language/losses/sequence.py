"""Losses of whole answers, to be MINIMIZED: one number per row (N,), 0 without tokens.

Columns as in token_losses.py. Aggregated by `aggregation.row_mean`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.language.chain.groups import Groups, as_double, like
from distrl.language.chain.tokens import log_ratio, sequence_mean, sequence_sum
from distrl.language.losses.token import clipped_loss


def _present(loss: Tensor, mask: Tensor) -> Tensor:
    return loss.masked_fill(~mask.any(1), 0.0)


@register.row_loss("gspo", paper="GSPO, Zheng et al. 2025")
def gspo(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Tensor:
    """PPO's clip on the geometric mean of a sequence's token ratios. (N,).

    Args:
        clip_low: Far smaller than for tokens: means of log-ratios vary little.
    """
    ratio = sequence_mean(log_ratio(logp, old_logp, mask), mask).exp()
    return _present(clipped_loss(ratio, advantage.detach(), clip_low, clip_high), mask)


@register.row_loss("sequence_ppo", paper="RLOO, Ahmadian et al. 2024")
def sequence_ppo(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """PPO's clip on the product of an answer's token ratios. (N,)."""
    ratio = sequence_sum(log_ratio(logp, old_logp, mask), mask).clamp(-20.0, 20.0).exp()
    return _present(clipped_loss(ratio, advantage.detach(), clip_low, clip_high), mask)


@register.row_loss("tbrm", paper="Trajectory Bellman Residual Minimization, 2025", entries=[65])
def tbrm(
    logp: Tensor, ref_logp: Tensor, reward: Tensor, start_value: Tensor, mask: Tensor, *, beta: float = 0.002
) -> Tensor:
    """Square of the soft Bellman residual summed along the answer: (V(s_1) + sum logp - R / beta - sum ref)^2. (N,).

    One answer a prompt is enough, from any policy; no ratio, no clip.

    Args:
        start_value: (N,) logsumexp of the *raw* logits that the first token was drawn from, with gradient: the
            baseline, in units of beta.
        beta: Temperature of the KL-regularized problem, in units of the reward.
    """
    residual = start_value + sequence_sum(logp - ref_logp.detach(), mask) - reward.detach() / beta
    return _present(residual.square(), mask)


@register.row_loss("flowrl", paper="FlowRL, 2025", entries=[82])
def flowrl(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor,
    advantage: Tensor,
    log_z: Tensor,
    mask: Tensor,
    behavior_logp: Tensor | None = None,
    *,
    beta: float = 15.0,
    clip_low: float | None = 0.2,
    clip_high: float = 0.28,
    behavior_cap: float = 2.0,
) -> Tensor:
    """w (log Z + mean logp - beta A - mean ref)^2: flow matching. (N,).

    Args:
        advantage: (N,), GRPO's: the reward as the flow sees it.
        log_z: (N,) of the partition head on the prompt, with gradient.
        behavior_logp: (N, L) of the sampler; given, the loss is also weighted by min(old / behavior, cap).
        beta: Inverse temperature.
        clip_low: The weight w, the product of the token ratios without gradient, is at least 1 - clip_low; None: no
            weight.
        behavior_cap: Cap of the sampler's weight.
    """
    gap = log_z + sequence_mean(logp - ref_logp.detach(), mask) - beta * advantage.detach()
    loss = gap.square()
    if clip_low is not None:
        ratio = sequence_sum(log_ratio(logp.detach(), old_logp, mask), mask).clamp(-20.0, 20.0).exp()
        loss = loss * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    if behavior_logp is not None:
        drift = sequence_sum(log_ratio(old_logp.detach(), behavior_logp, mask), mask).clamp(-20.0, 20.0).exp()
        loss = loss * drift.clamp(max=behavior_cap)
    return _present(loss, mask)


@register.row_loss("a_star_po", paper="A*-PO, 2025", entries=[114])
def a_star_po(
    logp: Tensor, ref_logp: Tensor, reward: Tensor, optimal_value: Tensor, mask: Tensor, *, beta: float = 1e-3
) -> Tensor:
    """(beta sum (logp - ref) + V* - reward)^2: regression to the optimal advantage. (N,).

    Args:
        optimal_value: (N,), `soft_value` of the reference's answers to the same prompt; 0 where there are none.
        beta: Of the KL term, far smaller than the one of `soft_value`.
    """
    log_change = sequence_sum(logp - ref_logp.detach(), mask)
    return _present((beta * log_change + optimal_value.detach() - reward.detach()).square(), mask)


def soft_value(reward: Tensor, group: Tensor, beta: float = 0.5) -> Tensor:
    """A*-PO's V*: beta log mean exp(reward / beta) of the reference's answers, per group (Q,), ids ascending.

    Args:
        beta: Optimism: towards 0 the largest reward, at infinity the mean. Exactly 0 is the public code's word for
            the mean too.
    """
    groups, value = Groups(group), as_double(reward)
    if beta == 0.0 or math.isinf(beta):
        return like(groups.mean(value), reward)
    return like(beta * groups.log_mean_exp(value / beta), reward)


def raw_start_value(logits: Tensor) -> Tensor:
    """TBRM's V(s_1) / beta from the raw logits of the first token, (N, V) to (N,), float32 at least."""
    return torch.logsumexp(logits if logits.dtype == torch.float64 else logits.float(), -1)
