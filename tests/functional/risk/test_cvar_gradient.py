"""CeSoR: soft risk, the CVaR gradient, cross-entropy sampling."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.functional.risk.cvar_gradient import clipped_weight, cvar_gradient, soft_risk_level, worst_conditions_mean

TEN = torch.arange(1.0, 11.0)


def test_soft_risk_schedule():
    assert soft_risk_level(0, 100, 0.05) == 1.0
    assert soft_risk_level(80, 100, 0.05) == pytest.approx(0.05)
    assert soft_risk_level(100, 100, 0.05) == pytest.approx(0.05)
    with pytest.raises(ConfigError):
        soft_risk_level(0, 100, 0.0)


def test_level_one_is_reinforce_with_the_mean_as_baseline():
    found = cvar_gradient(TEN, torch.ones(10), 1.0)
    torch.testing.assert_close(found.coefficient, (TEN - TEN.mean()) / 10)


def test_lower_levels_use_the_returns_below_the_quantile():
    found = cvar_gradient(TEN, torch.ones(10), 0.3)
    assert found.threshold.item() == pytest.approx(3.7)
    assert found.coefficient.tolist() == pytest.approx([(r - 3.7) / 3 if r < 3.7 else 0.0 for r in range(1, 11)])


def test_the_quantile_comes_from_source_episodes():
    source = TEN > 5
    assert cvar_gradient(TEN, torch.ones(10), 0.5, source).threshold.item() == 8.0
    assert cvar_gradient(TEN, torch.ones(10), 0.5, TEN > 99).threshold.item() == 5.5


def test_equal_returns_give_no_gradient_and_no_nan():
    assert cvar_gradient(torch.ones(5), torch.ones(5), 0.2).coefficient.tolist() == [0.0] * 5


def test_weights():
    log_ratio = torch.tensor([3.0, -3.0, 0.5, 3.0])
    found = clipped_weight(log_ratio, torch.tensor([False, False, False, True]))
    assert found.tolist() == pytest.approx([5.0, 0.2, 1.6487, 1.0], abs=1e-4)


def test_cross_entropy_moves_to_the_worst_conditions_and_respects_weights():
    conditions = torch.linspace(0, 1, 100)
    returns = -conditions  # high conditions are bad
    source = torch.ones(100, dtype=torch.bool)
    plain = worst_conditions_mean(conditions, returns, torch.ones(100), source, level=0.1)
    assert plain.item() == pytest.approx(1 - 0.16 / 2, abs=0.02)
    weight = torch.where(conditions > 0.95, 0.2, 1.0)
    assert worst_conditions_mean(conditions, returns, weight, source, level=0.1) < plain
    ones = torch.ones(100)
    assert worst_conditions_mean(torch.ones(100), returns, ones, source, level=0.1).item() == pytest.approx(0.999)
    assert worst_conditions_mean(conditions, ones, ones, source, level=0.1).item() == pytest.approx(0.5)
