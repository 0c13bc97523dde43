"""Wrappers, and how a config names environments and wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from distrl.base.errors import ConfigError, EnvError, UserError
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.wrappers.basic import FrameStack
from tests.support import toy_envs
from tests.support.envs import env_config as Config


def test_keep_obs_hides_velocities() -> None:
    env = make_env(Config(id="CartPole-v1", wrappers=[{"keep_obs": {"indices": [0, 2]}}]))
    plain = make_env(Config(id="CartPole-v1"))
    assert env.observation_space.shape == (2,)
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0][[0, 2]])
    assert np.array_equal(env.step(1)[0], plain.step(1)[0][[0, 2]])
    assert env.observation_space.contains(env.step(0)[0])


def test_reward_scale() -> None:
    env = make_env(Config(id=toy_envs.TruncatingEnv, wrappers=[{"reward_scale": {"scale": 0.5}}]))
    env.reset(seed=0)
    assert [env.step(0)[1] for _ in range(3)] == [0.5, 1.0, 1.5]


def test_time_aware() -> None:
    env = make_env(Config(id="CartPole-v1", max_episode_steps=4, wrappers=["time_aware"]))
    times = [env.reset(seed=0)[0][-1], *(env.step(t % 2)[0][-1] for t in range(4)), env.reset()[0][-1]]
    assert times == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert env.observation_space.contains(env.step(0)[0])


def test_wrappers_go_innermost_first() -> None:
    env = make_env(Config(id="CartPole-v1", wrappers=[{"keep_obs": {"indices": [1]}}, "time_aware"], frame_stack=2))
    assert env.observation_space.shape == (2, 2)


@pytest.mark.parametrize(
    ("shape", "stacked"), [((4,), (3, 4)), ((5, 6), (3, 5, 6)), ((5, 6, 3), (5, 6, 9)), ((2, 5, 6), (6, 5, 6))]
)
def test_frame_stack_layout(shape: tuple[int, ...], stacked: tuple[int, ...]) -> None:
    class Frames(toy_envs.ToyEnv):
        """Writes every frame into the same memory."""

        observation_space = Box(0, 255, shape, np.uint8)
        memory = np.zeros(shape, np.uint8)

        def observe(self, action: Any) -> Any:
            self.memory[:] = 10 * self.t
            return self.memory

    env = FrameStack(Frames(), 3)
    assert env.observation_space.shape == stacked

    def frames(obs: np.ndarray) -> list[int]:
        assert env.observation_space.contains(obs)
        parts = obs if len(shape) < 3 else np.split(obs, 3, axis=2 if shape[2] == 3 else 0)
        return [int(part.max()) for part in parts]

    obs, _ = env.reset(seed=0)
    assert frames(obs) == [0, 0, 0]
    seen = [env.step(0)[0] for _ in range(3)]
    assert [frames(obs) for obs in seen] == [[0, 0, 10], [0, 10, 20], [10, 20, 30]]
    assert frames(env.reset()[0]) == [0, 0, 0]


def test_frame_stack_of_a_dict() -> None:
    class Parts(toy_envs.ToyEnv):
        observation_space = Dict(a=Box(-1, 100, (2,)), b=Box(-1, 1, (1,)))

        def observe(self, action: Any) -> Any:
            return {"a": np.full(2, self.t, np.float32), "b": np.zeros(1, np.float32)}

    env = FrameStack(Parts(), 2)
    env.reset(seed=0)
    obs = env.step(0)[0]
    assert obs["a"].tolist() == [[0, 0], [1, 1]]
    assert obs["b"].shape == (2, 1)
    with pytest.raises(ConfigError, match=r"frame_stack: cannot stack Discrete 0\.\.15"):
        make_env(Config(id="FrozenLake-v1", frame_stack=4))


def test_names_of_environments() -> None:
    by_id, by_path = make_env(Config(id="CartPole-v1")), make_env(Config(id="tests.support.toy_envs:ToyEnv"))
    by_call = make_env(Config(id=lambda length: toy_envs.ToyEnv(length), kwargs={"length": 3}, max_episode_steps=2))
    by_module = make_env(Config(id="gymnasium:CartPole-v1"))
    assert "PassiveEnvChecker" not in str(by_id) + str(by_module)
    assert "TimeLimit<OrderEnforcing<CartPole" in str(by_id)
    assert type(by_path).__name__ == "ToyEnv"
    by_call.reset(seed=0)
    assert [by_call.step(0)[3] for _ in range(2)] == [False, True]


def test_time_limit_override() -> None:
    env = make_env(Config(id="Pendulum-v1", max_episode_steps=3))
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(3)] == [False, False, True]


def needy() -> gymnasium.Env[Any, Any]:
    import package_that_is_not_there  # noqa: F401

    raise AssertionError


def refusing() -> gymnasium.Env[Any, Any]:
    raise OSError("no such robot")


WRONG: dict[str, tuple[dict[str, Any], type[UserError], str]] = {
    "id": ({"id": "CartPol-v1"}, ConfigError, "it is not registered with gymnasium. Did you mean 'CartPole-v1'?"),
    "version": ({"id": "CartPole-v9"}, ConfigError, "Did you mean 'CartPole-v1'?"),
    "namespace": ({"id": "MiniGrid/Nothing-v0"}, ConfigError, "pip install minigrid, and add `imports: [minigrid]`"),
    "attribute": ({"id": "tests.support.toy_envs:ToyEn"}, ConfigError, "did you mean 'ToyEnv'?"),
    "module": ({"id": "no_such_module:X"}, ConfigError, "Install it, or name its file under `imports:`."),
    "not callable": ({"id": "math:pi"}, ConfigError, "which cannot be called"),
    "not an env": ({"id": "os:getcwd"}, EnvError, "is a builtins.str, expected a gymnasium.Env"),
    "keyword": ({"id": "CartPole-v1", "kwargs": {"gravity": 1}}, ConfigError, "Check the keyword arguments under"),
    "package": ({"id": needy}, ConfigError, "not installed: No module named 'package_that_is_not_there'"),
    "constructor": ({"id": refusing}, EnvError, "environment 'refusing' cannot be built: OSError: no such robot"),
    "wrapper": ({"id": "CartPole-v1", "wrappers": ["keepobs"]}, ConfigError, "did you mean 'keep_obs'?"),
    "wrapper keyword": ({"id": "CartPole-v1", "wrappers": ["keep_obs"]}, ConfigError, "wrapper 'keep_obs' cannot be"),
    "indices": (
        {"id": "CartPole-v1", "wrappers": [{"keep_obs": {"indices": [4]}}]},
        ConfigError,
        "keep_obs: indices [4] for an observation of 4 entries.",
    ),
    "no limit": ({"id": toy_envs.ToyEnv, "wrappers": ["time_aware"]}, ConfigError, "has no time limit"),
    "not a vector": (
        {"id": "FrozenLake-v1", "wrappers": ["time_aware"]},
        ConfigError,
        "needs a Box observation of 1 dimension, not Discrete 0..15",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_names_and_arguments(case: str) -> None:
    config, kind, expected = WRONG[case]
    with pytest.raises(kind) as caught:
        make_vector(Config(**config), 1, lambda i, n: n)
    assert expected in str(caught.value)


def test_missing_extra_is_named() -> None:
    class Needy(toy_envs.ToyEnv):
        def __init__(self) -> None:
            raise gymnasium.error.DependencyNotInstalled("Box2D is not installed, you can install it")

    with pytest.raises(ConfigError, match=r'pip install "distrl\[envs\]"'):
        make_env(Config(id=Needy))


def test_discrete_observations_keep_their_dtype() -> None:
    vector = make_vector(Config(id="FrozenLake-v1"), 2, lambda i, n: n)
    vector.reset()
    assert (vector.obs.dtype, vector.obs.shape) == (np.int64, (2,))
    assert isinstance(vector.observation_space, Discrete)
