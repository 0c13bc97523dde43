"""Hindsight relabeling on a line: the goal is a place, a step moves by one."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.hindsight import Hindsight

GOALS = Dict(observation=Box(-9, 9, (1,)), achieved_goal=Box(-9, 9, (1,)), desired_goal=Box(-9, 9, (1,)))
GAMMA = 0.5
FAR = 1000.0  # the goal that nobody reaches


def reached(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    return np.all(achieved == desired, axis=-1)


def reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    return reached(achieved, desired) - 1.0


def obs(place: np.ndarray) -> dict[str, np.ndarray]:
    place = place[..., None].astype(np.float32)
    return {"observation": place, "achieved_goal": place, "desired_goal": np.full_like(place, FAR)}


def walks(n_step: int, terminate: bool) -> Replay:
    """Two environments that go from e.g. 100 to 105, then begin anew at 110; the end truncates or terminates."""
    replay = Replay(GOALS, Box(-1, 1, (1,)), 200, 2, n_step)
    t = np.arange(12)
    place = (10 * (t // 5) + t % 5)[:, None] + np.array([100, 500])
    ends = np.broadcast_to((t % 5 == 4)[:, None], place.shape)
    index = np.argwhere(ends & (not terminate))
    finals = place[index[:, 0], index[:, 1]] + 1
    replay.insert(
        Columns(
            obs=obs(place),
            action=np.zeros((12, 2, 1), np.float32),
            reward=np.full((12, 2), -1.0),
            terminated=ends & terminate,
            truncated=ends & (not terminate),
            first=np.broadcast_to((t % 5 == 0)[:, None], place.shape),
            last_obs=obs(place[-1] + 1),
            final_obs=obs(finals),
            final_index=index,
        ),
        0,
    )
    return replay


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("ends_at_goal", [False, True])
def test_goals_come_from_the_rest_of_the_episode(n_step: int, terminate: bool, ends_at_goal: bool) -> None:
    replay = walks(n_step, terminate)
    hindsight = Hindsight(GOALS, reward, 0.8, compute_terminated=reached if ends_at_goal else None)
    batch = hindsight.sample(replay, 600, np.random.default_rng(0), GAMMA)
    here = batch.obs["achieved_goal"][:, 0]
    goal = batch.obs["desired_goal"][:, 0]
    np.testing.assert_array_equal(goal, batch.next_obs["desired_goal"][:, 0])
    assert set(goal[~batch.relabeled]) == {FAR}
    left = 5 - here % 10  # steps to the end of the episode; the last one is not known to the replay if it terminated
    newest = (here % 100) // 10 == 2
    left = np.where(newest, 2 - here % 10, left - terminate * ~newest)
    ahead = (goal - here)[batch.relabeled]
    assert (ahead >= 1).all()
    assert (ahead <= left[batch.relabeled]).all()
    assert set(ahead[(left == 4)[batch.relabeled]]) == {1, 2, 3, 4}
    if terminate:
        assert not batch.relabeled[left == 0].any()
    share = batch.relabeled[left > 0].mean()
    assert 0.7 < share < 0.9
    for i in np.flatnonzero(batch.relabeled):
        expected, power, k, over = 0.0, 1.0, 0, False
        while k < min(n_step, left[i]) and not over:
            there = here[i] + k + 1 == goal[i]
            expected += power * (0.0 if there else -1.0)
            power *= GAMMA
            k += 1
            over = bool(there) and ends_at_goal
        assert batch.reward[i] == expected
        assert batch.discount[i] == (0 if over else power)
        assert batch.next_obs["observation"][i, 0] == here[i] + k


def test_no_share_and_the_whole_share() -> None:
    replay = walks(1, False)
    plain = Hindsight(GOALS, reward, 0.0).sample(replay, 50, np.random.default_rng(0), GAMMA)
    assert not plain.relabeled.any()
    assert (plain.reward == -1).all()
    assert Hindsight(GOALS, reward, 1.0).sample(replay, 50, np.random.default_rng(0), GAMMA).relabeled.all()


def test_environments_without_goals_are_refused() -> None:
    with pytest.raises(ConfigError, match="the observation is Box, without observation, achieved_goal, desired_goal"):
        Hindsight(Box(-1, 1, (2,)), reward)
    with pytest.raises(ConfigError, match="a Dict of achieved_goal, observation, without desired_goal"):
        Hindsight(Dict(observation=Box(-1, 1, (2,)), achieved_goal=Box(-1, 1, (2,))), reward)
    with pytest.raises(ConfigError, match=r"achieved_goal has shape \(1,\), desired_goal \(2,\)"):
        Hindsight(Dict({**GOALS.spaces, "desired_goal": Box(-1, 1, (2,))}), reward)
    with pytest.raises(ConfigError, match=r"a share of 1\.5"):
        Hindsight(GOALS, reward, 1.5)
