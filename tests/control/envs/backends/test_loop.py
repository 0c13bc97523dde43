"""Our loop: episodes, seeds, actions, masks, and what it says about broken environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from distrl.base.errors import EnvError
from distrl.control.envs.backends.actions import random_actions
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.backends.loop import LoopVectorEnv
from distrl.control.envs.make_vector import make_vector
from tests.support import toy_envs
from tests.support.envs import env_config as Config


def vector_of(env: Any, num_envs: int = 2, **kwargs: Any) -> VectorEnv:
    return make_vector(Config(id=env, kwargs=kwargs), num_envs, lambda i, n: 100 * i + n)


def run(vector: VectorEnv, action: np.ndarray) -> None:
    """Reset, then repeat one action for 10 steps."""
    vector.reset()
    for _ in range(10):
        vector.step(action)


def test_episode_records_of_a_known_environment() -> None:
    vector = vector_of(toy_envs.TruncatingEnv, length=4)
    vector.reset()
    assert vector.first.all()
    ends = []
    for t in range(1, 13):
        step = vector.step(np.zeros(2, np.int64))
        ends += step.episodes
        assert step.valid is None
        assert step.truncated.all() == (t % 4 == 0)
        assert not step.terminated.any()
        assert vector.first.all() == (t % 4 == 0)
        assert step.reward.tolist() == [(t - 1) % 4 + 1.0] * 2
        assert vector.obs[:, 0].tolist() == [t % 4] * 2
        assert [(i, obs[0]) for i, obs in step.finals] == ([(0, 4.0), (1, 4.0)] if t % 4 == 0 else [])
    assert [(end.env, end.episode, end.seed) for end in ends[:4]] == [(0, 0, 0), (1, 0, 100), (0, 1, 1), (1, 1, 101)]
    assert {(end.return_, end.length) for end in ends} == {(10.0, 4)}


def test_reset_begins_the_next_episode() -> None:
    vector = vector_of(toy_envs.TruncatingEnv)
    vector.reset()
    first = vector.obs.copy()
    vector.step(np.zeros(2, np.int64))
    vector.reset()
    assert vector.snapshot()["seed"].tolist() == [1, 101]
    assert vector.first.all()
    assert not np.array_equal(first, vector.obs)


def test_finals_and_rewards_outlive_the_next_step() -> None:
    vector = vector_of(toy_envs.TruncatingEnv, length=2)
    vector.reset()
    vector.step(np.zeros(2, np.int64))
    step = vector.step(np.ones(2, np.int64))
    kept = [obs.copy() for _, obs in step.finals], step.reward.copy()
    for _ in range(3):
        vector.step(np.zeros(2, np.int64))
    assert all(np.array_equal(a, b) for a, (_, b) in zip(kept[0], step.finals, strict=True))
    assert np.array_equal(kept[1], step.reward)


class Recorder(toy_envs.ToyEnv):
    """Remembers the actions that it was given."""

    def __init__(self, space: gymnasium.Space[Any]):
        super().__init__()
        self.action_space = space
        self.given: list[Any] = []

    def step(self, action: Any) -> Any:
        self.given.append(action)
        return super().step(0)


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (gymnasium.spaces.Discrete(3, start=-1), np.array([0, 2]), [-1, 1]),
        (gymnasium.spaces.MultiDiscrete([3, 4], start=[10, 0]), np.array([[2, 3], [0, 0]]), [[12, 3], [10, 0]]),
        (gymnasium.spaces.MultiBinary(2), np.array([[0, 1], [1, 1]]), [[0, 1], [1, 1]]),
        (gymnasium.spaces.Box(-1, 1, (1,)), np.array([[-7.0], [0.5]], np.float32), [[-1.0], [0.5]]),
        (gymnasium.spaces.Box(0, 9, (1,), np.uint8), np.array([[-7.0], [3.6]], np.float32), [[0], [4]]),
    ],
    ids=str,
)
def test_actions_reach_the_environment(space: Any, action: np.ndarray, expected: list[Any]) -> None:
    envs: list[Recorder] = []

    def make() -> Recorder:
        envs.append(Recorder(space))
        return envs[-1]

    vector = LoopVectorEnv(make, 2, lambda i, n: n)
    vector.reset()
    vector.step(action)
    given = [env.given[0] for env in envs]
    assert [np.asarray(one).tolist() for one in given] == expected
    assert all(space.contains(one) for one in given)


def test_wrong_number_of_actions() -> None:
    vector = vector_of(toy_envs.ToyEnv)
    vector.reset()
    with pytest.raises(ValueError, match="3 actions for 2"):
        vector.step(np.zeros(3, np.int64))


@pytest.mark.parametrize("method", [False, True], ids=["info", "method"])
def test_masks_are_those_of_the_observation(method: bool) -> None:
    vector = vector_of(toy_envs.MaskedEnv, length=4, method=method)
    vector.reset()
    for t in range(10):
        assert vector.mask.tolist() == [(np.arange(3) == t % 4 % 3).tolist()] * 2
        vector.step(vector.mask.argmax(1))


def test_no_mask_where_the_environment_gives_none() -> None:
    vector = vector_of("CartPole-v1")
    vector.reset()
    vector.step(np.zeros(2, np.int64))
    assert vector.mask is None


def test_random_actions_respect_masks() -> None:
    rng, space = np.random.default_rng(0), gymnasium.spaces.MultiDiscrete([2, 3])
    mask = np.array([[True, False, False, True, True]] * 50)
    actions = random_actions(space, 50, rng, mask)
    assert set(actions[:, 0]) == {0}
    assert set(actions[:, 1]) == {1, 2}


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "raises": ("RaisingEnv", {"after": 3}, "step 3, action 0) raised RuntimeError: the robot fell off the table"),
    "raises at reset": ("RaisingEnv", {"after": 0}, "at the reset) raised RuntimeError: the robot fell off the table"),
    "nan": ("NaNEnv", {"after": 3}, "step 3, action 0): observation is nan at index 1 (1 of 3 values are not finite)"),
    "inf late": ("NaNEnv", {"after": 7, "value": float("inf")}, "step 7, action 0): observation is inf at index 1"),
    "nan at reset": ("NaNEnv", {"after": 0}, "at the reset): observation is nan at index 1"),
    "nan reward": ("NaNEnv", {"after": 5, "where": "reward"}, "step 5, action 0): the reward is nan, expected one fin"),
    "no reward": ("BadRewardEnv", {"value": None}, "step 2, action 0): the reward is None, expected one finite number"),
    "array reward": ("BadRewardEnv", {"value": [1.0]}, "step 2, action 0): the reward is [1.0], expected one finite"),
    "word reward": ("BadRewardEnv", {"value": "high"}, "step 2, action 0): the reward is 'high', expected one finite"),
    "shape": ("WrongShapeEnv", {}, "at the reset): observation has shape (1,), expected (3,). The observation space"),
    "shape later": ("WrongShapeEnv", {"after": 1}, "step 1, action 0): observation has shape (1,), expected (3,)"),
    "shape late": ("WrongShapeEnv", {"after": 8, "shape": ()}, "step 8, action 0): observation has shape (), expected"),
    "dtype": ("WrongDtypeEnv", {}, "at the reset): observation has dtype float32, expected uint8"),
    "dtype late": ("WrongDtypeEnv", {"after": 8}, "step 8, action 0): observation has dtype float32, expected uint8"),
    "old step": ("OldStepEnv", {}, "step 1, action 0) raised ValueError: not enough values to unpack"),
    "mask missing": ("MaskedEnv", {"forget_after": 1}, "info['action_mask'] is missing, though reset gave one"),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in dot")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_environment_is_named(case: str) -> None:
    name, kwargs, expected = BROKEN[case]
    vector = vector_of(getattr(toy_envs, name), **kwargs)
    with pytest.raises(EnvError) as caught:
        run(vector, np.zeros(2, np.int64))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"environment 0 of {name} (episode 0, seed 0, ")


def test_the_culprit_is_found_among_many() -> None:
    made: list[gymnasium.Env[Any, Any]] = []

    def make() -> gymnasium.Env[Any, Any]:
        made.append(toy_envs.NaNEnv(after=6 if len(made) == 2 else 99))
        return made[-1]

    vector = LoopVectorEnv(make, 4, lambda i, n: 10 * i + n, "Mine-v0")
    with pytest.raises(EnvError, match=r"environment 2 of Mine-v0 \(episode 0, seed 20, step 6, action 1\)"):
        run(vector, np.ones(4, np.int64))


def test_a_nan_action_is_blamed_on_the_policy() -> None:
    vector = vector_of("Pendulum-v1")
    vector.reset()
    with pytest.raises(EnvError, match="look at the policy first"):
        vector.step(np.full((2, 1), np.nan, np.float32))


def test_unsupported_space() -> None:
    class TextEnv(toy_envs.ToyEnv):
        observation_space = gymnasium.spaces.Text(5)

    with pytest.raises(EnvError, match="observation space Text is not supported; Box, Discrete"):
        vector_of(TextEnv)
