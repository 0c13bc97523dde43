"""Returns and advantages from state values, (T, B), without gradients.

If both flags of an end are set, termination wins. A one-step error uses (1 - terminated), a trace is cut at
terminated | truncated. Reset steps of vector backends follow an end, so no trace crosses them; `valid` masks them out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distrl.functional.policy.objectives import truncated_importance_weight
from distrl.functional.scan import reverse_scan


class Steps(NamedTuple):
    """Time steps of a rollout and their values.

    Attributes:
        reward: r_t, (T, B).
        value: V(obs_t), (T, B); (T, B, M) for atoms, probabilities or parameters of return distributions.
        next_value: Like `value`, of the state that step t bootstraps from (`next_values`): at a truncation the true
            final observation.
        terminated: (T, B) bool: a true end. The value beyond is 0, whatever (finite) `next_value` is.
        truncated: (T, B) bool: a time limit. Bootstraps from `next_value`; nothing later belongs to the episode.
    """

    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    truncated: Tensor

    def discounts(self, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return discounts (T, B) of bootstraps and of traces.

        gamma (1 - terminated) and gamma (1 - (terminated | truncated)).
        """
        discount = (~self.terminated).to(self.reward.dtype) * gamma
        return discount, discount * (~self.truncated)

    def cut(self) -> Tensor:
        """Return (T, B) bool: True at ends of episodes and in the last row."""
        cut = self.terminated | self.truncated
        cut[-1:] = True
        return cut


def next_values(value: Tensor, last_value: Tensor, final_value: Tensor, final_index: Tensor) -> Tensor:
    """Return the value that each step bootstraps from, (T, B).

    Args:
        value: (T, B) V(obs_t).
        last_value: (B,) value of the observation after step T-1.
        final_value: (N,) values of the true last observations of the truncated steps.
        final_index: (N, 2) int64, their (t, b).
    """
    shifted = torch.cat((value[1:], last_value[None]))
    if len(final_index):
        shifted[final_index[:, 0], final_index[:, 1]] = final_value.to(shifted.dtype)
    return shifted


@torch.no_grad()
def gae(steps: Steps, gamma: float | Tensor, lam: float | Tensor) -> tuple[Tensor, Tensor]:
    """Compute generalized advantages and value targets, (T, B). Schulman et al. 2016, eq. 16.

    lam = 1 is Monte Carlo minus the baseline, lam = 0 the one-step error; targets are advantage + value.
    """
    discount, keep = steps.discounts(gamma)
    delta = steps.reward + discount * steps.next_value - steps.value
    advantage = reverse_scan(delta, keep * lam)
    return advantage, advantage + steps.value


@torch.no_grad()
def lambda_returns(steps: Steps, gamma: float | Tensor, lam: float | Tensor) -> Tensor:
    """Compute the geometric mixture of all n-step returns, (T, B). Sutton and Barto 2018, 12.8.

    G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1}); the weight that remains at the end of an episode or fragment
    is that of the longest return. lam = 1 is the discounted return. `steps.value` is unused.
    """
    discount, keep = steps.discounts(gamma)
    share = torch.where(steps.cut(), torch.ones_like(steps.reward), torch.ones_like(steps.reward) - lam)
    return reverse_scan(steps.reward + discount * share * steps.next_value, keep * lam)


class VTrace(NamedTuple):
    """Results of V-trace, (T, B) each.

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
    steps: Steps,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float | None = None,
) -> VTrace:
    """Compute V-trace targets and advantages. Espeholt et al. 2018, eq. 1 and section 4.2.

    vs_t - V_t = rho_t (r_t + gamma V_{t+1} - V_t) + gamma c_t (vs_{t+1} - V_{t+1}), and the advantage is
    rho^pg_t (r_t + gamma vs_{t+1} - V_t), with `next_value` for vs_{t+1} at cuts. On-policy with lam = 1 the advantage
    equals GAE with lam = 1; with lam < 1 it does not equal GAE with that lam, because vs_{t+1} enters it undamped.

    Args:
        log_ratio: log pi(a|s) - log mu(a|s), target over behavior policy.
        lam: Extra decay of the traces c_t = lam min(c_bar, ratio).
        rho_bar: Clips the weight of the one-step errors, which determines the fixed point.
        c_bar: Clips the traces, which determines the speed of convergence.
        pg_rho_bar: Clips the weight in the advantage; None takes rho_bar.
    """
    reward, value, next_value, *_ = steps
    discount, keep = steps.discounts(gamma)
    rho = truncated_importance_weight(log_ratio, rho_bar)
    delta = rho * (reward + discount * next_value - value)
    vs = value + reverse_scan(delta, keep * lam * truncated_importance_weight(log_ratio, c_bar))
    next_vs = torch.where(steps.cut(), next_value, torch.cat((vs[1:], next_value[-1:])))
    pg_rho = rho if pg_rho_bar is None else truncated_importance_weight(log_ratio, pg_rho_bar)
    return VTrace(vs, pg_rho * (reward + discount * next_vs - value), rho)
