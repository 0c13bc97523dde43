"""Success in several attempts."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.language.rewards.pass_at_k import pass_at_k
from tests.support.llm_cases import CASES, by_group, one_group, ragged


def test_pass_at_k_by_hand():
    assert pass_at_k(torch.tensor([True, False, False, False]), one_group(4), 2).item() == 0.5
    assert pass_at_k(torch.tensor([True, True, False]), one_group(3), 2).item() == 1.0
    assert pass_at_k(torch.tensor([True]), one_group(1), 2).isnan().all()


@CASES
@given(ragged(binary=True), st.integers(1, 3))
def test_pass_at_k_is_the_mean_over_all_draws(case, k):
    correct, group = case
    found = pass_at_k(correct, group, k)
    for q, (_, x) in enumerate(by_group(correct, group)):
        if len(x) >= k:
            draws = [max(draw) for draw in itertools.combinations(x, k)]
            assert found[q].item() == pytest.approx(sum(draws) / len(draws))
