"""DQN with stock (entry 15): the whole episode's CVaR, where greedy risk measures of what is left fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.control.algorithms.value_based.stock_dqn import first_stock
from distrl.control.envs.library.tabular_examples import LOTTERY, risky_choice
from distrl.control.envs.make import make_env
from tests.exact import closed_forms
from tests.support.envs import env_config
from tests.support.q_learners import ACTION, make_q

LEVEL, SCALE = 0.2, 10.0
#: one-hot state and stock / 10, as the wrapper shows them
WITH_STOCK = spaces.Box(-np.inf, np.inf, (4,), np.float32)
TWO = spaces.Discrete(2)
QUANTILES = {"name": "quantile", "size": 20, "kappa": 0.0}
LEARNING: dict[str, Any] = {
    "observation": WITH_STOCK,
    "action": TWO,
    "hidden": (64,),
    "gamma": 1.0,
    "learning_rate": 3e-3,
    "target_interval": 50,
}


def transitions(rng: np.random.Generator, rows: int = 128, with_stock: bool = True) -> Columns:
    """Random steps of `risky_choice`: state 0 or 1, any action, c_0 uniform in [0, 10]."""
    mdp = risky_choice()
    state, action = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    stock = rng.uniform(0.0, 10.0, rows) - np.where((state == 1) & (rng.random(rows) < 0.5), 8.0, 0.0)
    chosen = mdp.probs[state, action]
    outcome = (rng.random(rows)[:, None] > chosen.cumsum(-1)[:, :-1]).sum(-1)
    reward = mdp.reward[state, action, outcome]
    after = mdp.next_state[state, action, outcome]
    eye = np.eye(3)

    def show(s: np.ndarray, c: np.ndarray) -> torch.Tensor:
        shown = np.concatenate([eye[s], (c * with_stock)[:, None] / SCALE], 1)
        return torch.from_numpy(shown.astype(np.float32))

    return Columns(
        obs=show(state, stock),
        action=torch.from_numpy(action),
        reward=torch.from_numpy(reward.astype(np.float32)),
        discount=torch.from_numpy((~mdp.terminal[after]).astype(np.float32)),
        next_obs=show(after, stock + reward),
        weight=torch.ones(rows),
    )


def learn(algorithm: Any, steps: int, with_stock: bool = True) -> None:
    rng = np.random.default_rng(0)
    for step in range(steps):
        if step == steps * 2 // 3:
            algorithm.schedules = algorithm.schedules.model_copy(update={"learning_rate": 3e-4})
            algorithm.resolve(0, 1000)
        algorithm.update(transitions(rng, with_stock=with_stock), rng)


def episode_cvar(algorithm: Any, start: float, with_stock: bool = True) -> float:
    """Exact CVaR of the whole episode, the choice made as the learner makes it after either lottery outcome."""
    shown = [[0.0, 1.0, 0.0, (start + reward) / SCALE * with_stock] for reward, _ in LOTTERY]
    with torch.no_grad():
        nothing, loss = algorithm.policy.values(torch.tensor(shown)).argmax(-1).tolist()
    return closed_forms.risky_choice_return(nothing, loss).cvar(LEVEL)


def test_the_best_cvar_of_the_episode_needs_the_stock():
    """Entry 15's effect: -10 with stock, -11 by greedy CVaR, -14.8 by the mean."""
    learner = make_q("stock_dqn", head=QUANTILES, level=LEVEL, stock_scale=SCALE, **LEARNING)
    learn(learner, 700)
    grid = torch.linspace(0.0, 10.0, 41)
    start, expected = first_stock(learner.policy, torch.tensor([1.0, 0.0, 0.0, 0.0]), grid, LEVEL)
    assert 3.0 <= start <= 8.0
    assert expected == pytest.approx(-10.0, abs=2.5)  # 20 quantiles do not see the worst 2 %
    assert episode_cvar(learner, start) == pytest.approx(-10.0)

    greedy = make_q("qr_dqn", head=QUANTILES, risk={"name": "cvar", "level": LEVEL}, **LEARNING)
    learn(greedy, 500, with_stock=False)
    assert episode_cvar(greedy, 0.0, with_stock=False) == pytest.approx(-11.0)
    neutral = make_q("dqn", **LEARNING)
    learn(neutral, 200, with_stock=False)
    assert episode_cvar(neutral, 0.0, with_stock=False) == pytest.approx(-14.8)


def test_actions_are_ranked_by_the_utility_of_stock_and_return():
    """Shortfall by hand: with c = 5 the sure -3 costs nothing, with c = -3 the gamble is better."""
    learner = make_q("stock_dqn", head={"name": "quantile", "size": 10}, stock_scale=SCALE, **LEARNING)
    laws = torch.stack([torch.full((10,), -3.0), torch.tensor([-20.0] + [0.0] * 9)])
    obs = torch.tensor([[0.0, 1.0, 0.0, 0.5], [0.0, 1.0, 0.0, -0.3]])
    found = learner.policy.rank(laws.expand(2, 2, 10), obs)
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.5], [-6.0, -5.0]]))


def test_the_mean_as_utility_is_risk_neutral_whatever_the_stock():
    learner = make_q("stock_dqn", utility="mean", stock_scale=SCALE, **LEARNING)
    laws = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0)).expand(3, 2, 32)
    obs = torch.cat([torch.zeros(3, 3), torch.tensor([[-5.0], [0.0], [5.0]])], 1)
    best = learner.policy.rank(laws, obs).argmax(-1)
    assert best.tolist() == [int(laws[0].mean(-1).argmax())] * 3


@pytest.mark.parametrize("rule", ["greedy", "double"])
def test_the_target_takes_the_action_that_is_best_at_the_next_stock(rule: str):
    learner = make_q("stock_dqn", head={"name": "quantile", "size": 4}, next_action=rule, **LEARNING)
    rng = np.random.default_rng(3)
    batch = transitions(rng, 8)
    goal = learner.td_target(batch, None, learner.policy, learner.target)
    with torch.no_grad():
        laws = learner.target.returns(batch.next_obs)
        best = (laws + learner.policy.stock(batch.next_obs)[:, None, None]).clamp(max=0.0).mean(-1).argmax(-1)
    expected = batch.reward[:, None] + batch.discount[:, None] * laws[torch.arange(8), best]
    torch.testing.assert_close(goal.values, expected)


def test_a_stock_that_does_not_fit_the_learner_is_refused():
    rng = np.random.default_rng(0)
    make_q("stock_dqn", stock_scale=SCALE, **LEARNING).update(transitions(rng), rng)
    with pytest.raises(ConfigError, match="wrapper and learner differ"):
        make_q("stock_dqn", stock_scale=1.0, **LEARNING).update(transitions(rng), rng)
    wrong = transitions(rng)
    with pytest.raises(ConfigError, match="normalize_reward=false"):
        make_q("stock_dqn", stock_scale=SCALE, **LEARNING).update(wrong.with_(reward=wrong.reward * 0.5), rng)


def test_stock_in_a_dict_observation():
    stock = {"stock": {"gamma": 1.0, "start": 4.0, "scale": 2.0}}
    config = env_config(id="distrl/RiskyChoice-v0", kwargs={"observation": "index"}, wrappers=[stock])
    wrapped = make_env(config)
    learner = make_q("stock_dqn", observation=wrapped.observation_space, action=TWO, stock_scale=2.0)
    obs = {"obs": torch.tensor([0, 1]), "stock": torch.tensor([[2.0], [-1.0]])}
    assert learner.policy.stock(obs).tolist() == [4.0, -2.0]
    moved = learner.policy.with_stock(obs, torch.tensor([6.0, 6.0]))
    assert moved["stock"].tolist() == [[3.0], [3.0]]
    assert learner.policy.values(obs).shape == (2, 2)
    first = {"obs": torch.tensor(0), "stock": torch.tensor([0.0])}
    assert first_stock(learner.policy, first, torch.tensor([1.0, 2.0]), 0.5)[0] in (1.0, 2.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"observation": spaces.Discrete(4)}, "needs the stock in the observation"),
        ({"head": "scalar"}, "needs a return distribution"),
        ({"risk": "cvar"}, "has no risk"),
        ({"munchausen": 0.9}, "has no risk, munchausen"),
        ({"head": "joint"}, "one stock"),
        ({"gamma": {"from": 0.9, "to": 0.99, "over": 100}}, "one gamma"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_q("stock_dqn", **{"observation": WITH_STOCK, "action": ACTION, **config})
