"""Divergences from a reference policy, per token, to be minimized.

With d = log pi - log pi_ref of tokens drawn from pi, three estimators of KL(pi || pi_ref) have the same or nearly the
same value and three different gradients (Schulman 2020; the gradients are tested against enumeration):

| estimator | value | expected gradient as a loss |
|--|--|--|
| k1 = d | unbiased | 0 alone: only a live ratio makes it KL(pi, ref)'s |
| k2 = d^2 / 2 | biased, small variance | KL(pi, ref)'s exactly |
| k3 = exp(-d) - 1 + d | unbiased, not negative | that of the forward KL(ref, pi) |

Tokens are drawn from an older policy once a batch is used twice; `importance` says how its ratio enters: `none`
(the field's habit), `stopped` (as a constant weight) or `live` (gradients flow through it too).
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.chain.tokens import log_ratio, masked


def importance_ratio(logp: Tensor, old_logp: Tensor | None, mask: Tensor, importance: str) -> Tensor | float:
    """pi / pi_old by placement; without `old_logp` the tokens count as drawn from pi itself."""
    if importance == "none":
        return 1.0
    if importance not in ("stopped", "live"):
        raise ConfigError(f"no importance {importance!r}.", "Write none, stopped or live.")
    ratio = log_ratio(logp, logp if old_logp is None else old_logp, mask).exp()
    return ratio.detach() if importance == "stopped" else ratio


@register.divergence("k1", paper="Schulman 2020")
def k1(
    logp: Tensor, ref_logp: Tensor, mask: Tensor, old_logp: Tensor | None = None, *, importance: str = "live"
) -> Tensor:
    """log pi - log pi_ref with a live ratio: the exact gradient of KL(pi || ref), off-policy too. (N, L)."""
    if importance != "live":
        raise ConfigError(
            f"divergence k1 with importance {importance!r} has zero expected gradient.",
            "Write importance: live, or use k1_score or k2.",
        )
    return importance_ratio(logp, old_logp, mask, importance) * log_ratio(logp, ref_logp, mask)


@register.divergence("k1_score", paper="Williams 1992; Schulman 2020")
def k1_score(
    logp: Tensor, ref_logp: Tensor, mask: Tensor, old_logp: Tensor | None = None, *, importance: str = "stopped"
) -> Tensor:
    """The value of k1 with the score-function gradient sg(d) grad log pi, that of KL(pi || ref). (N, L)."""
    d = log_ratio(logp, ref_logp, mask).detach()
    score = (masked(logp, mask) - masked(logp, mask).detach()).exp()
    return importance_ratio(logp, old_logp, mask, importance) * d * score


@register.divergence("k2", paper="Schulman 2020")
def k2(
    logp: Tensor, ref_logp: Tensor, mask: Tensor, old_logp: Tensor | None = None, *, importance: str = "stopped"
) -> Tensor:
    """(log pi - log pi_ref)^2 / 2: the reverse KL's gradient; a live ratio would add k2 grad log pi. (N, L)."""
    return importance_ratio(logp, old_logp, mask, importance) * log_ratio(logp, ref_logp, mask).square() / 2.0


@register.divergence("k3", paper="Schulman 2020; GRPO, Shao et al. 2024")
def k3(
    logp: Tensor, ref_logp: Tensor, mask: Tensor, old_logp: Tensor | None = None, *, importance: str = "none"
) -> Tensor:
    """exp(-d) - 1 + d, never negative: GRPO's term. (N, L). With `live` its gradient is the reverse KL's."""
    d = log_ratio(logp, ref_logp, mask)
    return importance_ratio(logp, old_logp, mask, importance) * (torch.expm1(-d) + d)


@register.divergence("rapo_forward_kl", paper="RAPO, 2025", entries=[142])
def rapo_forward_kl(logp: Tensor, tempered_ref_logp: Tensor, mask: Tensor, old_logp: Tensor | None = None) -> Tensor:
    """ratio (w ln w - w + 1) with w = ref' / pi: KL(ref' || pi) to a reweighted reference, value and gradient. (N, L).

    The ratio is live also where it is 1: without it the gradient would be -w ln w grad log pi, which is not the
    forward KL's (1 - w) grad log pi. ln w is cut to [-10, 10].

    Args:
        logp: (N, L) of the tokens drawn.
        tempered_ref_logp: (N, L) of the same tokens under the reference at temperature 1 / phi, phi of `rapo_trust`.
        old_logp: (N, L) of the policy that drew them; None: pi itself.
    """
    log_w = -log_ratio(logp, tempered_ref_logp, mask, limit=10.0)  # 0 off the mask, where w ln w - w + 1 is 0 too
    w = log_w.exp()
    return importance_ratio(logp, old_logp, mask, "live") * (w * log_w - w + 1.0)


def rapo_trust(reward: Tensor, lowest: float = 0.5) -> Tensor:
    """RAPO's phi for rewards in [0, 1]: from `lowest` for a failure to 1 for a success. Same shape."""
    return lowest + (1.0 - lowest) * reward
