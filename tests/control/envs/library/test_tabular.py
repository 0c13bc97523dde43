"""Tabular environments: what they play is what their tables and their closed forms say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.control.envs.library import tabular_examples as examples
from distrl.control.envs.library.risky_path import RiskyPath
from distrl.control.envs.library.tabular import REWARD_CHANNELS, TabularEnv, TabularMDP
from tests.exact import closed_forms
from tests.exact.closed_forms import ExactReturn
from tests.exact.distributional import Distribution, Outcomes, exact_return_distributions, wasserstein
from tests.exact.mdp import policy_evaluation


def follow(mdp: TabularMDP, actions: dict[int, int]) -> torch.Tensor:
    """The deterministic policy that takes `actions` (state -> action), and 0 elsewhere."""
    policy = torch.zeros(mdp.num_states, mdp.num_actions, dtype=torch.float64)
    policy[range(mdp.num_states), [actions.get(s, 0) for s in range(mdp.num_states)]] = 1.0
    return policy


def atoms(distribution: ExactReturn) -> Distribution:
    return torch.from_numpy(distribution.values), torch.from_numpy(distribution.probs)


@pytest.mark.parametrize("actions", [(0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 1)])
def test_chain3_closed_form_is_the_enumeration(actions: tuple[int, ...]) -> None:
    mdp = examples.chain3(0.9)
    distributions = exact_return_distributions(Outcomes.of(mdp), follow(mdp, dict(enumerate(actions))), 0.9, 3)
    for s in range(3):
        assert wasserstein(distributions[s], atoms(closed_forms.chain3_return(actions[s:], 0.9))) < 1e-12
    always = closed_forms.chain3_return((1, 1, 1), 1.0)
    assert always.values.tolist() == [0.0, 4.0, 8.0, 12.0]
    assert always.probs == pytest.approx([0.216, 0.432, 0.288, 0.064])


def test_risky_choice_is_the_lottery_of_entry_15() -> None:
    cvar = {choice: closed_forms.risky_choice_return(*choice).cvar(0.2) for choice in ((0, 1), (0, 0), (1, 1))}
    assert cvar == {(0, 1): pytest.approx(-10.0), (0, 0): pytest.approx(-11.0), (1, 1): pytest.approx(-14.8)}
    mdp = examples.risky_choice()
    for action in (0, 1):
        distribution = exact_return_distributions(Outcomes.of(mdp), follow(mdp, {1: action}), 1.0, 2)[0]
        assert wasserstein(distribution, atoms(closed_forms.risky_choice_return(action, action))) < 1e-12


def test_halving_is_uniform() -> None:
    mdp = examples.halving()
    distribution = exact_return_distributions(Outcomes.of(mdp), follow(mdp, {}), 0.5, 12)[0]
    # after 12 steps the distribution lacks at most 2^-11, on average half of that
    assert wasserstein(distribution, atoms(closed_forms.halving_return(0))) == pytest.approx(2.0**-12, rel=0.01)
    uniform = closed_forms.halving_return(1)
    assert uniform.quantile(np.array([0.1, 0.5])) == pytest.approx([0.35, 0.75], abs=1e-3)
    assert uniform.mean == pytest.approx(0.75)


def test_gaussian_chain() -> None:
    distribution = closed_forms.gaussian_chain_return((0, 1, 1), 0.9)
    mean, variance = 1.0 + 0.9 * 1.5 + 0.81 * 1.5, 0.25 + 0.81 * 2.25 + 0.6561 * 2.25
    assert (float(distribution.mean), float(distribution.covariance)) == (pytest.approx(mean), pytest.approx(variance))
    assert distribution.quantile(0.975) == pytest.approx(mean + 1.959963984540054 * variance**0.5)
    assert distribution.cvar(0.25) == pytest.approx(mean - 1.27111 * variance**0.5, abs=1e-3)


def test_both_channels_have_equal_marginals_and_opposite_correlations() -> None:
    distributions = [closed_forms.two_channels_return(action) for action in (0, 1)]
    for k in (0, 1):
        assert [distribution.channel(k).cdf(0.0) for distribution in distributions] == [0.5, 0.5]
    correlations = [
        distribution.covariance[0, 1] / np.sqrt(distribution.covariance[0, 0] * distribution.covariance[1, 1])
        for distribution in distributions
    ]
    assert correlations == [-1.0, 1.0]
    env = TabularEnv(examples.two_channels())
    for action in (0, 1):
        env.reset(seed=action)
        env.step(action)
        _, reward, terminated, _, info = env.step(0)
        x, y = info[REWARD_CHANNELS]
        assert terminated
        assert reward == x + y
        assert y == (x if action else -x)


def test_ring_values() -> None:
    mdp = examples.ring(10, gamma=0.9)
    policy = torch.ones(10, 1, dtype=torch.float64)
    values = policy_evaluation(
        torch.tensor(closed_forms.transition(mdp)), torch.tensor(closed_forms.mean_reward(mdp)), policy, 0.9
    )
    assert closed_forms.ring_values(mdp) == pytest.approx(values.numpy())


@pytest.mark.parametrize(
    ("mdp", "actions", "distribution"),
    [
        (examples.chain3(), (0, 1, 1), closed_forms.chain3_return((0, 1, 1), 1.0)),
        (examples.gaussian_chain(), (0, 1, 0), closed_forms.gaussian_chain_return((0, 1, 0), 1.0)),
        (examples.risky_choice(), (0, 1), closed_forms.risky_choice_return(1, 1)),
    ],
)
def test_played_returns_have_the_law(mdp: TabularMDP, actions: tuple[int, ...], distribution: ExactReturn) -> None:
    env, returns = TabularEnv(mdp), []
    env.reset(seed=0)
    for _ in range(4000):
        env.reset()
        returns.append(sum(env.step(action)[1] for action in actions))
    # Kolmogorov's bound at 1e-6: sqrt(ln(2e6) / 2 / 4000)
    grid = np.unique(np.concatenate([distribution.values, distribution.quantile(np.linspace(0.05, 0.95, 19))]))
    seen = np.mean(np.array(returns) <= grid[:, None] + 1e-9, axis=1)
    assert np.abs(seen - distribution.cdf(grid)).max() < 0.0426


def test_risky_path() -> None:
    env = RiskyPath()
    assert str(env) == ".....\n.~~~.\nS~~~G"
    outcomes, (up, right, down) = Outcomes.of(env.mdp), (0, 1, 2)
    ways = {"short": dict.fromkeys(range(10, 14), right), "long": {10: up, 5: up, 4: down, 9: down}}
    ways["long"] |= dict.fromkeys(range(4), right)
    for path, actions in ways.items():
        distribution = exact_return_distributions(outcomes, follow(env.mdp, actions), 0.95, 10)[10]
        assert wasserstein(distribution, atoms(closed_forms.path_return(env, path, 0.95))) < 1e-9  # type: ignore[arg-type]
    short, long = closed_forms.path_return(env, "short"), closed_forms.path_return(env, "long")
    # what the documentation of the class says
    assert float(long.mean) == long.cvar(0.1) == 2.0
    assert float(short.mean) == pytest.approx(3.34, abs=0.01)
    assert short.cvar(0.1) == pytest.approx(-12.49, abs=0.01)
    assert short.quantile(0.1) == pytest.approx(-2.0)


def test_options_and_bad_input() -> None:
    env = TabularEnv(examples.chain3(), observation="index")
    assert env.reset(seed=0, options={"state": 2})[0] == 2
    assert env.step(0)[:3] == (3, 1.0, True)
    with pytest.raises(ConfigError, match="Expected one_hot or index"):
        TabularEnv(examples.chain3(), observation="onehot")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no tabular MDP 'chain4'"):
        examples.make_tabular("chain4")
    with pytest.raises(ConfigError, match="sum to"):
        TabularMDP(
            np.full((1, 1, 2), 0.4), np.zeros((1, 1, 2)), np.zeros((1, 1, 2), int), np.zeros(1, bool), np.ones(1)
        )
    with pytest.raises(ConfigError, match="with shapes"):
        TabularMDP(np.ones((1, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1, 1), int), np.zeros(1, bool), np.ones(1))
    with pytest.raises(ConfigError, match="width >= 3"):
        RiskyPath(width=2)


def test_return_law_wasserstein_and_samples() -> None:
    normal = ExactReturn(np.zeros(1), np.ones(1), np.ones(1))
    assert normal.wasserstein(np.zeros(1)) == pytest.approx((2 / np.pi) ** 0.5, abs=1e-4)  # E|N(0, 1)|
    coin = ExactReturn(np.array([0.0, 1.0]), np.array([0.25, 0.75]))
    assert coin.wasserstein(np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx(0.0)
    assert coin.wasserstein(np.array([0.5])) == pytest.approx(0.5)
    drawn = ExactReturn(np.array([[0.0, 1.0]]), np.ones(1), np.array([[1.0, 0.0]])).sample(
        np.random.default_rng(0), 2000
    )
    assert drawn[:, 1].tolist() == [1.0] * 2000
    assert drawn[:, 0].std() == pytest.approx(1.0, abs=0.1)
