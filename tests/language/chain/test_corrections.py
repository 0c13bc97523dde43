"""Weights of the sampler's mismatch, and its statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.chain import corrections as c
from tests.support.llm_cases import CASES, normal_like, rows, token_masks

MASK = torch.tensor([[True, True, False]])
OLD = rows(-1.0, -1.0, math.nan)[None]


def against(*change: float) -> torch.Tensor:
    """Behavior log-probabilities that the old ones exceed by `change`."""
    return OLD - rows(*change, math.nan)[None]


def test_equal_policies_have_weight_one():
    for weigh in (c.truncated_weight, c.masked_weight, c.sequence_rejection):
        assert weigh(OLD, OLD, MASK).tolist() == [[1, 1, 0]]
    assert c.no_correction(MASK).tolist() == [[1, 1, 0]]


def test_weights_by_hand():
    behavior = against(math.log(4), -math.log(4))
    assert c.truncated_weight(OLD, behavior, MASK)[0].tolist() == pytest.approx([2, 0.25, 0])
    assert c.masked_weight(OLD, behavior, MASK)[0].tolist() == pytest.approx([4, 0, 0])
    both = against(math.log(4), math.log(9))
    assert c.truncated_weight(OLD, both, MASK, cap=100, level="sequence")[0].tolist() == pytest.approx([36, 36, 0])
    assert c.truncated_weight(OLD, both, MASK, cap=100, level="geometric")[0].tolist() == pytest.approx([6, 6, 0])
    broken = against(math.log(1e-5), 0.0)
    assert c.sequence_rejection(OLD, broken, MASK).tolist() == [[0, 0, 0]]
    assert c.truncated_weight(OLD, broken, MASK)[0, 1] == 1
    with pytest.raises(ConfigError, match="batch"):
        c.truncated_weight(OLD, OLD, MASK, level="batch")


def test_weights_have_no_gradient():
    old = OLD.clone().requires_grad_()
    assert not c.truncated_weight(old, OLD, MASK).requires_grad


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_statistics_against_loops(mask, seed):
    old = normal_like(mask, seed)
    behavior = old + normal_like(mask, seed + 1, 0.5)
    found = {name: value.item() for name, value in c.mismatch_statistics(old, behavior, mask).items()}
    change = (old - behavior)[mask].tolist()
    gap = [abs(math.exp(a) - math.exp(b)) for a, b in zip(old[mask].tolist(), behavior[mask].tolist(), strict=True)]
    weight = [math.exp(x) for x in change]
    n = max(len(change), 1)
    expected = {
        "probability_mean": sum(gap) / n,
        "probability_max": max(gap, default=0),
        "logp_mean": sum(map(abs, change)) / n,
        "logp_max": max(map(abs, change), default=0),
        "kl": sum(math.exp(x) - 1 - x for x in change) / n,
        "weight_max": max(weight, default=0),
        "truncated": sum(w > 2 for w in weight) / n,
        "effective_share": sum(weight) ** 2 / sum(w * w for w in weight) / n if weight else 0,
    }
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_mismatch_kl_is_that_of_the_sampler():
    """Expectation over the sampler's tokens of the per-token statistic is KL(behavior || old), by enumeration."""
    behavior, old = torch.log_softmax(rows(0.3, -1.0, 0.4), -1), torch.log_softmax(rows(0.0, 0.2, -0.5), -1)
    one = torch.ones(1, 1, dtype=torch.bool)
    each = [c.mismatch_statistics(old[None, None, k], behavior[None, None, k], one)["kl"].item() for k in range(3)]
    expected = (behavior.exp() * (behavior - old)).sum().item()
    assert sum(p * x for p, x in zip(behavior.exp().tolist(), each, strict=True)) == pytest.approx(expected)
