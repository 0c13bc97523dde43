"""Returns and advantages from state values. Tensors are (T, B): T time steps of B environments; no gradients.

Shared arguments:
    reward: r_t.
    value: V(obs_t).
    next_value: Value of the state that step t bootstraps from: V(obs_{t+1}), the value of the observation after the
        fragment at its last step, and V of the *true* final observation where the step was truncated
        (`next_values` puts it together).
    terminated: True end. The value beyond is 0, whatever `next_value` says (if it is finite).
    truncated: Time limit. The step bootstraps from `next_value`, but nothing later belongs to its episode.
    gamma: Discount, a float or a tensor that broadcasts to (T, B).

Where both flags hold, termination wins. A one-step error uses (1 - terminated), a trace is cut at
done = terminated | truncated.

Reset steps of vector backends (`valid` False) need no special case: each follows a done, so no trace of the previous
episode crosses it, and its own result is masked out of every mean.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distrl.functional.policy.objectives import truncated_importance_weight
from distrl.functional.scan import reverse_scan


def next_values(value: Tensor, last_value: Tensor, final_value: Tensor, final_index: Tensor) -> Tensor:
    """The value that each step bootstraps from.

    Args:
        value: (T, B) V(obs_t).
        last_value: (B,) value of the observation after step T-1.
        final_value: (N,) values of the true last observations of the truncated steps.
        final_index: (N, 2) int64, their (t, b).

    Returns:
        (T, B): `value` shifted by one step, with `last_value` at the end and `final_value` at `final_index`.
    """
    shifted = torch.cat((value[1:], last_value[None]))
    if len(final_index):
        shifted[final_index[:, 0], final_index[:, 1]] = final_value.to(shifted.dtype)
    return shifted


@torch.no_grad()
def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation. Schulman et al. 2016, eq. 16.

    Args:
        lam: Trace decay. 1 is Monte Carlo minus the baseline, 0 the one-step error.

    Returns:
        advantage (T, B), and the value target advantage + value (T, B).
    """
    discount, keep = discounts(reward, terminated, truncated, gamma)
    delta = reward + discount * next_value - value
    advantage = reverse_scan(delta, keep * lam)
    return advantage, advantage + value


@torch.no_grad()
def lambda_returns(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor,
) -> Tensor:
    """The lambda-return: geometric mixture of all n-step returns. Sutton and Barto 2018, 12.8.

    G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1}); what is left of the weights at the end of an episode or of
    the fragment goes to the longest return. `value` is not used: it keeps the arguments of all estimators alike.

    Returns:
        (T, B) targets for V(obs_t).
    """
    discount, keep = discounts(reward, terminated, truncated, gamma)
    whole = cut_rows(terminated, truncated)
    share = torch.where(whole, torch.ones_like(reward), torch.ones_like(reward) - lam)
    return reverse_scan(reward + discount * share * next_value, keep * lam)


class VTrace(NamedTuple):
    """What V-trace gives a learner, all (T, B).

    Attributes:
        vs: Value targets.
        advantage: Policy-gradient advantages, importance weight included: the loss is -advantage * logp.
        rho: Clipped importance weights min(rho_bar, ratio) of the value targets.
    """

    vs: Tensor
    advantage: Tensor
    rho: Tensor


@torch.no_grad()
def vtrace(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float | None = None,
) -> VTrace:
    """V-trace targets and policy-gradient advantages. Espeholt et al. 2018, eq. 1 and section 4.2.

    vs_t - V_t = rho_t (r_t + gamma V_{t+1} - V_t) + gamma c_t (vs_{t+1} - V_{t+1}), and the advantage is
    rho^pg_t (r_t + gamma vs_{t+1} - V_t). At a truncation, and at the end of the fragment, `next_value` stands for
    vs_{t+1}. On-policy with lam = 1 the advantage equals GAE with lam = 1; with lam < 1 it does not equal GAE with that
    lam, because vs_{t+1} enters it undamped.

    Args:
        log_ratio: log pi(a|s) - log mu(a|s), target over behavior policy.
        lam: Extra decay of the traces c_t = lam min(c_bar, ratio).
        rho_bar: Clips the weight of the one-step errors: decides which value function is the fixed point.
        c_bar: Clips the traces: decides how fast it is reached.
        pg_rho_bar: Clips the weight in the advantage; None takes rho_bar.
    """
    discount, keep = discounts(reward, terminated, truncated, gamma)
    rho = truncated_importance_weight(log_ratio, rho_bar)
    delta = rho * (reward + discount * next_value - value)
    vs = value + reverse_scan(delta, keep * lam * truncated_importance_weight(log_ratio, c_bar))
    next_vs = torch.where(cut_rows(terminated, truncated), next_value, torch.cat((vs[1:], next_value[-1:])))
    pg_rho = rho if pg_rho_bar is None else truncated_importance_weight(log_ratio, pg_rho_bar)
    return VTrace(vs, pg_rho * (reward + discount * next_vs - value), rho)


def discounts(reward: Tensor, terminated: Tensor, truncated: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """gamma (1 - terminated), the discount of a bootstrap, and gamma (1 - done), that of a trace. Both (T, B)."""
    discount = (~terminated).to(reward.dtype) * gamma
    return discount, discount * (~truncated)


def cut_rows(terminated: Tensor, truncated: Tensor) -> Tensor:
    """Steps whose successor in the tensor is not theirs: ends of episodes, and the last row. (T, B) bool."""
    cut = terminated | truncated
    cut[-1:] = True
    return cut
