"""Stock augmentation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.functional.atoms import equal_probs
from distrl.functional.risk.measures import make_risk
from distrl.functional.risk.stock import best_stock, cvar_of_stock, stock_utility


@given(st.floats(0.1, 1), st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-5, 5))
def test_stock_and_return_are_one_sum(gamma, rewards, start):
    stock, total = torch.tensor(start, dtype=torch.float64), start + sum(r * gamma**t for t, r in enumerate(rewards))
    for reward in rewards:
        stock = (stock + reward) / gamma
    assert gamma ** len(rewards) * stock.item() == pytest.approx(total, abs=1e-6)


def test_lottery():
    """G is 0 with probability 0.1, else 10; CVaR at 0.2 is 5, found at -c = 10."""
    values, probs = torch.tensor([0.0, 10.0]), torch.tensor([0.1, 0.9])
    grid = torch.tensor([0.0, -5.0, -10.0])
    found = cvar_of_stock(values.expand(3, 2), probs, grid, 0.2)
    assert found.tolist() == pytest.approx([0.0, 2.5, 5.0])
    stock, objective = best_stock(values.expand(3, 2), probs, grid, 0.2)
    assert (stock.item(), objective.item()) == pytest.approx((-10.0, 5.0))
    assert make_risk("cvar", level=0.2)(values, probs).item() == pytest.approx(5.0)


def test_mean_utility_ranks_actions_alike_for_every_stock():
    distributions = torch.randn(4, 16)
    choices = {
        int(stock_utility(distributions, equal_probs(distributions), torch.full((4,), stock), "mean").argmax())
        for stock in (-9.0, 0, 9.0)
    }
    assert choices == {int(distributions.mean(-1).argmax())}


def test_shortfall_and_homeostasis():
    values, probs = torch.tensor([-3.0, 1.0]), torch.tensor([0.5, 0.5])
    assert stock_utility(values, probs, torch.tensor(1.0), "shortfall").item() == -1.0
    assert stock_utility(values, probs, torch.tensor(1.0), "homeostasis").item() == -2.0
    with pytest.raises(ConfigError, match="did you mean 'shortfall'"):
        stock_utility(values, probs, torch.tensor(1.0), "short_fall")
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        cvar_of_stock(values, probs, torch.tensor(1.0), 0.0)
