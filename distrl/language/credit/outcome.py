"""Credit: rewards (N, L) of trainable tokens from an answer's reward, without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.language.chain.tokens import last_token, log_ratio, masked


@register.credit("outcome", paper="Ouyang et al. 2022")
def outcome(reward: Tensor, mask: Tensor) -> Tensor:
    """The reward (N,) on the last trainable token, 0 elsewhere."""
    return masked(reward.detach()[:, None].expand(mask.shape), last_token(mask))


@register.credit("kl_penalized_outcome", paper="Ziegler et al. 2019; REINFORCE++, Hu 2025")
def kl_penalized_outcome(
    reward: Tensor, old_logp: Tensor, ref_logp: Tensor, mask: Tensor, *, beta: float = 0.0, estimator: str = "k1"
) -> Tensor:
    """`outcome` less beta times a KL estimate at every trainable token. (N, L).

    Args:
        old_logp: (N, L) under the policy that is being improved.
        beta: Price of a nat.
        estimator: `k1` (log pi - log ref) or `k3` (never negative).
    """
    d = log_ratio(old_logp.detach(), ref_logp, mask)
    return outcome(reward, mask).to(d.dtype) - beta * (d if estimator == "k1" else torch.expm1(-d) + d)


@register.credit("turn_rewards", paper="multi-turn outcome rewards")
def turn_rewards(turn_reward: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
    """Each turn's reward on the turn's last trainable token, if there is one. (N, L).

    Args:
        turn: (N, L) int64 number of the turn that a token belongs to, in [0, K), not decreasing along the sequence.
    """
    index = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    last = torch.full(turn_reward.shape, -1, dtype=torch.int64, device=mask.device)
    last = last.scatter_reduce(1, masked(turn, mask), index.masked_fill(~mask, -1), "amax")
    found = last >= 0
    rewards = torch.zeros(mask.shape, dtype=turn_reward.dtype, device=mask.device)
    return rewards.scatter_add(1, last.clamp(min=0), masked(turn_reward.detach(), found))
