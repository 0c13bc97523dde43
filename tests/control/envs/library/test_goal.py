"""Environments with goals pay what `compute_reward` says, also for other goals."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from distrl.base.errors import ConfigError
from distrl.control.envs.library.goal import BitFlip, PointGoal


@pytest.mark.parametrize("env", [PointGoal(radius=0.5), PointGoal(radius=0.8, wall=True), BitFlip(4)])
def test_rewards_are_those_of_compute_reward(env: gymnasium.Env) -> None:
    env.action_space.seed(0)
    seen, rewards = [], []
    env.reset(seed=0)
    for t in range(200):
        if t % 20 == 0:
            env.reset()
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert not terminated
        assert not truncated
        assert info["is_success"] == (reward == 0.0)
        seen.append(obs)
        rewards.append(reward)
    achieved, desired = (np.stack([o[key] for o in seen]) for key in ("achieved_goal", "desired_goal"))
    again = env.compute_reward(achieved, desired, None)  # type: ignore[attr-defined]
    assert again.tolist() == rewards
    assert (env.compute_reward(achieved, achieved, None) == 0.0).all()  # type: ignore[attr-defined]
    assert set(rewards) == {-1.0, 0.0}


def test_the_wall_stops_and_the_gap_lets_through() -> None:
    env = PointGoal(wall=True)
    for height, right_of_it in ((0.0, False), (0.8, True)):
        obs, _ = env.reset(seed=1)
        assert obs["observation"][0] < 0 < obs["desired_goal"][0]
        env._position = np.array([-0.1, height])
        for _ in range(5):
            obs = env.step(np.array([1.0, 0.0]))[0]
        assert (obs["observation"][0] > 0) == right_of_it


def test_straight_to_the_goal() -> None:
    env = PointGoal()
    obs, _ = env.reset(seed=3)
    for _ in range(20):
        gap = obs["desired_goal"] - obs["observation"]
        obs, reward, *_ = env.step((gap / env.speed).clip(-1, 1))
    assert reward == 0.0


def test_registered_with_a_time_limit() -> None:
    from distrl.control.envs.make import register_namespace

    register_namespace("distrl/BitFlip-v0")
    env = gymnasium.make("distrl/BitFlip-v0", bits=6)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(50)] == [False] * 49 + [True]
    with pytest.raises(ConfigError):
        BitFlip(0)
    with pytest.raises(ConfigError):
        PointGoal(speed=0.0)
