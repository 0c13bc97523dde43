"""Returns for action values Q(obs_t, action_t) from data of another policy. Tensors are (T, B); no gradients.

The arguments are those of `returns.py`, with action values in place of state values:
    q: Q(obs_t, action_t) of the action that was taken.
    next_v: What step t bootstraps from: the expectation of Q(obs_{t+1}, .) under the target policy, which is the
        maximum for a greedy one. At truncations it is taken at the true final observation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.functional.returns.state_values import cut_rows, discounts
from distrl.functional.scan import reverse_scan


@torch.no_grad()
def retrace(
    reward: Tensor,
    q: Tensor,
    next_v: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor = 1.0,
    c_bar: float = 1.0,
) -> Tensor:
    """Retrace(lambda) targets. Munos et al. 2016, eq. 3.

    G_t - Q_t = delta_t + gamma c_{t+1} (G_{t+1} - Q_{t+1}) with delta_t = r_t + gamma E_pi Q(s_{t+1}, .) - Q_t and
    c_s = lam min(c_bar, ratio_s). The trace of the *next* action weighs the next error, for Q_t is a value of the
    action taken; so `log_ratio[0]` has no effect.

    Args:
        log_ratio: log pi(a|s) - log mu(a|s), target over behavior policy.
        lam: Trace decay. 0 is one-step expected SARSA.
        c_bar: Clips the ratio; 1 in the paper.

    Returns:
        (T, B) targets for Q(obs_t, action_t).
    """
    discount, keep = discounts(reward, terminated, truncated, gamma)
    delta = reward + discount * next_v - q
    trace = log_ratio.exp().clamp(max=c_bar) * lam
    next_trace = torch.cat((trace[1:], torch.zeros_like(trace[-1:])))
    return q + reverse_scan(delta, keep * next_trace)


@torch.no_grad()
def q_lambda(
    reward: Tensor,
    next_q_max: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor,
    greedy: Tensor | None = None,
    watkins: bool = True,
) -> Tensor:
    """Q(lambda) targets: Watkins' by default, Peng's with `watkins=False`.

    G_t = r_t + gamma ((1 - lam) max Q(s_{t+1}, .) + lam G_{t+1}). Watkins 1989 ends the mixture before the first action
    that is not greedy, and takes max Q(s_{t+1}, .) there: unbiased, but traces are short while exploring. Peng and
    Williams 1994 let it run on: longer traces, whose fixed point leans towards the behavior policy.

    Args:
        next_q_max: (T, B) max over actions of Q(obs_{t+1}, .); at truncations of the true final observation.
        lam: Trace decay. 0 is one-step Q-learning.
        greedy: (T, B) bool, action_t was greedy in Q(obs_t, .). Needed by Watkins' form; `greedy[0]` has no effect.
        watkins: Cut traces at actions that are not greedy.

    Returns:
        (T, B) targets for Q(obs_t, action_t).

    Raises:
        ValueError: Watkins' form without `greedy`.
    """
    if watkins and greedy is None:
        raise ValueError("Watkins' Q(lambda) needs `greedy`; pass it, or watkins=False for Peng's form.")
    discount, keep = discounts(reward, terminated, truncated, gamma)
    stop = cut_rows(terminated, truncated)
    if watkins and greedy is not None:
        stop[:-1] |= ~greedy[1:]
    running = (~stop).to(reward.dtype) * lam
    return reverse_scan(reward + discount * (1.0 - running) * next_q_max, keep * running)
