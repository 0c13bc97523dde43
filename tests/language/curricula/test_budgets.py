"""Knapsack budgets: numbers by hand, optimality by trying everything, conservation at the edges."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.curricula import budgets as b
from tests.support.llm_cases import CASES


def test_values_by_hand():
    assert b.exploration_value(2, 0.5) == 0.0625
    assert b.knapsack_budget([0.5, 0.1], 16) == [6, 10]
    assert b.exploration_value(6, 0.5) == pytest.approx(0.1211, abs=5e-5)
    assert b.exploration_value(10, 0.1) == pytest.approx(0.0528, abs=5e-5)


def test_expected_cost():
    assert b.mixed_group_cost(0.5) == pytest.approx(math.log(0.1) / math.log(0.5))
    assert b.mixed_group_cost(0.1) == pytest.approx(b.mixed_group_cost(0.9))


@CASES
@given(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=3), st.integers(6, 14))
def test_greedy_is_optimal(rates, total):
    found = b.knapsack_budget(rates, total, low=2, high=10)
    splits = [s for s in itertools.product(range(2, 11), repeat=len(rates)) if sum(s) == total]

    def value(split):
        return sum(map(b.exploration_value, split, rates))

    assert value(found) == pytest.approx(max(map(value, splits)), abs=1e-12)


RATES = st.lists(st.none() | st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.9, 1.0]), min_size=1, max_size=6)


@CASES
@given(RATES, st.integers(1, 4), st.integers(0, 12), st.floats(0, 1))
def test_the_total_and_the_bounds_hold(rates, low, extra, fill):
    high = low + extra
    total = round(len(rates) * (low + fill * extra))
    found = b.knapsack_budget(rates, total, low=low, high=high)
    assert sum(found) == total
    assert all(low <= n <= high for n in found)


def test_special_cases():
    assert b.knapsack_budget([1.0, 0.5], 16)[0] == 2  # nothing to learn
    assert b.knapsack_budget([None, 0.5, 0.5], 24)[0] == 8  # the default is an equal share
    assert b.knapsack_budget([None, 0.5, 0.5], 24, default=4)[0] == 4
    assert b.knapsack_budget([0.0, 0.0, 1.0], 18) == [8, 8, 2]
    assert b.knapsack_budget([1.0, 1.0], 12) == [6, 6]
    # .5 expects a mixed group after 4 answers: what is beyond goes to the prompts never solved
    assert b.knapsack_budget([0.5, 0.0, 0.0], 24) == [4, 10, 10]


def test_impossible_totals_are_named():
    with pytest.raises(ConfigError, match="budget of 3 answers for 2 prompts, each between 2 and 128"):
        b.knapsack_budget([0.5, 0.5], 3)
