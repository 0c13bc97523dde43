"""Distributional dynamic programming, quantile TD and stock augmentation against distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.control.envs.library import tabular_examples as examples
from tests.exact import closed_forms
from tests.exact import mdp as tabular
from tests.exact.distributional import (
    Distribution,
    Outcomes,
    distributional_control,
    distributional_evaluation,
    exact_projection,
    exact_return_distributions,
    merge,
    project_quantile,
    wasserstein,
)
from tests.exact.stock import cvar_objective, cvar_of, cvar_plan, shortfall, stock_plan
from tests.exact.td import qtd_update, td_update


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def random_outcomes(seed: int, states: int = 4) -> Outcomes:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(states, 2, 3, dtype=torch.float64, generator=generator)
    reward = torch.randn(states, 2, 3, dtype=torch.float64, generator=generator).clamp(-2, 2)
    next_state = torch.randint(0, states, (states, 2, 3), generator=generator)
    return Outcomes(weights / weights.sum(-1, keepdim=True), reward, next_state, torch.arange(states) == states - 1)


def test_c51_projection_of_the_page() -> None:
    support = tensor(0, 1, 2)
    projected = exact_projection(0.25 + 0.5 * support, tensor(0.2, 0.3, 0.5), support)
    assert torch.allclose(projected, tensor(0.225, 0.65, 0.125))
    # atoms exactly on the support keep their mass, those outside go to the ends
    assert exact_projection(tensor(1, 2, -5, 7), tensor(0.1, 0.2, 0.3, 0.4), support).tolist() == pytest.approx(
        [0.3, 0.1, 0.6]
    )


def test_projections_keep_what_they_promise() -> None:
    values, probs = torch.rand(6, 20, dtype=torch.float64), torch.softmax(torch.randn(6, 20, dtype=torch.float64), -1)
    support = torch.linspace(0, 1, 7, dtype=torch.float64)
    projected = exact_projection(values, probs, support)
    assert torch.allclose(projected.sum(-1), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(projected @ support, (values * probs).sum(-1))
    # the midpoint quantiles are the best distribution of `size` equal atoms: moving any of them makes W1 worse
    quantiles, share = project_quantile(values[0], probs[0], 5), torch.full((5,), 0.2, dtype=torch.float64)
    best = wasserstein((quantiles, share), (values[0], probs[0]))
    for i in range(5):
        for shift in (-0.05, 0.05):
            moved = quantiles.clone()
            moved[i] += shift
            assert wasserstein((moved, share), (values[0], probs[0])) >= best - 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_means_of_every_solution_agree(seed: int) -> None:
    outcomes = random_outcomes(seed)
    policy = torch.full((4, 2), 0.5, dtype=torch.float64)
    exact = tabular.policy_evaluation(*outcomes.means(), policy, 0.5)
    exact[3] = 0.0
    support = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
    values, probs = distributional_evaluation(outcomes, policy, 0.5, support)
    assert torch.allclose((values * probs).sum(-1), exact, atol=1e-8)  # the projection keeps means
    distributions = exact_return_distributions(outcomes, policy, 0.5, 7)
    means = torch.stack([(v * p).sum() for v, p in distributions])
    assert (means - exact).abs().max() <= 0.5**7 * 4.0


@pytest.mark.parametrize("head", ["categorical", "quantile"])
def test_dynamic_programming_approaches_the_exact_distribution(head: str) -> None:
    outcomes, policy = random_outcomes(5), torch.full((4, 2), 0.5, dtype=torch.float64)
    exact = exact_return_distributions(outcomes, policy, 0.4, 7)
    errors = []
    for size in (16, 64, 256):
        support = torch.linspace(-4.0, 4.0, size, dtype=torch.float64) if head == "categorical" else None
        values, probs = distributional_evaluation(outcomes, policy, 0.4, support, size)
        errors.append(max(wasserstein((values[s], probs[s]), exact[s]) for s in range(3)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_control_finds_the_optimal_mean_and_its_distribution() -> None:
    mdp = examples.chain3(0.9)
    outcomes = Outcomes.of(mdp)
    support = torch.linspace(0.0, 12.0, 241, dtype=torch.float64)
    values, probs = distributional_control(outcomes, 0.9, support=support)
    transition, reward = outcomes.means()
    assert torch.allclose((values * probs).sum(-1)[:3], tabular.q_iteration(transition, reward, 0.9)[:3], atol=1e-8)
    distribution = closed_forms.chain3_return((0, 1, 1), 0.9)
    assert distribution.wasserstein(values[0, 0].numpy(), probs[0, 0].numpy()) < 0.06
    # a risk measure in the same place gives the cautious policy: CVaR at 0.3 of every gamble is 0
    worst = distributional_control(outcomes, 0.9, score=lambda v, p: project_quantile(v, p, 10)[..., :3].mean(-1))
    assert torch.allclose(worst[0][:3, 0].mean(-1), tensor(2.71, 1.9, 1.0))


def test_too_many_atoms() -> None:
    outcomes = random_outcomes(0)
    with pytest.raises(ValueError, match="more than 100 atoms"):
        exact_return_distributions(outcomes, torch.full((4, 2), 0.5, dtype=torch.float64), 0.5, 20, max_atoms=100)
    assert merge(tensor(1.0, 1.0 + 1e-12, 0.0), tensor(0.5, 0.5, 0.0))[0].tolist() == [1.0]


# Quantile TD


def test_one_quantile_is_median_td() -> None:
    for target, moved in ((1.0, 0.05), (-1.0, -0.05)):
        theta = torch.zeros(2, 1, dtype=torch.float64)
        qtd_update(theta, 0, target, 1, 0.0, 0.1)
        assert theta[0, 0] == pytest.approx(moved)  # a (1/2 - 1{y < theta})


def test_a_quantile_moves_by_the_step_at_most_whatever_the_reward() -> None:
    rng = np.random.default_rng(0)
    theta = torch.from_numpy(rng.normal(size=(3, 16)))
    for _ in range(300):
        before = theta.clone()
        s, after = int(rng.integers(3)), int(rng.integers(3))
        qtd_update(theta, s, float(1e6 * rng.standard_t(1.0)), after, 0.9, 0.07)
        assert (theta - before).abs().max() <= 0.07 + 1e-9


def test_the_sorted_search_is_the_definition() -> None:
    rng = np.random.default_rng(1)
    theta = torch.from_numpy(rng.integers(0, 5, (2, 8)).astype(float))
    targets = 1.0 + 0.5 * theta[1]
    tau = (torch.arange(8) + 0.5) / 8
    expected = theta[0] + 0.1 * (tau[:, None] - (targets[None] < theta[0][:, None]).double()).mean(1)
    qtd_update(theta, 0, 1.0, 1, 0.5, 0.1)
    assert torch.allclose(theta[0], expected)


def test_a_deterministic_chain() -> None:
    """Reward 1 a step, gamma 0.5: 1 before the end, 1.5 before that; 2 in a loop; all within a few steps."""
    theta, step = torch.zeros(3, 8, dtype=torch.float64), 0.01
    for _ in range(4000):
        qtd_update(theta, 1, 1.0, 0, 0.5, step, terminated=True)
        qtd_update(theta, 0, 1.0, 1, 0.5, step)
        qtd_update(theta, 2, 1.0, 2, 0.5, step)
    for state, value in ((1, 1.0), (0, 1.5), (2, 2.0)):
        assert (theta[state] - value).abs().max() <= 3 * step


def ring_error(noise: str, quantiles: int | None, step: float) -> float:
    """Mean squared error of the values of a ring after 1000 updates, over 6 seeds."""
    mdp = examples.ring(10, gamma=0.9)
    truth = torch.from_numpy(closed_forms.ring_values(mdp))
    mean_reward, errors = closed_forms.mean_reward(mdp)[:, 0], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        drawn = {"t2": rng.standard_t(2.0, 1000), "none": np.zeros(1000)}[noise]
        table = torch.zeros(10, quantiles or 1, dtype=torch.float64)
        for t in range(1000):
            s = t % 10
            if quantiles:
                qtd_update(table, s, float(mean_reward[s] + drawn[t]), (s + 1) % 10, 0.9, step)
            else:
                td_update(table[:, 0], s, float(mean_reward[s] + drawn[t]), (s + 1) % 10, 0.9, step)
        errors.append(float(((table.mean(1) - truth) ** 2).mean()))
    return float(np.mean(errors))


def test_quantile_td_wins_under_heavy_tails_and_td_without_noise() -> None:
    """Each with the best of its step sizes."""
    best = {
        (noise, size): min(ring_error(noise, size, step) for step in steps)
        for noise in ("t2", "none")
        for size, steps in ((None, (0.03, 0.1, 0.3, 1.0)), (64, (0.1, 0.3, 1.0)))
    }
    assert best["t2", 64] < best["t2", None]
    assert best["none", None] <= best["none", 64]


# Stock augmentation


def test_the_lottery_of_the_page() -> None:
    distribution: Distribution = (tensor(0, 10), tensor(0.1, 0.9))
    assert [cvar_objective(distribution, -b, 0.2) for b in (0.0, 5.0, 10.0)] == pytest.approx([0.0, 2.5, 5.0])
    assert cvar_of(distribution, 0.2) == pytest.approx(5.0)


def test_stock_planning_optimizes_the_whole_episode() -> None:
    """-10, where greedy CVaR (always safe) has -11 and the risk-neutral policy (always risky) -14.8."""
    outcomes = Outcomes.of(examples.risky_choice())
    stock, plan = cvar_plan(outcomes, 1.0, 0.2, 0, horizon=2)
    assert cvar_of(plan.distribution, 0.2) == pytest.approx(-10.0)
    assert cvar_objective(plan.distribution, stock, 0.2) == pytest.approx(-10.0)
    assert plan.actions[1, 1, round(stock, 9)] == 0  # safe after nothing
    assert plan.actions[1, 1, round(stock - 8.0, 9)] == 1  # risky after the loss
    greedy = distributional_control(outcomes, 1.0, lambda v, p: project_quantile(v, p, 50)[..., :10].mean(-1), size=50)
    assert greedy[0][1, 0, :10].mean() > greedy[0][1, 1, :10].mean()
    assert closed_forms.risky_choice_return(0, 0).cvar(0.2) == pytest.approx(-11.0)
    neutral = stock_plan(outcomes, 1.0, lambda x: x, 0, 0.0, horizon=2)
    assert cvar_of(neutral.distribution, 0.2) == pytest.approx(-14.8)


def test_a_linear_utility_ignores_the_stock() -> None:
    outcomes = Outcomes.of(examples.chain3(0.9))
    for stock in (-10.0, 0.0, 3.0):
        plan = stock_plan(outcomes, 0.9, lambda x: x, 0, stock, horizon=3)
        assert set(plan.actions.values()) == {1}
        assert plan.score == pytest.approx(stock + 1.6 * 2.71)


@pytest.mark.parametrize("utility", [shortfall, lambda x: -x.abs(), lambda x: -torch.exp(-0.3 * x)])
def test_planning_beats_every_policy_of_state_alone(utility) -> None:  # type: ignore[no-untyped-def]
    mdp = examples.chain3(0.5)
    outcomes = Outcomes.of(mdp)
    plan = stock_plan(outcomes, 0.5, utility, 0, -3.0, horizon=3)
    scores = []
    for actions in np.ndindex(2, 2, 2):
        distribution = closed_forms.chain3_return(actions, 0.5)
        scores.append(
            float(torch.from_numpy(distribution.probs) @ utility(torch.from_numpy(distribution.values) - 3.0))
        )
    assert plan.score >= max(scores) - 1e-12
    assert plan.score == pytest.approx(float((plan.distribution[1] * utility(plan.distribution[0] - 3.0)).sum()))
