"""Knapsack RL's budget: numbers of answers per prompt that add up to a total."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from distrl.base.errors import ConfigError


def exploration_value(samples: int, success_rate: float) -> float:
    """v(N, p) = (1 - p^N - (1 - p)^N) p (1 - p)^2: chance of a mixed group times what a step gains. Knapsack RL."""
    p = success_rate
    return (1.0 - p**samples - (1.0 - p) ** samples) * p * (1.0 - p) ** 2


def mixed_group_cost(success_rate: float, confidence: float = 0.9) -> float:
    """Answers needed to see a success and a failure with this confidence, for 0 < p < 1."""
    return math.log(1.0 - confidence) / math.log(max(success_rate, 1.0 - success_rate))


def knapsack_budget(
    success_rate: Sequence[float | None],
    total: int,
    *,
    low: int = 2,
    high: int = 128,
    default: int | None = None,
    confidence: float = 0.9,
) -> list[int]:
    """Answers for each prompt that maximize the sum of `exploration_value`, adding up to the total.

    The value is concave in the number of answers, so taking the largest gain again and again is exact. Prompts that
    were never solved get `low` and the surplus once the others can expect mixed groups; always solved ones get `low`.

    Args:
        success_rate: Of each prompt so far; None where it is not known.
        default: For prompts of unknown rate; by default an equal share of the total.
        confidence: Of a mixed group, when deciding what is surplus.
    """
    prompts = len(success_rate)
    if not prompts * low <= total <= prompts * high:
        raise ConfigError(
            f"budget of {total} answers for {prompts} prompts, each between {low} and {high}.",
            f"Choose a total between {prompts * low} and {prompts * high}, or other bounds.",
        )
    budget = [low] * prompts
    effective = [i for i, p in enumerate(success_rate) if p is not None and 0.0 < p < 1.0]
    never = [i for i, p in enumerate(success_rate) if p is not None and p <= 0.0]
    unseen = [i for i, p in enumerate(success_rate) if p is None]
    share = default if default is not None else total // max(prompts, 1)
    left = _level(budget, unseen, total - sum(budget), min(share, high))

    needed = math.ceil(sum(mixed_group_cost(float(success_rate[i] or 0.0), confidence) for i in effective))
    for_effective = min(left, max(0, needed - low * len(effective)))
    left -= for_effective - _greedy(budget, effective, success_rate, for_effective, high)
    left = _level(budget, never, left, high)
    left = _greedy(budget, effective, success_rate, left, high)
    _level(budget, range(prompts), left, high)
    return budget


def _greedy(budget: list[int], chosen: Sequence[int], rates: Sequence[float | None], amount: int, high: int) -> int:
    """Give `amount` answers to the chosen prompts by largest gain; returns what could not be given."""

    def gain(i: int) -> float:
        p = float(rates[i] or 0.0)
        return exploration_value(budget[i] + 1, p) - exploration_value(budget[i], p)

    heap = [(-gain(i), i) for i in chosen if budget[i] < high]
    heapq.heapify(heap)
    while amount and heap:
        _, i = heapq.heappop(heap)
        budget[i] += 1
        amount -= 1
        if budget[i] < high:
            heapq.heappush(heap, (-gain(i), i))
    return amount


def _level(budget: list[int], chosen: Iterable[int], amount: int, high: int) -> int:
    """Give `amount` answers to the chosen prompts, the poorest first, none above `high`; returns what is left."""
    heap = [(budget[i], i) for i in chosen if budget[i] < high]
    heapq.heapify(heap)
    while amount and heap:
        count, i = heapq.heappop(heap)
        budget[i] = count + 1
        amount -= 1
        if budget[i] < high:
            heapq.heappush(heap, (count + 1, i))
    return amount
