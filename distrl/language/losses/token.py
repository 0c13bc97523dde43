"""Losses of tokens, to be MINIMIZED: one number per token, 0 off the mask.

Columns (N, L): `logp` of the tokens under the policy being trained, with gradient; `old_logp` under the weights that
the ratio is taken against (recomputed by the learner before its first step on a batch, or the sampler's); `advantage`,
also (N,) for one per sequence; `mask` bool. The ratio is exp(logp - old_logp). Losses of a behavior policy's mismatch
are multiplied by a weight of behavior_correction.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.tokens import log_ratio, masked, next_trainable, sequence_mean, to_tokens


def clipped_loss(
    ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), elementwise. Schulman et al. 2017, eq. 7.

    Args:
        ratio: pi / pi_old.
        clip_low: How far a ratio may fall where A < 0.
        clip_high: How far it may rise where A > 0; larger than `clip_low` keeps rare tokens alive (DAPO).
        dual_clip: Bound c > 1 on the ratio where A < 0 (Ye et al. 2020): the loss is at most -c A. None: none.
    """
    # the same as `clipped_surrogate`, in the order of operations that keeps the gradients of blended losses (COPO)
    loss = torch.maximum(-ratio * advantage, -ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage)
    if dual_clip is None:
        return loss
    return torch.where(advantage < 0, torch.minimum(loss, -dual_clip * advantage), loss)


@register.token_loss("token_reinforce", paper="Williams 1992")
def token_reinforce(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-A log pi. (N, L). With one advantage a sequence and sums over tokens: REINFORCE on whole answers."""
    return -to_tokens(advantage.detach(), mask) * masked(logp, mask)


@register.token_loss("token_ppo", paper="PPO, Schulman et al. 2017; DAPO, Yu et al. 2025")
def token_ppo(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped surrogate for each token: GRPO's, and with clip_high 0.28 DAPO's. (N, L)."""
    ratio = log_ratio(logp, old_logp, mask).exp()
    return clipped_loss(ratio, to_tokens(advantage.detach(), mask), clip_low, clip_high, dual_clip)


@register.token_loss("cispo", paper="MiniMax-M1, 2025")
def cispo(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float | None = None,
    clip_high: float = 4.0,
) -> Tensor:
    """-sg(clip(ratio)) A log pi: the weight is clipped, no token loses its gradient. (N, L).

    Args:
        clip_low: Weights are at least 1 - clip_low; None: no lower bound.
        clip_high: Weights are at most 1 + clip_high.
    """
    weight = log_ratio(logp, old_logp, mask).exp().detach()
    weight = weight.clamp(0.0 if clip_low is None else 1.0 - clip_low, 1.0 + clip_high)
    return -weight * to_tokens(advantage.detach(), mask) * masked(logp, mask)


@register.token_loss("gspo_token", paper="GSPO, Zheng et al. 2025")
def gspo_token(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Tensor:
    """GSPO per token: the sequence's ratio in value, the token's own gradient. (N, L).

    With one advantage a sequence and aggregation seq_mean_token_mean it is `gspo`, value and gradient.
    """
    sequence = sequence_mean(log_ratio(logp, old_logp, mask), mask).exp().detach()
    own = (masked(logp, mask) - masked(logp, mask).detach()).exp()
    ratio = to_tokens(sequence, mask) * own
    return clipped_loss(ratio, to_tokens(advantage.detach(), mask), clip_low, clip_high)


@register.token_loss("decoupled_ppo", paper="Hilton et al. 2022; AReaL, Fu et al. 2025")
def decoupled_ppo(
    logp: Tensor,
    old_logp: Tensor,
    behavior_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    cap: float = 5.0,
    mode: str = "mask",
) -> Tensor:
    """PPO around a proximal policy, weighted by proximal / behavior. (N, L).

    Args:
        old_logp: (N, L) under the proximal policy: the learner's weights just before this update.
        behavior_logp: (N, L) recorded token by token by the sampler, perhaps under several versions.
        clip_low: Of the ratio to the proximal policy.
        cap: Of the weight; `inf` for the unbiased form.
        mode: Weights beyond the cap become 0 (`mask`) or the cap (`truncate`).
    """
    if mode not in ("mask", "truncate"):
        raise ConfigError(f"token_loss decoupled_ppo: no mode {mode!r}.", "Write mask or truncate.")
    weight = log_ratio(old_logp.detach(), behavior_logp, mask).exp()
    weight = weight.clamp(max=cap) if mode == "truncate" else weight.masked_fill(weight > cap, 0.0)
    return weight * token_ppo(logp, old_logp, advantage, mask, clip_low=clip_low, clip_high=clip_high)


def proximal_by_versions(logp: Tensor, behavior_logp: Tensor, share: Tensor | float) -> Tensor:
    """The proximal log-probability between the two policies at hand: behavior + share (sg(logp) - behavior).

    Args:
        logp: (N, L) under the current weights.
        share: (proximal version - behavior version) / (current version - behavior version).
    """
    return behavior_logp + share * (logp.detach() - behavior_logp)


@register.token_loss("stable_reinforce", paper="R1-Reward, 2025", entries=[161])
def stable_reinforce(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    bound: float = 1e3,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """PPO whose log-ratio is cut to [-log bound, log bound] before the exponential: a bad token with a huge ratio has
    no gradient at all. (N, L). Its advantages pass `drop_outliers` first.
    """
    ratio = log_ratio(logp, old_logp, mask, limit=math.log(bound)).exp()
    return clipped_loss(ratio, to_tokens(advantage.detach(), mask), clip_low, clip_high)


@register.token_loss("copo", paper="COPO, 2025", entries=[108])
def copo(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    global_advantage: Tensor,
    local_weight: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """w PPO(local advantage) + (1 - w) PPO(global advantage), each clipped by its own sign. (N, L).

    Args:
        advantage: (N,) or (N, L), GRPO's.
        global_advantage: (N,), `copo_global`.
        local_weight: (N,) in [0, 1], `consistency_weight`.
    """
    ratio = log_ratio(logp, old_logp, mask).exp()
    local = clipped_loss(ratio, to_tokens(advantage.detach(), mask), clip_low, clip_high)
    shared = clipped_loss(ratio, to_tokens(global_advantage.detach(), mask), clip_low, clip_high)
    weight = to_tokens(local_weight.detach(), mask)
    return weight * local + (1.0 - weight) * shared


@register.token_loss("rover", paper="ROVER, 2025", entries=[62])
def rover(
    logp: Tensor,
    old_logp: Tensor,
    mean_logp: Tensor,
    old_mean_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    rho: float = 1.0,
    next_q_coef: float = 1.0,
) -> Tensor:
    """(Q - sg(y))^2 with Q = rho (logp - old_logp). (N, L).

    y = advantage + rho * next_q_coef * mean over the vocabulary of (log pi - log pi_old) at the next trainable token,
    0 after the last. float32 at least: the mean is dominated by tokens that are never used.

    Args:
        mean_logp: (N, L), `mean_log_prob` of the logits that each token was drawn from.
        old_mean_logp: (N, L) the same under the old policy, stored at rollout time.
        advantage: (N,), the reward less its group's mean, given to every token.
        next_q_coef: Scale of the bootstrap, usually 0.2 to 1.
    """
    q = rho * log_ratio(logp, old_logp, mask)
    ahead = next_trainable(masked((mean_logp - old_mean_logp).detach(), mask), mask)
    target = to_tokens(advantage.detach(), mask) + rho * next_q_coef * ahead
    return (q - target).square()


def mean_log_prob(logits: Tensor) -> Tensor:
    """Mean over the vocabulary of log softmax, (..., V) to (...): mean logit less logsumexp."""
    return logits.mean(-1) - torch.logsumexp(logits, -1)
