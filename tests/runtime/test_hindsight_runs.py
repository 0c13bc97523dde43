"""Hindsight relabeling from the config: what is drawn, that runs repeat and resume, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import RewardWrapper
from gymnasium.spaces import Discrete

from distrl.base.errors import ConfigError
from distrl.config.load import load_config
from distrl.control.envs.library.goal import PointGoal
from distrl.control.envs.wrappers.goal_rewards import GoalRewards
from distrl.experience.fragment import CollectRequest, Unit
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import merged, parameter_hash
from tests.runtime.off_policy_config import dqn_config

HERE = "tests.runtime.test_hindsight_runs"


def goal_config(name: str = "run", **changes: Any) -> dict[str, Any]:
    """A DQN run on 6 bits, episodes of 10 steps, three batches of four relabeled."""
    base = {
        "env": {"id": "distrl/BitFlip-v0", "kwargs": {"bits": 6}, "max_episode_steps": 10},
        "algorithm": {"hindsight": {"relabeled": 0.75, "horizon": 10}},
    }
    return merged(dqn_config(name, **base), changes)


def point_config(**env: Any) -> dict[str, Any]:
    """SAC on PointGoal."""
    run = merged(goal_config(), {"env": {"id": "distrl/PointGoal-v0", "kwargs": {}, **env}})
    keys = ("rollout_steps", "batch_size", "learning_starts", "hindsight")
    run["algorithm"] = {"name": "sac", **{key: run["algorithm"][key] for key in keys}}
    return run


class NoReward(PointGoal):
    """Has goals, and does not say what others would have paid."""

    compute_reward: Any = None

    def step(self, action: Any) -> Any:
        return self._observe(), 0.0, False, False, {}


class OneGoalOnly(PointGoal):
    """Judges one goal at a time."""

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any = None) -> Any:
        return -float(np.linalg.norm(achieved_goal - desired_goal) > self.radius)


class AsksInfo(PointGoal):
    """Needs an info of its own."""

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any = None) -> Any:
        return -1.0 if info is None else info["paid"]


class Ends(PointGoal):
    """Ends truly at the goal, and says so of one goal at a time."""

    def step(self, action: Any) -> Any:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, reward == 0.0, truncated, info

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        return bool(np.linalg.norm(achieved_goal - desired_goal) <= self.radius)


class Doubled(RewardWrapper):
    """Pays twice as much."""

    def reward(self, reward: Any) -> float:
        return 2.0 * float(reward)


@pytest.mark.parametrize("kind", [{}, {"prioritized": True, "n_step": 3}], ids=str)
def test_batches_are_relabeled_and_paid_for(kind: dict[str, Any]) -> None:
    """What the algorithm sees: rewards of single steps are compute_reward's, and many goals are reached."""
    plan = make_plan(load_config(goal_config(algorithm=kind)))
    learner = plan.build_learner()
    sampler = plan.build_sampler(0, reuse_buffers=False)
    seen: list[Any] = []
    update = learner.algorithm.update
    learner.algorithm.update = lambda batch, rng: seen.append(batch) or update(batch, rng)
    weights = learner.weights(0)
    for number in range(8):
        requests = [CollectRequest(Unit(number, stream), number, assign=number == 0) for stream in range(4)]
        batch = [data for _, data in sampler.collect(requests, weights)]
        units = tuple(request.unit for request in requests)
        report, weights = learner.update(batch, Progress(number, 16 * number, diagnose=True, units=units))
    assert np.isfinite(report.metrics["loss/critic"])
    assert len(seen) == 24
    rows = [(batch.next_obs["achieved_goal"] == batch.next_obs["desired_goal"]).all(-1).numpy() for batch in seen]
    reached = np.concatenate(rows)
    reward = np.concatenate([batch.reward.numpy() for batch in seen])
    if not kind:
        np.testing.assert_array_equal(reward, reached - 1.0)
    assert reached.mean() > 0.1  # of 64 goals one is reached by chance
    assert all("relabeled" not in batch for batch in seen)


@pytest.mark.parametrize("case", ["dqn", "prioritized", "sac"])
def test_runs_repeat_and_resume(case: str, tmp_runs: Path) -> None:
    changes = {"prioritized": {"algorithm": {"prioritized": True, "n_step": 2}}}.get(case, {})
    run = point_config() if case == "sac" else goal_config(**changes)
    run = merged(run, {"stop": {"updates": 8}, "checkpoint": {"every": 0}})
    undisturbed = parameter_hash({**run, "name": "undisturbed"}, tmp_runs)
    train({**run, "stop": {"updates": 5}}, runs_dir=tmp_runs)
    assert train(run, runs_dir=tmp_runs, resume=True)["parameter_hash"] == undisturbed
    plain = merged({**run, "name": "plain"}, {"algorithm": {"hindsight": None}})
    assert parameter_hash(plain, tmp_runs) != undisturbed


def test_true_ends_are_asked_for_goal_by_goal() -> None:
    config = load_config(point_config(id=f"{HERE}:Ends"))
    goals = GoalRewards(config.env, 0)
    assert goals.terminated is not None
    achieved = np.array([[0.0, 0.0], [0.5, 0.5]], np.float32)
    assert goals.terminated(achieved, np.array([[0.0, 0.1], [0.0, 0.0]], np.float32)).tolist() == [True, False]
    assert goals.reward(achieved, achieved).tolist() == [0.0, 0.0]
    goals.close()
    assert GoalRewards(load_config(point_config()).env, 0).terminated is None


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no goals": ("needs a goal environment: the observation is Box", {"env": {"id": "CartPole-v1", "kwargs": {}}}),
    "no reward": ("has goals, but no compute_reward", point_config(id=f"{HERE}:NoReward")),
    "one goal": (r"returned shape \(\) for 50 goals", point_config(id=f"{HERE}:OneGoalOnly")),
    "info": ("compute_reward raised KeyError: 'paid'", point_config(id=f"{HERE}:AsksInfo")),
    "wrapper": (r"gave reward -2, and compute_reward -1", point_config(wrappers=[f"{HERE}:Doubled"])),
    "shards": (r"algorithm\.hindsight with store\.shards 2", {"store": {"shards": 2}}),
    "share": ("relabeled", {"algorithm": {"hindsight": {"relabeled": 1.5}}}),
    "key": ("horizont", {"algorithm": {"hindsight": {"horizont": 5}}}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_relabeled_is_refused_before_the_start(case: str, tmp_runs: Path) -> None:
    words, changes = WRONG[case]
    run = changes if "name" in changes else goal_config(**changes)
    with pytest.raises(ConfigError, match=words):
        train(run, runs_dir=tmp_runs)
    assert not (tmp_runs / "run").exists()


def test_distributions_of_several_rewards_are_refused() -> None:
    run = goal_config(algorithm={"name": "md3qn"}, env={"id": f"{HERE}:Channels", "kwargs": {}})
    with pytest.raises(ConfigError, match="stores reward_channels of every step"):
        make_plan(load_config(run))


class Channels(PointGoal):
    """Tells two parts of its reward apart, and has discrete actions."""

    reward_channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Discrete(2)

    def step(self, action: Any) -> Any:
        obs, reward, *rest, info = super().step(np.array([action, 0.0]))
        return obs, reward, *rest, {**info, "reward_channels": [reward, 0.0]}
