"""Weights of the sampler's mismatch, and its statistics."""

from __future__ import annotations

import math

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.chain import corrections as c
from tests.support.llm_cases import rows

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
