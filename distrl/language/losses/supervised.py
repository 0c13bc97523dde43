"""Supervised fine-tuning and its on-policy variant. Losses to be MINIMIZED, one number per token."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register
from distrl.language.chain.tokens import masked


@register.token_loss("sft", paper="maximum likelihood")
def sft(logp: Tensor, mask: Tensor) -> Tensor:
    """-log pi of the given tokens. (N, L)."""
    return -masked(logp, mask)


@register.token_loss("one_token_rollout", paper="One-Token Rollout, 2025", entries=[248])
def one_token_rollout(logits: Tensor, token: Tensor, drawn: Tensor, mask: Tensor, *, other: float = -0.1) -> Tensor:
    """-(1/K) sum over drawn tokens of R log pi, R = 1 for the given token and `other` for any else. (N, L).

    A given token that the policy would hardly ever say is not learned: nothing is drawn that could be rewarded.

    Args:
        logits: (N, L, V) at temperature 1, with gradient.
        token: (N, L) int64, the given ones.
        drawn: (N, L, K) int64, `draw_tokens`.
        other: beta, reward of a wrong token.
    """
    logp = torch.log_softmax(logits, -1).gather(-1, drawn)
    reward = torch.where(drawn == token[..., None], 1.0, other).to(logp.dtype)
    return masked(-(reward * logp).mean(-1), mask)


@register.token_loss("one_token_rollout_exact", paper="One-Token Rollout, 2025", entries=[248])
def one_token_rollout_exact(
    logits: Tensor, token: Tensor, mask: Tensor, *, other: float = -0.1, temperature: float = 1.3
) -> Tensor:
    """Expectation of `one_token_rollout` over the draws, for small vocabularies. (N, L)."""
    logp = torch.log_softmax(logits, -1)
    share = torch.softmax(logits.detach() / temperature, -1)
    own = token[..., None]
    right = (share * logp).gather(-1, own).squeeze(-1)
    return masked(-(right + other * ((share * logp).sum(-1) - right)), mask)


@torch.no_grad()
def draw_tokens(
    logits: Tensor, count: int = 256, temperature: float = 1.3, generator: torch.Generator | None = None
) -> Tensor:
    """`count` tokens of each position with replacement, (..., V) to (..., count) int64."""
    share = torch.softmax(logits.float() / temperature, -1)
    flat = torch.multinomial(share.reshape(-1, share.shape[-1]), count, replacement=True, generator=generator)
    return flat.reshape(*logits.shape[:-1], count)
