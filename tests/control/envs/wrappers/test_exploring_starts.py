"""Episodes that begin anywhere."""

from __future__ import annotations

import gymnasium
import pytest

from distrl.base.errors import ConfigError
from distrl.control.envs.library.risky_path import RiskyPath
from distrl.control.envs.make import make_env
from distrl.control.envs.wrappers.exploring_starts import ExploringStarts
from tests.support.envs import env_config


def test_every_state_but_the_goal_is_a_start_in_its_share() -> None:
    wrapper = {"exploring_starts": {"share": 0.5}}
    env = make_env(env_config(id="distrl/RiskyPath-v0", kwargs={"observation": "index"}, wrappers=[wrapper]))
    starts = [env.reset(seed=seed)[0] for seed in range(800)]
    assert set(starts) == set(range(14))
    assert starts.count(10) / 800 == pytest.approx(0.5 + 0.5 / 14, abs=0.06)
    assert starts[:20] == [env.reset(seed=seed)[0] for seed in range(20)]
    assert env.reset(seed=0, options={"state": 3})[0] == 3


def test_no_share_changes_nothing() -> None:
    env = ExploringStarts(RiskyPath(observation="index"), share=0.0)
    assert {env.reset(seed=seed)[0] for seed in range(20)} == {10}


def test_misuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="no tabular environment"):
        ExploringStarts(gymnasium.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="share is 2"):
        ExploringStarts(RiskyPath(), share=2)
