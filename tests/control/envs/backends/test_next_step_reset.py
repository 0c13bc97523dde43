"""Backends with reset steps: every valid transition is CartPole's, and reset steps count for nothing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from distrl.base.errors import ConfigError, EnvError
from distrl.base.seeds import seed_for
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.backends.next_step_reset import NextStepResetEnv
from distrl.control.envs.make_vector import make_vector
from tests.support.envs import env_config as Config

needs_envpool = pytest.mark.skipif(sys.platform != "linux", reason="EnvPool is for Linux")
BACKENDS = ["vector", pytest.param("envpool", marks=needs_envpool)]
THETA, X = 12 * 2 * np.pi / 360, 2.4


def make(backend: str, num_envs: int = 6, seed: int = 0, env: str = "CartPole-v1", **config: Any) -> VectorEnv:
    return make_vector(
        Config(id=env, backend=backend, **config), num_envs, lambda i, n: seed_for(seed, "episode", i, n)
    )


def balance(obs: np.ndarray) -> np.ndarray:
    """A controller that keeps the pole up for 500 steps."""
    return (obs @ np.array([0.05, 0.2, 1.0, 0.6]) > 0).astype(np.int64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [9, 500])
def test_each_valid_transition_obeys_cartpole(backend: str, limit: int) -> None:
    vector = make(backend, max_episode_steps=limit)
    vector.reset()
    rng = np.random.default_rng(1)
    model: Any = CartPoleEnv()
    model.reset()
    over, first = np.zeros(6, bool), np.ones(6, bool)
    lengths = np.zeros(6, np.int64)
    seen = dict.fromkeys(["burnt", "terminated", "truncated"], 0)
    for _ in range(150):
        assert np.array_equal(vector.first, first)
        before, action = vector.obs.copy(), rng.integers(0, 2, 6)
        step = vector.step(action)
        assert step.valid is not None
        assert np.array_equal(step.valid, ~over)
        for i in np.flatnonzero(over):
            assert np.abs(vector.obs[i]).max() <= 0.05, "a new episode begins near the origin"
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (0.0, False, False)
        for i in np.flatnonzero(~over):
            model.state, model.steps_beyond_terminated = tuple(before[i].astype(np.float64)), None
            obs, reward, terminated, _, _ = model.step(int(action[i]))
            np.testing.assert_allclose(vector.obs[i], obs, rtol=1e-4, atol=1e-5)
            lengths[i] += 1
            at_limit = lengths[i] >= limit
            if min(abs(abs(obs[2]) - THETA), abs(abs(obs[0]) - X)) > 1e-4 and not (at_limit and terminated):
                assert (step.terminated[i], step.truncated[i]) == (terminated, at_limit)
            assert step.reward[i] == reward
        done = step.terminated | step.truncated
        assert [i for i, _ in step.finals] == np.flatnonzero(done).tolist()
        assert all(np.array_equal(obs, vector.obs[i]) for i, obs in step.finals)
        assert [(end.env, end.length, end.return_) for end in step.episodes] == [
            (i, lengths[i], float(lengths[i])) for i in np.flatnonzero(done)
        ]
        seen["burnt"] += int(over.sum())
        seen["terminated"] += int(step.terminated.sum())
        seen["truncated"] += int(step.truncated.sum())
        lengths[done] = 0
        first, over = over, done
    assert seen["burnt"] > 10
    assert seen["terminated" if limit == 500 else "truncated"] > 10
    vector.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_balancing_ends_by_truncation_at_500(backend: str) -> None:
    vector = make(backend, num_envs=3)
    vector.reset()
    for t in range(1, 501):
        step = vector.step(balance(vector.obs))
        assert step.truncated.all() == (t == 500)
        assert not step.terminated.any()
    assert [(end.length, end.return_, end.episode) for end in step.episodes] == [(500, 500.0, 0)] * 3
    vector.step(balance(vector.obs))
    assert vector.first.all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_seeds_give_equal_runs_and_others_do_not(backend: str) -> None:
    def run(seed: int) -> np.ndarray:
        vector = make(backend, seed=seed)
        vector.reset()
        rng = np.random.default_rng(0)
        rows = []
        for _ in range(60):
            vector.step(rng.integers(0, 2, 6))
            rows.append(vector.obs.copy())
        vector.close()
        return np.stack(rows)

    one, again, other = run(4), run(4), run(5)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_snapshots_and_no_wrappers(backend: str) -> None:
    vector = make(backend)
    assert (vector.can_snapshot, vector.reset_steps) == (False, True)
    with pytest.raises(EnvError, match="no exact snapshots"):
        vector.snapshot()
    with pytest.raises(ConfigError, match=r"env\.wrappers with env\.backend"):
        make(backend, wrappers=["keep_obs"])
    with pytest.raises(ConfigError, match=r"env\.frame_stack 4 with env\.backend"):
        make(backend, frame_stack=4)
    with pytest.raises(ConfigError, match=r"cannot be built: .*unexpected keyword argument 'gravity'"):
        make(backend, kwargs={"gravity": 3})


def test_environment_without_a_vector_version() -> None:
    with pytest.raises(ConfigError, match=r"Pendulum-v1 has no vector version.*CartPole-v1"):
        make("vector", env="Pendulum-v1")


def test_a_vector_version_that_shows_something_else_is_refused() -> None:
    pytest.importorskip("ale_py", reason="the extra `envs` is not installed")
    fix = r"(?s)uint8.*as a single environment.*env\.id=Pong-v5 env\.backend=envpool.*env\.kwargs\.game=Pong"
    with pytest.raises(ConfigError, match=fix):
        make("vector", env="ALE/Pong-v5")
    with pytest.raises(ConfigError) as refused:
        make("vector", env="Acrobot-v1")
    assert "CartPole-v1" in str(refused.value)
    assert "ALE/" not in str(refused.value)


@needs_envpool
def test_envpool_clips_boxes_and_names_the_nearest_environment() -> None:
    runs = []
    for scale in (2.0, 50.0):
        vector = make("envpool", env="Pendulum-v1")
        vector.reset()
        for _ in range(5):
            vector.step(np.full((6, 1), scale, np.float32))
        runs.append(vector.obs.copy())
    assert np.array_equal(*runs)
    with pytest.raises(ConfigError, match=r"EnvPool has no environment 'CartPol-v1'\. Did you mean 'CartPole-v1'"):
        make("envpool", env="CartPol-v1")


def test_envpool_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match=r'pip install "distrl\[envs\]"'):
        make("envpool")


class Scripted(NextStepResetEnv):
    """Gives what a test tells it to."""

    def __init__(self, obs: Any, reward: Any):
        from gymnasium.spaces import Box, Discrete

        super().__init__(Box(-1, 1, (2,)), Discrete(2), 3, lambda i, n: 0, "Scripted-v0")
        self.out = obs, np.asarray(reward, np.float64)

    def _raw_reset(self) -> Any:
        return np.zeros((3, 2), np.float32)

    def _raw_step(self, action: Any) -> Any:
        return *self.out, np.zeros(3, bool), np.zeros(3, bool)


@pytest.mark.parametrize(
    ("obs", "reward", "expected"),
    [
        (np.zeros((3, 2)), [0, np.nan, 0], "environment 1 of Scripted-v0 .episode 0, step 1. gave reward nan"),
        (np.array([[0, 0], [0, 0], [0, np.nan]]), [0, 0, 0], "environment 2 of Scripted-v0"),
        (np.zeros((3, 1)), [0, 0, 0], r"do not fit Box\(2,\) float32 in \[-1, 1\]: shape \(3, 1\), expected \(3, 2\)"),
    ],
    ids=["reward", "obs", "shape"],
)
def test_bad_values_are_named(obs: np.ndarray, reward: list[float], expected: str) -> None:
    vector = Scripted(obs, reward)
    vector.reset()
    with pytest.raises(EnvError, match=expected):
        vector.step(np.zeros(3, np.int64))
