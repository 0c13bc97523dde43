"""Stock augmentation: optimize a functional of the whole episode's return.

The agent also observes its stock c_t, with c_{t+1} = (c_t + r_t) / gamma, so that c_0 + G_0 = gamma^t (c_t + G_t).
Greedy actions by E f(c + Z(s, c, a)) then optimize E f(c_0 + G_0) over episodes, for functions f that commute with
positive factors. Greedy CVaR of the remaining return does not.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from distrl.base.errors import ConfigError, unknown
from distrl.functional.risk.measures import in_unit

#: f of the whole return. shortfall: CVaR's; homeostasis: bring c + G to 0; mean: risk-neutral.
UTILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda total: total,
    "shortfall": lambda total: total.clamp(max=0.0),
    "homeostasis": lambda total: -total.abs(),
}


def utility(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function f of a config word."""
    if name not in UTILITIES:
        raise ConfigError(unknown("utility", name, UTILITIES))
    return UTILITIES[name]


def stock_utility(values: Tensor, probs: Tensor, stock: Tensor, name: str) -> Tensor:
    """Compute E f(c + Z), (...), which a stock-augmented agent maximizes over actions.

    Args:
        values, probs: Atoms of Z(s, c, a), (..., M).
        stock: c, broadcasting to (...).
        name: A key of `UTILITIES`.
    """
    return (probs * utility(name)(values + stock.unsqueeze(-1))).sum(-1)


def cvar_of_stock(values: Tensor, probs: Tensor, stock: Tensor, level: float) -> Tensor:
    """Compute -c_0 + E min(c_0 + G, 0) / level, whose maximum over c_0 is the CVaR of G.

    Rockafellar and Uryasev 2000.

    Args:
        values, probs: Atoms of the return of the policy for c_0, (..., M).
        stock: c_0, (...).
    """
    level = in_unit("cvar_of_stock", "level", level)
    return -stock + stock_utility(values, probs, stock, "shortfall") / level


def best_stock(values: Tensor, probs: Tensor, grid: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return the first stock c_0 with the highest CVaR, and that CVaR, (...) each.

    Args:
        values, probs: Atoms of Z(s_0, c, greedy action) for every candidate stock, (..., S, M).
        grid: Candidates c, (S,).
    """
    objective, place = cvar_of_stock(values, probs, grid.expand(values.shape[:-1]), level).max(-1)
    return grid[place], objective
