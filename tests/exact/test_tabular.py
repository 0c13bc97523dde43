"""Exact tabular solutions against each other, against enumeration, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.exact import mdp as tabular


def mdp(seed: int, **kwargs: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tabular.random_mdp(5, 3, torch.Generator().manual_seed(seed), **kwargs)  # type: ignore[arg-type]


def test_random_mdp() -> None:
    transition, reward, initial = mdp(0, end=0.1, branching=2)
    assert torch.allclose(transition.sum(-1), torch.full((5, 3), 0.9, dtype=torch.float64))
    assert ((transition > 0).sum(-1) == 2).all()
    assert (mdp(0)[0] > 0).all()
    assert initial.sum() == pytest.approx(1.0)
    assert reward.shape == (5, 3)


@pytest.mark.parametrize("seed", range(3))
def test_policy_evaluation_and_occupancy(seed: int) -> None:
    transition, reward, initial = mdp(seed)
    policy = torch.softmax(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), -1)
    values = tabular.policy_evaluation(transition, reward, policy, 0.9)
    by_iteration = tabular.q_iteration(transition, reward, 0.9, tabular.policy_value(policy))
    assert torch.allclose((policy * by_iteration).sum(-1), values, atol=1e-9)
    eta = tabular.occupancy(transition, policy, initial, 0.9)
    flow = 0.1 * initial + 0.9 * torch.einsum("sa,sat->t", eta, transition)
    assert torch.allclose(eta.sum(1), flow)
    assert eta.sum() == pytest.approx(1.0)
    assert (eta * reward).sum() / 0.1 == pytest.approx(float(initial @ values))  # J = <eta, r> / (1 - gamma)


def test_value_iteration_beats_every_deterministic_policy() -> None:
    transition, reward, _ = mdp(1)
    q = tabular.q_iteration(transition, reward, 0.9)
    best = tabular.policy_evaluation(transition, reward, tabular.greedy_policy(q), 0.9)
    assert torch.allclose(best, tabular.greedy_value(q))
    every = torch.cartesian_prod(*[torch.arange(3)] * 5)
    values = [
        tabular.policy_evaluation(transition, reward, torch.nn.functional.one_hot(row, 3).double(), 0.9)
        for row in every
    ]
    assert torch.allclose(torch.stack(values).max(0).values, best)


def test_soft_values_approach_greedy_ones() -> None:
    transition, reward, _ = mdp(2)
    hard = tabular.q_iteration(transition, reward, 0.9)
    soft = tabular.q_iteration(transition, reward, 0.9, tabular.soft_value(1e-3))
    assert (soft >= hard - 1e-9).all()
    # each state adds at most alpha log A, and so does every later one
    assert (soft - hard).max() <= 0.9 * 1e-3 * math.log(3) / 0.1 + 1e-9


def test_munchausen() -> None:
    transition, reward, _ = mdp(3)
    soft = tabular.q_iteration(transition, reward, 0.9, tabular.soft_value(0.5))
    assert torch.allclose(tabular.munchausen_iteration(transition, reward, 0.9, 0.5, scale=0.0), soft, atol=1e-9)
    # one state: soft Q has gap d = r_1 - r_0; Munchausen's gap solves g = d + scale g
    one, pay = torch.zeros(1, 2, 1, dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    q = tabular.munchausen_iteration(one, pay, 0.9, 0.5, scale=0.75)
    assert q[0, 1] - q[0, 0] == pytest.approx(4.0)
    clipped = tabular.munchausen_iteration(one, pay, 0.9, 0.5, scale=0.75, floor=-1.0)
    assert clipped[0, 0] == pytest.approx(-0.75)


def test_a_policy_that_never_ends() -> None:
    transition, reward, _ = mdp(0)
    with pytest.raises(ValueError, match="does every episode end"):
        tabular.q_iteration(transition, reward.abs(), 1.0, iterations=50)


def test_uct() -> None:
    scores = tabular.uct_scores(torch.tensor([0.5, 0.25]), torch.tensor([3, 1]), c=2.0)
    assert scores.tolist() == pytest.approx([0.5 + 2 * math.sqrt(math.log(4) / 3), 0.25 + 2 * math.sqrt(math.log(4))])
