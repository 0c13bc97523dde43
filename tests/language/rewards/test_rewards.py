"""Rewards: components to one number in a fixed order, DAPO's length term, agreement without labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages.batch import batch_normalized
from distrl.language.advantages.group import grpo
from distrl.language.rewards import components as p
from distrl.language.rewards.agreement import majority, ttrv
from distrl.language.rewards.plan import RewardPlan, combine, plan_from_words
from tests.support.llm_cases import CASES, ids, one_group, rows


def test_overlong():
    found = p.overlong(ids(3, 16, 18, 20, 25), max_length=20, buffer=4)
    assert found.tolist() == [0, 0, -0.5, -1, -1]


def test_transforms():
    assert p.affine(rows(-1, 0, 1), low=-1.0).tolist() == [0, 0.5, 1]
    assert p.threshold(rows(0.4, 0.5, math.nan))[:2].tolist() == [0, 1]
    assert p.threshold(rows(math.nan)).isnan().all()
    assert p.clip(rows(-1, 0.3, 2)).tolist() == [0, 0.3, 1]


def test_combinations_leave_out_what_does_not_apply():
    components = torch.tensor([[0.5, 1.0], [0.5, math.nan], [math.nan, math.nan]], dtype=torch.float64)
    weights = rows(2, 3)
    assert p.weighted_sum(components, weights).tolist() == [4, 1, 0]
    assert p.product(components, weights).tolist() == [0.25, 0.25, 0]
    assert p.minimum(components, weights).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("result", "consistency", "form", "reward"), [(1, 1, 1, 2.0), (1, 0, 1, 1.5), (0, 1, 1, 0.5), (1, 1, 0, 1.5)]
)
def test_stable_reinforce_reward(result, consistency, form, reward):
    components = torch.tensor([[result, consistency, form]], dtype=torch.float64)
    assert p.result_times_consistency(components, rows(1, 0.5, 0.5)).item() == reward


def test_gates():
    assert p.require(rows(1, 1), rows(1, 0)).tolist() == [1, 0]
    assert p.require(rows(1, 1), rows(1, 0), otherwise=-1.0).tolist() == [1, -1]
    assert p.conditioned(rows(0.3, 0.3), rows(0.9, 0.1)).tolist() == [0.3, 0]


def test_the_plan_keeps_the_order():
    plan = RewardPlan(
        names=["correct", "brief", "format"],
        weights=[1.0, 0.5, 0.0],
        transforms={"correct": lambda x: p.affine(x, low=-1.0)},
        component_gates=[("brief", "correct", p.conditioned)],
        gates=[("format", p.require)],
        length=lambda n: p.overlong(n, max_length=20, buffer=4),
        shaping=lambda r: 10 * r,
    )
    components = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, 1, 0]], dtype=torch.float64)
    found = combine(plan, components, ids(18, 4, 4))
    assert found.components.tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 0]]
    assert found.value.tolist() == [1.5, 0, 0]  # what curricula read
    assert found.reward.tolist() == [10.0, 0, 0]


def test_a_plan_names_what_is_wrong():
    with pytest.raises(ConfigError, match="did you mean 'correct'"):
        RewardPlan(names=["correct"], transforms={"corect": p.clip})
    with pytest.raises(ConfigError, match="2 weights for 1 reward components"):
        RewardPlan(names=["correct"], weights=[1.0, 2.0])


def test_without_options_the_sum_is_the_reward():
    found = combine(RewardPlan(names=["a", "b"]), torch.tensor([[1.0, 2.0]]), ids(3))
    assert found.value.tolist() == found.reward.tolist() == [3]


def test_a_plan_from_words_is_the_plan():
    plan = plan_from_words(
        {
            "correct": {"transform": {"name": "affine", "low": -1.0}},
            "brief": {"weight": 0.5, "gate": {"name": "conditioned", "on": "correct"}},
            "format": {"weight": 0.0},
        },
        gates=[{"name": "require", "on": "format"}],
        length={"name": "overlong", "max_length": 20, "buffer": 4},
        shaping={"name": "scale", "factor": 10.0},
    )
    components = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, 1, 0]], dtype=torch.float64)
    found = combine(plan, components, ids(18, 4, 4))
    assert found.value.tolist() == [1.5, 0, 0]
    assert found.reward.tolist() == [10.0, 0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"components": {"a": {"wait": 1.0}}}, "did you mean 'weight'"),
        ({"components": {"a": {"gate": {"name": "require"}}}}, "does not say which component decides"),
        ({"components": {"a": {"gate": {"name": "require", "on": "b"}}}}, "unknown reward component 'b'"),
        ({"components": {"a": {}}, "length": {"name": "overlong", "bufer": 1}}, "did you mean 'buffer'"),
        ({"components": {"a": {}}, "combination": "weigthed_sum"}, "did you mean 'weighted_sum'"),
    ],
)
def test_wrong_words_of_a_plan_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        plan_from_words(**words)


# agreement


ANSWERS = ids(1, 1, 1, 2)


def test_ttrv_by_hand():
    entropy = 0.56234
    found = ttrv(ANSWERS, one_group(4), alpha=0.75)
    assert found.tolist() == pytest.approx([0.75 - 0.75 * entropy] * 3 + [0.25 - 0.75 * entropy], abs=1e-5)
    assert ttrv(ids(3, 3), one_group(2)).tolist() == [1, 1]
    assert grpo(ttrv(ids(3, 3), one_group(2)), one_group(2)).tolist() == [0, 0]
    assert ttrv(ids(1, -1, 1), one_group(3), alpha=0.0).tolist() == [1, 0, 1]
    with pytest.raises(ConfigError, match="mean"):
        ttrv(ANSWERS, one_group(4), entropy_mode="mean")


def test_a_constant_of_the_group_cancels_unless_the_batch_normalizes():
    answer, group = torch.cat([ANSWERS, ids(5, 5, 5, 5)]), ids(0, 0, 0, 0, 1, 1, 1, 1)
    little, much = (ttrv(answer, group, alpha=alpha, entropy_mode="group_const") for alpha in (0.1, 5.0))
    torch.testing.assert_close(grpo(little, group), grpo(much, group))
    assert (batch_normalized(little) - batch_normalized(much)).abs().max() > 0.1


@CASES
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=8))
def test_marginal_entropy_against_removal(answers):
    def entropy(kept):
        counts = np.unique([a for a in kept if a >= 0], return_counts=True)[1]
        share = counts / max(counts.sum(), 1)
        return float(-(share * np.log(share)).sum()) if len(counts) else 0.0

    found = ttrv(ids(*answers), one_group(len(answers)), alpha=1.0, entropy_mode="marginal")
    readable = sum(a >= 0 for a in answers)
    for j, a in enumerate(answers):
        share = sum(b == a for b in answers) / max(readable, 1)
        change = entropy(answers[:j] + answers[j + 1 :]) - entropy(answers)
        assert found[j].item() == pytest.approx(share + change if a >= 0 else 0.0, abs=1e-9)


def test_majority_takes_the_first_on_ties():
    assert majority(ids(2, 1, 1, 2, -1), one_group(5)).tolist() == [1, 0, 0, 1, 0]
    assert majority(ids(-1, -1, 3, -1), ids(0, 0, 1, 1)).tolist() == [0, 0, 1, 0]
