"""Token GAE, improvement signal, outlier filter, entropy control."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages import token as t
from distrl.language.advantages.group import grpo
from distrl.language.chain.tokens import to_tokens
from tests.support.llm_cases import CASES, ids, normal_like, one_group, rows, token_masks


@pytest.mark.parametrize(("lam", "advantage"), [(1.0, [0.5, 0.5]), (0.0, [0.0, 0.5])])
def test_gae_by_hand(lam, advantage):
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = rows(0.5, 0.5)[None]
    found = t.token_gae(rows(0, 1)[None], value, mask, lam=lam)
    assert found[0].tolist() == pytest.approx(advantage)
    if lam == 1.0:
        assert (found + value)[0].tolist() == pytest.approx([1, 1])


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from([(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)]))
def test_gae_against_loops(mask, seed, constants):
    gamma, lam = constants
    reward, value = normal_like(mask, seed), normal_like(mask, seed + 1)
    bootstrap = torch.arange(float(len(mask)), dtype=torch.float64)
    found = t.token_gae(reward, value, mask, bootstrap, gamma=gamma, lam=lam)
    for n in range(len(mask)):
        later_value, later = bootstrap[n].item(), 0.0
        for k in reversed(range(mask.shape[1])):
            if not mask[n, k]:
                assert found[n, k] == 0
                continue  # nothing is consumed
            later = reward[n, k].item() + gamma * later_value - value[n, k].item() + gamma * lam * later
            later_value = value[n, k].item()
            assert found[n, k].item() == pytest.approx(later, abs=1e-9)


def test_outliers_are_dropped():
    assert t.drop_outliers(rows(-3.1, -3.0, 0.5, 9.95)).tolist() == [0, -3, 0.5, 0]


@pytest.mark.parametrize(("now", "xi", "factor"), [(0.7, 2.449, 1.0), (0.5, 0.0, 0.0), (0.3, -2.449, -1.0)])
def test_pipo(now, xi, factor):
    signal = t.improvement_signal(now, [0.4, 0.5, 0.6])
    assert signal == pytest.approx(xi, abs=5e-4)
    previous = rows(1.0, -0.5)
    assert t.pipo(previous, improvement=signal).tolist() == [factor, -0.5 * factor]
    assert t.pipo(previous, improvement=signal, shape="relu").tolist() == [max(factor, 0), -0.5 * max(factor, 0)]


def test_pipo_waits_for_a_history():
    assert t.improvement_signal(0.9, [0.1]) == 0.0
    assert t.improvement_signal(0.2, [0.1, 0.1]) > 1e4  # any change stands out of a flat history; phi bounds it
    assert t.pipo(rows(1.0), improvement=0.25).item() == 0.25
    with pytest.raises(ConfigError, match="tanh"):
        t.pipo(rows(1.0), improvement=0.25, shape="tanh")


def test_virtual_temperature():
    assert t.virtual_temperature(0.20, 0.25) == 1.2
    assert t.virtual_temperature(0.25, 0.25) == 1.2
    assert t.virtual_temperature(0.26, 0.25) == 0.8


def test_temperature_ratio_by_hand():
    logits = rows(0.8, 0.2).log()
    found = t.temperature_ratio(logits.expand(2, 2), ids(0, 1), 1.2)
    assert found.tolist() == pytest.approx([0.9506, 1.1977], abs=5e-5)
    assert (found * rows(0.8, 0.2)).sum().item() == pytest.approx(1.0)


def test_dcpo_coefficient():
    assert t.correct_share_weight(0.20, 0.25, 0.5) == pytest.approx(0.0909, abs=5e-5)
    assert t.correct_share_weight(5.0, 0.25, 1.0) == pytest.approx(0.1 / 1.1)  # at most .1 from the entropy
    assert t.correct_share_weight(0.20, 0.25, 0.0) == 0.0


def test_dcpo_advantage():
    reward, mask = rows(1, 0), torch.tensor([[True, True], [True, False]])
    rho = torch.tensor([[0.9506, 1.1977], [1.1977, torch.nan]], dtype=torch.float64)
    base = to_tokens(grpo(reward, one_group(2)), mask)
    found = t.dcpo_entropy(reward, one_group(2), rho, mask, entropy=0.20)
    alpha = 0.1 / 1.1
    expected = (1 - alpha) * base
    expected[0] += alpha * rho[0]
    torch.testing.assert_close(found, expected)
    assert torch.equal(t.dcpo_entropy(reward, one_group(2), rho, mask, entropy=0.25), base)
    wrong = t.dcpo_entropy(rows(0, 0), one_group(2), rho, mask, entropy=0.0)
    assert torch.all(wrong == 0)
    assert math.isfinite(found.sum().item())
