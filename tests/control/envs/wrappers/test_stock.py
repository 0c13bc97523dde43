"""The stock of an episode and the return still wanted."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Dict
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.control.envs.library.goal import PointGoal
from distrl.control.envs.library.tabular import TabularEnv
from distrl.control.envs.library.tabular_examples import chain3
from distrl.control.envs.make import make_env
from distrl.control.envs.wrappers.stock import Stock, TargetReturn
from tests.support.envs import env_config as Config
from tests.support.toy_envs import TruncatingEnv


def test_entry_15_one_step() -> None:
    """gamma = 0.5, c_0 = 1, r = 1 -> c_1 = 4."""
    env = Stock(TabularEnv(chain3()), gamma=0.5, start=1.0)
    obs, info = env.reset(seed=0)
    assert (obs[-1], info["stock"]) == (1.0, 1.0)
    obs, reward, _, _, info = env.step(0)
    assert (reward, obs[-1], info["stock"]) == (1.0, 4.0, 4.0)
    assert obs.shape == env.observation_space.shape == (5,)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(-5.0, 5.0), st.integers(0, 1000))
def test_the_stock_and_what_is_to_come_are_one(gamma: float, start: float, seed: int) -> None:
    """c_0 + G_0 = gamma^t (c_t + G_t) at every time; a target return is the negative of a stock."""
    env = Stock(TabularEnv(chain3()), gamma, start)
    other = TargetReturn(TabularEnv(chain3()), gamma, -start)
    env.reset(seed=seed)
    other.reset(seed=seed)
    stocks, rewards = [env.context], []
    for t in range(3):
        rewards.append(env.step(t % 2)[1])
        other.step(t % 2)
        stocks.append(env.context)
        assert other.context == -env.context
    to_come = [sum(gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(4)]
    totals = [gamma**t * (c + g) for t, (c, g) in enumerate(zip(stocks, to_come, strict=True))]
    assert totals == pytest.approx([start + to_come[0]] * 4)


def test_other_observations_become_a_dict() -> None:
    env = Stock(gymnasium.make("CliffWalking-v1"), gamma=1.0, scale=10.0, limit=0.15)
    assert isinstance(env.observation_space, Dict)
    obs, _ = env.reset(seed=0)
    assert set(obs) == {"obs", "stock"}
    shown = [float(env.step(0)[0]["stock"][0]) for _ in range(2)]
    assert shown == pytest.approx([-0.1, -0.15])  # -2 / 10 is beyond the limit
    assert env.context == -2.0
    goal = Stock(PointGoal(), gamma=1.0)
    assert goal.observation_space.contains(goal.reset(seed=0)[0])
    with pytest.raises(ConfigError, match="has an entry 'stock' already"):
        Stock(goal, gamma=1.0)


def test_the_first_stock_comes_from_the_seed() -> None:
    config = Config(id="distrl/RiskyChoice-v0", wrappers=[{"stock": {"gamma": 1.0, "start": [-5.0, 5.0]}}])
    env = make_env(config)
    first = [env.reset(seed=seed)[0][-1] for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    assert all(-5.0 <= c <= 5.0 for c in first)
    assert len({float(env.reset()[0][-1]) for _ in range(5)}) == 5
    assert env.reset(seed=0, options={"stock": 2.5})[0][-1] == 2.5
    grid = Stock(TruncatingEnv(), 1.0, values=[0.0, 3.0])
    assert {float(grid.reset(seed=seed)[0][-1]) for seed in range(20)} == {0.0, 3.0}


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": 1.0, "start": [1.0, 0.0]}, {"gamma": 1.0, "scale": 0}])
def test_wrong_arguments(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="stock"):
        Stock(TruncatingEnv(), **wrong)


def test_float64_observations_keep_their_dtype() -> None:
    env = Stock(gymnasium.make("Swimmer-v5"), gamma=0.99)
    assert env.observation_space.dtype == np.float64
    assert env.reset(seed=0)[0].dtype == np.float64
