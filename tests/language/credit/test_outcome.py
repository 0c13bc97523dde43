"""Credit: where an answer's reward lands."""

from __future__ import annotations

import math

import pytest
import torch

from distrl.language.credit import outcome as c
from tests.support.llm_cases import rows

MASK = torch.tensor([[False, True, True, False], [False, False, False, False]])


def test_outcome_is_paid_at_the_last_trainable_token():
    assert c.outcome(rows(0.5, math.nan), MASK).tolist() == [[0, 0, 0.5, 0], [0, 0, 0, 0]]


def test_kl_is_a_price_on_every_token():
    old = rows(math.nan, -1.0, -1.0, math.nan).expand(2, 4)
    ref = rows(math.nan, -1.5, -0.5, 0.0).expand(2, 4)
    linear = c.kl_penalized_outcome(rows(1, 1), old, ref, MASK, beta=0.1)
    assert linear[0].tolist() == pytest.approx([0, -0.05, 1.05, 0])
    assert torch.all(linear[1] == 0)
    k3 = c.kl_penalized_outcome(rows(1, 1), old, ref, MASK, beta=0.1, estimator="k3")
    expected = [0, -0.1 * (math.exp(-0.5) - 0.5), 1 - 0.1 * (math.exp(0.5) - 1.5), 0]
    assert k3[0].tolist() == pytest.approx(expected)


def test_turns_are_paid_at_their_ends():
    mask = torch.tensor([[True, True, False, True, False], [False, True, False, False, True]])
    turn = torch.tensor([[0, 0, 0, 1, 2], [0, 0, 1, 1, 2]])
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    assert c.turn_rewards(reward, turn, mask).tolist() == [[0, 1, 0, 2, 0], [0, 1, 0, 0, 4]]
