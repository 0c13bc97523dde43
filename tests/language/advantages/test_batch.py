"""Advantages normalized over batches, prompts and several rewards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages import batch as b
from distrl.language.advantages.group import dr_grpo, grpo
from distrl.language.chain.groups import Groups
from tests.support.llm_cases import CASES, by_group, ids, normal_like, one_group, ragged, rows, token_masks


def test_reinforce_plus_plus_baseline_by_hand():
    mask = torch.ones(4, 3, dtype=torch.bool)
    found = b.reinforce_plus_plus_baseline(rows(1, 0, 1, 1), ids(0, 0, 1, 1), mask)
    assert found[:, 0].tolist() == pytest.approx([1.4142, -1.4142, 0, 0], abs=5e-5)
    assert torch.equal(found[:, :1].expand(4, 3), found)


def test_reinforce_plus_plus_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    token_reward = torch.tensor([[-0.5, 1.0, 9.0], [0.5, 9.0, 9.0]], dtype=torch.float64)
    # returns to go .5, 1, .5: mean 2/3, population std sqrt(1/18)
    found = b.reinforce_plus_plus(token_reward, mask)
    unit = math.sqrt(1 / 18)
    assert found.flatten().tolist() == pytest.approx([-1 / 6 / unit, 1 / 3 / unit, 0, -1 / 6 / unit, 0, 0])
    assert torch.all(b.reinforce_plus_plus(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool)) == 0)


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_reinforce_plus_plus_against_loops(mask, seed):
    token_reward = normal_like(mask, seed)
    togo = [sum(token_reward[n, k].item() for k in range(t, mask.shape[1]) if mask[n, k]) for n, t in mask.nonzero()]
    found = b.reinforce_plus_plus(token_reward, mask)[mask]
    if len(togo) > 1:
        np.testing.assert_allclose(found, (np.array(togo) - np.mean(togo)) / np.std(togo), atol=1e-5)


def test_batch_normalized():
    found = b.batch_normalized(rows(1, *[0] * 99))
    assert found[0].item() == pytest.approx(9.95, abs=5e-3)
    assert b.batch_normalized(rows(1, *[0] * 99), ddof=1)[0].item() == pytest.approx(9.90, abs=5e-3)
    assert torch.all(b.batch_normalized(rows(2, 2, 2)) == 0)


# BNPO


def rates(mean: float, variance: float) -> torch.Tensor:
    """Two rates with this mean and this unbiased variance."""
    half = math.sqrt(variance / 2)
    return rows(mean - half, mean + half)


@pytest.mark.parametrize(("variance", "parameter"), [(1 / 12, 4 / 3), (0.1, 1.25), (0.25, 1.0), (0.3, 1.0)])
def test_beta_parameters(variance, parameter):
    assert b.beta_parameters(rates(0.5, variance)) == pytest.approx((parameter, parameter))


def test_beta_parameters_at_the_edges():
    assert b.beta_parameters(rows(0.3)) == (1.0, 1.0)
    assert b.beta_parameters(rows(1, 1, 1)) == (1.0, 1.0)
    lopsided = b.beta_parameters(rates(0.2, 0.02))
    assert lopsided == pytest.approx((1 + 7 * 0.2 / 3, 1 + 7 * 0.8 / 3))


def test_beta_density():
    assert b.beta_density(rows(0.5), 1.5, 1.5).item() == pytest.approx(4 / math.pi)
    p = rows(0.1, 0.5, 0.9)
    torch.testing.assert_close(b.beta_density(p, 1.5, 1.5), 8 / math.pi * (p * (1 - p)).sqrt())
    assert b.beta_density(p, 1.0, 1.0).tolist() == pytest.approx([1, 1, 1])
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert torch.trapezoid(b.beta_density(grid, 2.3, 1.7), grid).item() == pytest.approx(1.0, abs=1e-4)


@CASES
@given(ragged(binary=True))
def test_bnpo_contains_grpo_and_the_mean_baseline(case):
    reward, group = case
    as_grpo = b.bnpo(reward, group, alpha=1.5, beta=1.5) * 8 / math.pi
    torch.testing.assert_close(as_grpo, grpo(reward, group, ddof=0, eps=0.0))
    torch.testing.assert_close(b.bnpo(reward, group, alpha=1.0, beta=1.0), dr_grpo(reward, group))


@CASES
@given(ragged(binary=True))
def test_bnpo_against_loops(case):
    reward, group = case
    alpha, beta = b.beta_parameters(Groups(group).mean(reward))
    found = b.bnpo(reward, group)
    assert torch.isfinite(found).all()
    for index, x in by_group(reward, group):
        p = x.mean()
        norm = math.gamma(alpha) * math.gamma(beta) / math.gamma(alpha + beta)
        density = p ** (alpha - 1) * (1 - p) ** (beta - 1) / norm
        expected = np.zeros_like(x) if p in (0, 1) else (x - p) * min(1 / density, 1e6)
        np.testing.assert_allclose(found[index], expected, rtol=1e-9)
    both = torch.stack([reward, 1 - reward], dim=1)
    torch.testing.assert_close(b.bnpo_components(both, group), (found + b.bnpo(1 - reward, group)) / 2)
    torch.testing.assert_close(b.bnpo_components(both, group, weights=[2.0, 0.0]), 2 * found)


# GDPO


COMPONENTS = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]], dtype=torch.float64)
TWO = ids(0, 0, 1, 1)


def test_gdpo_keeps_apart_what_sums_confuse():
    sums = grpo(COMPONENTS.sum(1), TWO, eps=0.0)
    assert sums.tolist() == pytest.approx([0.7071, -0.7071] * 2, abs=5e-5)
    before = b.gdpo(COMPONENTS, TWO, eps=1e-12, normalize_batch=False)
    assert before.tolist() == pytest.approx([1.4142, -1.4142, 0.7071, -0.7071], abs=5e-5)
    after = b.gdpo(COMPONENTS, TWO)
    assert after[0].item() / after[2].item() == pytest.approx(2.0)
    assert after.mean().item() == pytest.approx(0.0, abs=1e-9)
    assert after.std().item() == pytest.approx(1.0, abs=1e-3)


@CASES
@given(ragged())
def test_gdpo_of_one_reward_is_grpo(case):
    reward, group = case
    torch.testing.assert_close(b.gdpo(reward[:, None], group), grpo(reward, group, eps=1e-4))


def test_gdpo_with_missing_rewards():
    components = torch.tensor([[1, 1], [0, torch.nan], [1, torch.nan], [0, 0]], dtype=torch.float64)
    before = b.gdpo(components, TWO, eps=0.0, normalize_batch=False)
    assert before.tolist() == pytest.approx([0.7071, -0.7071] * 2, abs=5e-5)  # each reward 2 is alone in its group
    as_zero = b.gdpo(components, TWO, eps=0.0, normalize_batch=False, missing="zero")
    assert as_zero.tolist() == pytest.approx([1.4142, -1.4142, 0.7071, -0.7071], abs=5e-5)
    weighted = b.gdpo(COMPONENTS, TWO, weights=[0.0, 1.0], eps=0.0, normalize_batch=False)
    assert weighted.tolist() == pytest.approx([0.7071, -0.7071, 0, 0], abs=5e-5)
    with pytest.raises(ConfigError, match="one row"):
        b.gdpo(components, ids(0, 1, 2, 3))


# process rewards, COPO


def test_process_rewards_sum_later_steps():
    mask = torch.ones(2, 4, dtype=torch.bool)
    ends = torch.tensor([[False, True, False, True], [False, False, True, False]])
    token_reward = torch.tensor([[9.0, 1.0, 9.0, 0.0], [9.0, 9.0, 0.0, 9.0]], dtype=torch.float64)
    found = b.process_grpo(token_reward, ends, one_group(2), mask, ddof=0, eps=0.0)
    high, low = math.sqrt(2), -math.sqrt(0.5)  # of 1, 0, 0
    assert found[0].tolist() == pytest.approx([high + low, high + low, low, low])
    assert found[1].tolist() == pytest.approx([low, low, low, 0])


def test_copo_global():
    reward, group = rows(1, 1, 0, 0), ids(0, 0, 1, 1)
    assert b.copo_global(reward, group, ddof=0).tolist() == pytest.approx([1, 1, -1, -1], abs=1e-5)
    assert b.copo_global(reward, group).tolist() == pytest.approx([0.7071] * 2 + [-0.7071] * 2, abs=5e-5)
    assert torch.all(b.copo_global(reward, one_group(4)) == 0)
    # prompt 0: mean .5, two answers (entropy ln 2); prompt 1: mean .5, one answer
    scattered = b.copo_global(rows(1, 0, 1, 0), group, ids(3, 4, 5, 5), ddof=0, entropy_penalty=0.5)
    assert scattered.tolist() == pytest.approx([-1, -1, 1, 1], abs=1e-4)
