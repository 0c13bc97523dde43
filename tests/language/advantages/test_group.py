"""Group-relative advantages: numbers by hand, ragged groups against loops, the rules at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages import group as g
from tests.support.llm_cases import CASES, by_group, ids, one_group, ragged, rows

FIRST = rows(1, 0, 0, 0)


def test_rloo():
    assert g.rloo(FIRST, one_group(4)).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize(("ddof", "right", "wrong"), [(0, 1.73205, -0.57735), (1, 1.5, -0.5)])
def test_grpo(ddof, right, wrong):
    found = g.grpo(FIRST, one_group(4), ddof=ddof, eps=0.0)
    assert found.tolist() == pytest.approx([right, wrong, wrong, wrong], abs=5e-6)


@CASES
@given(ragged(), st.sampled_from([0, 1]))
def test_ragged_groups_against_loops(case, ddof):
    reward, group = case
    grpo, dr, loo = g.grpo(reward, group, ddof=ddof), g.dr_grpo(reward, group), g.rloo(reward, group)
    for index, x in by_group(reward, group):
        others = [(x.sum() - x[i]) / (len(x) - 1) for i in range(len(x))]
        np.testing.assert_allclose(loo[index], x - others, atol=1e-12)
        np.testing.assert_allclose(dr[index], x - x.mean(), atol=1e-12)
        np.testing.assert_allclose(dr[index], loo[index] * (len(x) - 1) / len(x), atol=1e-12)
        expected = np.zeros_like(x) if np.ptp(x) == 0 else (x - x.mean()) / (x.std(ddof=ddof) + 1e-6)
        np.testing.assert_allclose(grpo[index], expected, atol=1e-9)


@CASES
@given(ragged(binary=True), st.sampled_from([0, 1]))
def test_binary_rewards_have_closed_forms(case, ddof):
    reward, group = case
    found = g.grpo(reward, group, ddof=ddof, eps=0.0)
    for index, x in by_group(reward, group):
        p = x.mean()
        if 0 < p < 1:
            scale = math.sqrt((len(x) - ddof) / len(x))
            right, wrong = math.sqrt((1 - p) / p) * scale, -math.sqrt(p / (1 - p)) * scale
            np.testing.assert_allclose(found[index], np.where(x > 0, right, wrong))
            assert found[index].sum().item() == pytest.approx(0.0, abs=1e-9)
            assert found[index].square().sum().item() == pytest.approx(len(x) - ddof)


@CASES
@given(ragged(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(case, random):
    reward, group = case
    order = list(range(len(reward)))
    random.shuffle(order)
    for advantage in (g.grpo, g.rloo, g.dr_grpo, g.quantile_advantage, g.mc_grpo):
        torch.testing.assert_close(advantage(reward[order], group[order]), advantage(reward, group)[order])


def test_all_equal_groups():
    reward = torch.tensor([0.1, 0.1, 0.1], dtype=torch.float32) * torch.tensor([1.0, 1.0, 1.0 + 1e-7])
    assert torch.all(g.grpo(reward, one_group(3), eps=1e-12) == 0)
    noise = rows(0.1, 0.1, 0.1 + 1e-9)
    assert torch.all(g.grpo(noise, one_group(3), eps=0.0) == 0)
    assert g.grpo(noise, one_group(3), eps=0.0, all_equal="divide")[2] > 1  # noise over noise
    with pytest.raises(ConfigError, match="drop"):
        g.grpo(noise, one_group(3), all_equal="drop")


@pytest.mark.parametrize("advantage", [g.grpo, g.rloo, g.dr_grpo, g.quantile_advantage, g.mc_grpo])
def test_singletons_are_an_error_unless_allowed(advantage):
    reward, group = rows(0.7, 1.0, 0.0), ids(5, 3, 3)
    with pytest.raises(ConfigError, match=r"1 of 2 groups have one row \(group 5\)"):
        advantage(reward, group)
    assert advantage(reward, group, allow_singleton=True)[0].item() == pytest.approx(0.7, rel=2e-3)


def test_types_are_kept_and_gradients_cut():
    assert g.grpo(torch.tensor([1, 0]), one_group(2)).dtype == torch.float32
    assert g.grpo(torch.tensor([1.0, 0.0], requires_grad=True), one_group(2)).requires_grad is False


def test_reinforce():
    assert g.reinforce(rows(1.0, 2.0)).tolist() == [1.0, 2.0]
    assert g.reinforce(rows(1.0, 2.0), rows(0.5, 0.5)).tolist() == [0.5, 1.5]


# quantile advantage


@pytest.mark.parametrize("interpolation", ["linear", "exact"])
def test_quantile_advantage_by_hand(interpolation):
    options = {"level": 0.4, "ddof": 0, "eps": 0.0, "interpolation": interpolation}
    hard = g.quantile_advantage(rows(1, 0, 0, 0, 0), one_group(5), **options)
    easy = g.quantile_advantage(rows(1, 1, 1, 1, 0), one_group(5), **options)
    assert hard.tolist() == pytest.approx([2.5, 0, 0, 0, 0])
    assert easy.tolist() == pytest.approx([0, 0, 0, 0, -2.5])


@CASES
@given(ragged(binary=True), st.sampled_from([0.2, 0.4, 0.6]))
def test_the_exact_quantile_is_a_gate(case, level):
    reward, group = case
    found = g.quantile_advantage(reward, group, level=level, interpolation="exact", ddof=0, eps=0.0)
    for index, x in by_group(reward, group):
        p = x.mean()
        if not 0 < p < 1:
            assert torch.all(found[index] == 0)
            continue
        std = math.sqrt(p * (1 - p))
        hard = 1 - p >= level - 1e-9
        np.testing.assert_allclose(found[index], x / std if hard else (x - 1) / std)
        assert (found[index] == 0).double().mean().item() == pytest.approx(1 - p if hard else p)


def test_lower_is_not_the_exact_quantile():
    reward = rows(1, 1, 1, 1, 1, 0, 0, 0)
    lower = g.quantile_advantage(reward, one_group(8), level=0.4, interpolation="lower")
    exact = g.quantile_advantage(reward, one_group(8), level=0.4, interpolation="exact")
    assert lower[0] > 0
    assert exact[0] == 0


@pytest.mark.parametrize("level", [None, 0.0, 1.0])
@CASES
@given(case=ragged())
def test_no_level_is_grpo_bit_for_bit(level, case):
    assert torch.equal(g.quantile_advantage(*case, level=level), g.grpo(*case))


# median-centered


def test_mc_grpo_by_hand():
    binary = rows(1, 0, 0)
    assert g.mc_grpo(binary, one_group(3)).tolist() == pytest.approx([1.7321, 0, 0], abs=1e-4)
    assert g.mc_grpo(binary, one_group(3), paper_exact=True).tolist() == pytest.approx([1000, 0, 0])
    spread = rows(0.2, 0.5, 1.0)
    assert g.mc_grpo(spread, one_group(3)).tolist() == pytest.approx([-0.9967, 0, 1.6611], abs=5e-5)


def test_mc_grpo_scales():
    spread, std = rows(0.2, 0.5, 1.0), np.std([0.2, 0.5, 1.0], ddof=1)
    assert g.mc_grpo(spread, one_group(3), scale="none").tolist() == pytest.approx([-0.3, 0, 0.5])
    assert g.mc_grpo(spread, one_group(3), scale="std").tolist() == pytest.approx([-0.3 / std, 0, 0.5 / std], rel=1e-5)
    with pytest.raises(ConfigError, match="iqr"):
        g.mc_grpo(spread, one_group(3), scale="iqr")


@CASES
@given(ragged(smallest=1))
def test_the_median_of_every_group_has_advantage_zero(case):
    reward, group = case
    advantage = g.mc_grpo(reward, group, allow_singleton=True)
    for index, x in by_group(reward, group):
        place = np.flatnonzero(x == np.sort(x)[(len(x) - 1) // 2])[0]
        if len(x) > 1:
            assert advantage[index[place]] == 0


@CASES
@given(ragged(binary=True))
def test_the_majority_of_a_binary_group_is_not_trained(case):
    reward, group = case
    advantage = g.mc_grpo(reward, group)
    for index, x in by_group(reward, group):
        if len(x) % 2:
            majority = x == (x.mean() > 0.5)
            assert torch.all(advantage[index[majority]] == 0)
