"""Dynamic reward weights: hypervolume by hand and by counting, influence, mirror steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.language.rewards import weights as w
from tests.support.llm_cases import CASES, rows

FRONT = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
ZERO = torch.zeros(2)


def test_hypervolume_by_hand():
    assert w.hypervolume(FRONT, ZERO) == 3
    longer, gain = w.extend_front(FRONT, torch.tensor([2.0, 2.0]), ZERO)
    assert (len(longer), gain) == (3, 1)
    assert w.hypervolume_factor(gain) == pytest.approx(1.6424, abs=5e-5)
    same, nothing = w.extend_front(FRONT, torch.tensor([1.0, 1.0]), ZERO)
    assert (len(same), nothing, w.hypervolume_factor(nothing)) == (2, 0, 0.5)
    assert w.hypervolume(torch.zeros(0, 2), ZERO) == 0
    assert w.hypervolume(torch.tensor([[3.0, -1.0]]), ZERO) == 0


@CASES
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 1000))
def test_the_front_keeps_the_volume_and_nothing_dominated(size, count, seed):
    points = torch.randint(0, 4, (count, size), generator=torch.Generator().manual_seed(seed)).double()
    front = w.pareto_front(points)
    assert w.hypervolume(front, torch.zeros(size)) == pytest.approx(w.hypervolume(points, torch.zeros(size)))
    for i, one in enumerate(front):
        assert not any(bool((other >= one).all()) for j, other in enumerate(front) if j != i)


@CASES
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 1000))
def test_hypervolume_counts_dominated_cells(size, count, seed):
    points = torch.randint(0, 4, (count, size), generator=torch.Generator().manual_seed(seed))
    cells = torch.cartesian_prod(*[torch.arange(3)] * size).reshape(-1, size)
    dominated = ((points[None] > cells[:, None]).all(2)).any(1).sum().item()
    assert w.hypervolume(points, torch.zeros(size)) == pytest.approx(dominated)


def test_influence_and_mirror_step_by_hand():
    influence = w.gradient_influence(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert influence.tolist() == [2, 3]
    moved = w.mirror_step(rows(0.5, 0.5), influence.double(), rate=1.0)
    assert moved.tolist() == pytest.approx([0.2689, 0.7311], abs=5e-5)
    assert moved.sum().item() == pytest.approx(1)
    floored = w.mirror_step(rows(0.5, 0.5), rows(0.0, 100.0), rate=1.0, floor=1e-3)
    assert floored.tolist() == pytest.approx([1e-3, 1 - 1e-3])


def test_combination_is_normalized():
    components = torch.tensor([[1.0, 3.0], [math.nan, 4.0]])
    assert w.dynamic_reward_weighting(components, torch.tensor([1.0, 3.0])).tolist() == [2.5, 3.0]
