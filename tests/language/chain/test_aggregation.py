"""Aggregations: the table of the field's four modes, and weights against slow averages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.chain import aggregation as a
from tests.support.llm_cases import CASES, ids, normal_like, token_masks

MASK = torch.tensor([[True, False, False], [True, True, True]])  # lengths 1 and 3


@pytest.mark.parametrize(
    ("weigh", "all_ones", "first_only"),
    [
        (a.token_mean, 1.0, 0.25),
        (a.seq_mean_token_mean, 1.0, 0.5),
        (a.seq_mean_token_sum, 2.0, 0.5),
        (lambda mask: a.seq_mean_token_sum_norm(mask, max_length=4), 0.5, 0.125),
    ],
)
def test_table(weigh, all_ones, first_only):
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert a.aggregate(ones, weigh(MASK)).item() == pytest.approx(all_ones)
    only = ones * torch.tensor([[1.0], [0.0]])
    assert a.aggregate(only, weigh(MASK)).item() == pytest.approx(first_only)


@CASES
@given(token_masks(), st.integers(0, 1000), st.integers(1, 3))
def test_against_loops(mask, seed, kinds):
    loss = normal_like(mask, seed)
    group = torch.arange(len(mask)) % kinds
    answers = [loss[n][mask[n]] for n in range(len(mask)) if mask[n].any()]
    homes = [int(group[n]) for n in range(len(mask)) if mask[n].any()]

    def mean(values):
        values = list(values)
        return float(sum(values)) / max(len(values), 1)

    everything = torch.cat(answers) if answers else loss.new_zeros(0)
    prompts = [[x for x, home in zip(answers, homes, strict=True) if home == name] for name in sorted(set(homes))]
    expected = {
        a.token_mean(mask): mean(everything),
        a.seq_mean_token_mean(mask): mean(x.mean() for x in answers),
        a.seq_mean_token_sum(mask): mean(x.sum() for x in answers),
        a.seq_mean_token_sum_norm(mask, max_length=11): mean(x.sum() / 11 for x in answers),
        a.group_mean(mask, group): mean(torch.cat(xs).mean() for xs in prompts),
        a.group_mean(mask, group, within="sequence"): mean(mean(x.mean() for x in xs) for xs in prompts),
    }
    for weight, value in expected.items():
        assert a.aggregate(loss, weight).item() == pytest.approx(value, abs=1e-12)
        # parts of a minibatch add up to the whole
        cut = len(mask) // 2
        parts = a.aggregate(loss[:cut], weight[:cut]) + a.aggregate(loss[cut:], weight[cut:])
        assert parts.item() == pytest.approx(value, abs=1e-12)


def test_rows_and_groups():
    mask = torch.tensor([[True], [False], [True]])
    assert a.row_mean(mask).tolist() == [0.5, 0.0, 0.5]
    assert a.aggregate(torch.tensor([1.0, torch.nan, 3.0]), a.row_mean(mask)).item() == 2.0
    assert a.group_loss_mean(ids(4, 9, 4)).tolist() == [0.5, 0.5]


def test_a_mean_over_nothing_is_zero():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss = torch.full((2, 3), torch.nan, requires_grad=True)
    for weight in (a.token_mean(mask), a.seq_mean_token_mean(mask), a.group_mean(mask, ids(0, 1))):
        total = a.aggregate(loss, weight)
        total.backward()
        assert total.item() == 0.0
        assert torch.all(loss.grad == 0)


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="max_length is 0"):
        a.seq_mean_token_sum_norm(MASK, max_length=0)
    with pytest.raises(ConfigError, match="prompt"):
        a.group_mean(MASK, ids(0, 0), within="prompt")
