"""Every registered wrapper is built from a config and stepped."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from distrl.base.registry import register
from distrl.config.load import load_config
from distrl.control.envs.make import make_env

TABULAR = {"id": "distrl/RiskyPath-v0"}
VECTOR = {"id": "CartPole-v1"}
CONTEXT = {"id": "distrl.control.envs.wrappers.context:GuardedPath"}
ATARI = {"id": "ALE/Pong-v5", "kwargs": {"frameskip": 1}}
#: Wrapper -> environment and arguments; a new wrapper needs an entry.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "atari": (ATARI, {"noop_max": 2}),
    "choose_context": (CONTEXT, {}),
    "exploring_starts": (TABULAR, {"share": 1.0}),
    "frame_stack": (VECTOR, {"frames": 3}),
    "keep_obs": (VECTOR, {"indices": [0, 2]}),
    "reward_scale": (VECTOR, {"scale": 0.5}),
    "stock": (VECTOR, {"gamma": 0.9}),
    "target_return": (VECTOR, {"gamma": 0.9, "start": [0.0, 10.0]}),
    "time_aware": (VECTOR, {}),
}


@pytest.mark.parametrize("name", [method.name for method in register.methods("wrapper")])
def test_a_config_reaches_the_wrapper(name: str) -> None:
    if name == "atari" and find_spec("ale_py") is None:
        pytest.skip("needs ale-py")
    env_section, arguments = CASES[name]
    section = {**env_section, "wrappers": [{name: arguments}]}
    run = {"name": "test", "env": section, "algorithm": {"name": "ppo"}, "stop": {"updates": 1}}
    env = make_env(load_config(run).env)
    try:
        obs, _ = env.reset(seed=0)
        env.action_space.seed(0)
        assert env.observation_space.contains(obs)
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    finally:
        env.close()
