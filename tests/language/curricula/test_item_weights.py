"""Which prompts to sample and which groups to keep; answers drawn again; attempts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.columns import Columns
from distrl.language.advantages.token import virtual_temperature
from distrl.language.curricula import item_weights as w
from distrl.language.curricula import replacement as r
from distrl.language.losses.token import token_ppo
from distrl.language.rewards.pass_at_k import majority_correct, pass_at_k
from tests.support.llm_cases import CASES, by_group, gradient, ids, one_group, ragged, rows


def test_success_band():
    rate = rows(0.0, 0.2, 0.5, 0.9, math.nan)
    found = w.success_band(rate, uniform_share=0.1)
    assert found.tolist() == pytest.approx([0.02, 0.32, 0.32, 0.02, 0.32])
    assert w.success_band(rows(0.0, 1.0)).tolist() == [0.5, 0.5]
    assert w.uniform(rate).tolist() == [0.2] * 5
    assert w.mix_uniform(rows(1.0, 0.0), 0.5).tolist() == [0.75, 0.25]


@CASES
@given(ragged(smallest=1, binary=True))
def test_informative_groups(case):
    accuracy, group = case
    found = w.informative_groups(accuracy, group)
    mixed = []
    for index, x in by_group(accuracy, group):
        mixed.append(0 < x.sum() < len(x))
        assert found[index].tolist() == [mixed[-1]] * len(x)
    assert w.zero_variance_share(accuracy, group) == pytest.approx(1 - sum(mixed) / len(mixed))


def test_success_rates_are_updated():
    old = rows(math.nan, 0.5, 0.25)
    assert w.update_success_rate(old, rows(1, 0, 1, 1), ids(0, 0, 1, 1))[:2].tolist() == [0.5, 1.0]
    slow = w.update_success_rate(old, rows(1, 0, 1, 1), ids(0, 0, 1, 1), decay=0.5)
    assert slow.tolist() == [0.5, 0.75, 0.25]


# AEPO


def batch(count: int, start: float) -> Columns:
    return Columns(
        advantage=torch.full((count,), start), token=torch.full((count, 3), int(start)), group=torch.arange(count)
    )


def test_replacement():
    assert (r.replacement_count(0.5, 0.5), r.replacement_count(0.6, 0.5)) == (60, 30)
    assert virtual_temperature(0.5, 0.5) == 1.2
    assert virtual_temperature(0.51, 0.5) == 0.8
    chosen = r.select_regenerated(rows(0.9, -0.5, 0.05, 0.3, 0.7), 2)
    assert chosen.tolist() == [0, 3]
    mixed = r.replace_rows(batch(4, -2.0), batch(5, 7.0).with_(extra=torch.zeros(5)), chosen, ids(3, 1, 0))
    assert mixed.advantage.tolist() == [-2, 1, -2, 1]
    assert mixed.token[:, 0].tolist() == [-2, 7, -2, 7]
    assert mixed.group.tolist() == [0, 3, 2, 0]
    before = batch(4, -2.0)
    assert r.replace_rows(before, batch(5, 7.0), chosen[:0], ids(3, 1)) is before


@pytest.mark.parametrize(("temperature", "change"), [(1.2, 1.5e-5), (0.8, -1.6e-5), (1.0, 0.0)])
def test_hot_right_answers_raise_the_entropy(temperature, change):
    """Expected step on the logits with two right answers drawn at a temperature and advantage 1: pi^T - pi."""
    logits = rows(0.9, 0.1).log()
    drawn = torch.softmax(logits / temperature, -1)
    mask = torch.ones(2, 1, dtype=torch.bool)

    def loss(z):
        logp = torch.log_softmax(z, -1)[:, None]
        return drawn * token_ppo(logp, logp.detach(), rows(1, 1), mask)[:, 0]

    step = -gradient(loss, logits)[0]
    torch.testing.assert_close(step, drawn - torch.softmax(logits, -1))

    def entropy(z):
        return -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum().item()

    assert entropy(logits + 1e-3 * step) - entropy(logits) == pytest.approx(change, abs=1e-6)


# attempts


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


def test_majority_correct():
    correct = torch.tensor([False, True, True, True])
    assert majority_correct(ids(8, 9, 9, 7), correct, ids(0, 0, 0, 1)).tolist() == [True, True]
    assert majority_correct(ids(8, 9, -1), correct[:3], one_group(3)).tolist() == [False]
