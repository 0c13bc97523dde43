"""Advantages of tokens, and filters: token PPO, StableReinforce, PIPO, DCPO."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.advantages.group import grpo
from distrl.language.chain.groups import as_double, like
from distrl.language.chain.tokens import masked, next_trainable, scan_trainable, to_tokens


@register.advantage("token_gae", paper="Schulman et al. 2016; Ouyang et al. 2022")
def token_gae(
    token_reward: Tensor,
    value: Tensor,
    mask: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Tensor:
    """Generalized advantages from one trainable token to the next. (N, L).

    The critic's targets are `advantage + value`; normalize advantages after taking them.

    Args:
        token_reward: (N, L), rewards on trainable tokens.
        value: (N, L), the critic's value of the prefix before each token.
        bootstrap: (N,) value after the last trainable token: 0 where the answer ended, V where only its budget did.
    """
    value = value.detach()
    following = next_trainable(value, mask, 0.0 if bootstrap is None else bootstrap.detach())
    delta = masked(token_reward.detach() + gamma * following - value, mask)
    return scan_trainable(delta, gamma * lam, mask)


def drop_outliers(advantage: Tensor, limit: float = 3.0) -> Tensor:
    """StableReinforce's filter: standardized advantages beyond `limit` become 0. Same shape."""
    return advantage.masked_fill(advantage.abs() > limit, 0.0)


def improvement_signal(mean_reward: float, history: Sequence[float], eps: float = 1e-6) -> float:
    """PIPO's xi: the batch's mean reward against the last ones, in their standard deviations.

    0, that is no verifying update, while the history has fewer than two entries.
    """
    if len(history) < 2:
        return 0.0
    mean = math.fsum(history) / len(history)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in history) / len(history))
    difference = mean_reward - mean
    return 0.0 if abs(difference) < 1e-12 else difference / (std + eps)


@register.advantage("pipo", paper="Policy Improvement RL, 2025", entries=[154])
def pipo(previous_advantage: Tensor, *, improvement: float, limit: float = 1.0, shape: str = "clip") -> Tensor:
    """phi(xi) * the previous batch's advantages: repeated if rewards rose, undone if they fell.

    Args:
        previous_advantage: (R,) or (N, L) of the batch before, which is trained on again.
        improvement: xi, `improvement_signal`: a number that the run supplies.
        limit: phi(x) = clip(x, -limit, limit).
        shape: `clip`, or `relu`, which only suppresses.
    """
    if shape not in ("clip", "relu"):
        raise ConfigError(f"advantage pipo: no shape {shape!r}.", "Write clip or relu.")
    return max(0.0 if shape == "relu" else -limit, min(limit, improvement)) * previous_advantage.detach()


def virtual_temperature(entropy: float, target: float, hot: float = 1.2, cold: float = 0.8) -> float:
    """Entropy control with two temperatures (DCPO, AEPO): hot at or below the target, cold above it."""
    return hot if entropy <= target else cold


@torch.no_grad()
def temperature_ratio(logits: Tensor, token: Tensor, temperature: float) -> Tensor:
    """DCPO's rho: probability of each token at a temperature over that at 1. (...,) from logits (..., V)."""
    change = torch.log_softmax(logits / temperature, -1) - torch.log_softmax(logits, -1)
    return change.gather(-1, token[..., None]).squeeze(-1).exp()


def correct_share_weight(entropy: float, target: float, correct_share: float, largest: float = 0.1) -> float:
    """DCPO's alpha: a / (1 + a) with a = min(|target - entropy|, largest) / share of correct answers; 0 if none is."""
    if correct_share <= 0.0:
        return 0.0
    a = min(abs(target - entropy), largest) / correct_share
    return a / (1.0 + a)


@register.advantage("dcpo_entropy", paper="Distribution-Centric Policy Optimization, 2025", entries=[209])
def dcpo_entropy(
    reward: Tensor,
    group: Tensor,
    tempered_ratio: Tensor,
    mask: Tensor,
    *,
    entropy: float,
    target: float = 0.25,
    threshold: float = 0.05,
    ddof: int = 1,
    eps: float = 1e-6,
    all_equal: str = "zero",
    allow_singleton: bool = False,
) -> Tensor:
    """GRPO's advantage mixed with rho, a temperature ratio, on correct answers. (N, L).

    (1 - alpha) A + alpha 1[reward > threshold] rho. At the entropy's target alpha is 0.

    Args:
        reward: (R,) with R = N.
        tempered_ratio: (N, L), `temperature_ratio` at `virtual_temperature(entropy, target)`.
        entropy: The policy's mean token entropy at its last update, in nats: a number that the run supplies.
        target: The entropy to hold.
        threshold: Rewards above it count as correct.
    """
    base = grpo(reward, group, ddof=ddof, eps=eps, all_equal=all_equal, allow_singleton=allow_singleton)
    correct = as_double(reward) > threshold
    alpha = correct_share_weight(entropy, target, float(correct.double().mean()) if len(reward) else 0.0)
    pull = to_tokens(correct.to(tempered_ratio.dtype), mask) * masked(tempered_ratio.detach(), mask)
    return like((1.0 - alpha) * to_tokens(base, mask) + alpha * pull, reward)
