"""Optimizing a functional of the whole episode's return, exactly: dynamic programming over (state, stock).

The stock c_{t+1} = (c_t + r_{t+1}) / gamma says what has been earned so far: c_0 + G_0 = gamma^t (c_t + G_t) always.
Acting greedily by E f(c + Z) with distribution Z of the remaining return maximizes E f(c_0 + G_0), where acting by a
risk measure of Z alone maximizes no property of the episode's return. Pires et al. 2025, Optimizing return
distributions with distributional dynamic programming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.exact.distributional import Distribution, Outcomes, exact_return_distributions, merge

#: f of the objective E f(c_0 + G): elementwise.
Utility = Callable[[Tensor], Tensor]


def shortfall(x: Tensor) -> Tensor:
    """f(x) = min(x, 0), the utility behind CVaR."""
    return x.clamp(max=0.0)


@dataclass
class StockPlan:
    """An optimal policy over (state, stock), and its result.

    Attributes:
        distribution: Distribution of the return G from the first state.
        score: E f(c_0 + G).
        actions: (time, state, stock rounded to 9 digits) -> action, where a decision may have to be taken.
    """

    distribution: Distribution
    score: float
    actions: dict[tuple[int, int, float], int] = field(repr=False)


def stock_plan(outcomes: Outcomes, gamma: float, utility: Utility, state: int, stock: float, horizon: int) -> StockPlan:
    """The policy with the largest E f(c_0 + G), by recursion over everything that can happen.

    For every utility: alternatives at time t are compared by E f(gamma^t (c_t + Z)). Where f is positively homogeneous
    (f(g x) = g f(x) for g > 0: min(x, 0), -|x|, x) that is the order of E f(c_t + Z), and time does not matter.

    Args:
        gamma: Discount, above 0.
        utility: f.
        state: First state.
        stock: c_0.
        horizon: Steps after which the return counts as complete; exact where every episode ends by then.
    """
    known: dict[tuple[int, int, float], Distribution] = {}
    actions: dict[tuple[int, int, float], int] = {}
    nothing = (torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))

    def alternative(t: int, s: int, a: int, c: float) -> Distribution:
        values, probs = [], []
        for m in (outcomes.probs[s, a] > 0).nonzero().flatten().tolist():
            reward = float(outcomes.reward[s, a, m])
            after, weights = best(t + 1, int(outcomes.next_state[s, a, m]), (c + reward) / gamma)
            values.append(reward + gamma * after)
            probs.append(outcomes.probs[s, a, m] * weights)
        return merge(torch.cat(values), torch.cat(probs))

    def best(t: int, s: int, c: float) -> Distribution:
        if outcomes.terminal[s] or t == horizon:
            return nothing
        key = (t, s, round(c, 9))
        if key not in known:
            distributions = [alternative(t, s, a, c) for a in range(outcomes.probs.shape[1])]
            scores = [float((probs * utility(gamma**t * (c + values))).sum()) for values, probs in distributions]
            actions[key] = max(range(len(scores)), key=scores.__getitem__)
            known[key] = distributions[actions[key]]
        return known[key]

    values, probs = distribution = best(0, state, stock)
    return StockPlan(distribution, float((probs * utility(stock + values)).sum()), actions)


def cvar_of(distribution: Distribution, tau: float) -> float:
    """CVaR_tau = max_b { b + E min(G - b, 0) / tau }, attained at a possible return b. Rockafellar and Uryasev 2000.

    >>> cvar_of((torch.tensor([0.0, 10.0]), torch.tensor([0.1, 0.9])), 0.2)
    5.0
    """
    values, probs = distribution
    return max(cvar_objective(distribution, float(-b), tau) for b in values[probs > 0])


def cvar_objective(distribution: Distribution, stock: float, tau: float) -> float:
    """-c_0 + E min(c_0 + G, 0) / tau, whose largest value over c_0 is CVaR_tau."""
    values, probs = distribution
    return -stock + float((probs * shortfall(stock + values)).sum()) / tau


def cvar_plan(
    outcomes: Outcomes, gamma: float, tau: float, state: int, horizon: int, stocks: Sequence[float] | None = None
) -> tuple[float, StockPlan]:
    """The policy with the largest CVaR of the whole episode's return: one `stock_plan` for each c_0, then the best.

    Args:
        gamma: Discount, above 0.
        tau: Level in (0, 1].
        state: First state.
        horizon: As for `stock_plan`.
        stocks: Values of c_0 to try. By default the negatives of all returns that any policy can get, which is exact.

    Returns:
        c_0 and its plan.
    """
    if stocks is None:
        policy = torch.full(outcomes.probs.shape[:2], 1.0 / outcomes.probs.shape[1], dtype=torch.float64)
        stocks = (-exact_return_distributions(outcomes, policy, gamma, horizon)[state][0]).tolist()
    plans = [(stock, stock_plan(outcomes, gamma, shortfall, state, stock, horizon)) for stock in stocks]
    return max(plans, key=lambda pair: cvar_objective(pair[1].distribution, pair[0], tau))
