"""A grid of returns that is too narrow is told once, with the range that was seen, whatever learns on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.train import train
from tests.helpers import config, events
from tests.runtime.off_policy_config import dqn_config
from tests.runtime.test_text_runs import text_config

NARROW = {"name": "categorical", "v_min": -0.01, "v_max": 0.01, "size": 11}
SAC = {
    "name": "sac",
    "rollout_steps": 4,
    "batch_size": 16,
    "learning_starts": 32,
    "replay_ratio": 0.25,
    "critic_hidden": [16],
    "critic_head": NARROW,
}
PENDULUM = {"id": "Pendulum-v1"}
WARNING = r"returns from (\S+) to (\S+) do not fit into the support from v_min -0\.01 to v_max 0\.01"


def minibatches(name: str) -> dict[str, Any]:
    return {} if name in ("a2c", "impala") else {"epochs": 1, "minibatches": 1}


def policy_gradient(name: str, head: Any = NARROW) -> dict[str, Any]:
    """A run of a second on CartPole, which pays 1 a step."""
    algorithm = {"name": name, "rollout_steps": 16, "critic_head": head, **minibatches(name)}
    return {**config(stop={"updates": 3}), "algorithm": algorithm}


RUNS: dict[str, Any] = {
    "dqn": lambda: dqn_config(algorithm={"head": NARROW}),
    "ppo": lambda: policy_gradient("ppo"),
    "impala": lambda: policy_gradient("impala"),
    "sac": lambda: {**dqn_config(), "env": {**config()["env"], **PENDULUM}, "algorithm": SAC},
    "tokens": lambda: text_config(
        language={"critic_head": NARROW}, algorithm={"name": "ppo_tokens", "group_size": 1, "minibatches": 1}
    ),
}


@pytest.mark.parametrize("learner", RUNS)
def test_a_support_that_cannot_hold_the_returns_is_told_once_with_their_range(
    learner: str, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distrl.runtime.loop.loop.DIAGNOSE_SECONDS", 0.0)  # looks at every update of this second
    run = {**RUNS[learner](), "name": "run"}
    train(run, runs_dir=tmp_runs)
    (text,) = [text for text in warnings_of(tmp_runs) if "do not fit" in text]
    seen = re.search(WARNING, text)
    assert seen is not None, text
    assert float(seen[1]) < -0.01 if learner == "sac" else float(seen[2]) > 0.01
    key = {"dqn": "algorithm.head", "tokens": "language.critic_head"}.get(learner, "algorithm.critic_head")
    assert text.startswith(f"{key}: ")
    assert f"Set {key}.v_min and {key}.v_max wider" in text


@pytest.mark.parametrize("head", ["quantile", {**NARROW, "v_min": -10, "v_max": 100}])
def test_what_fits_is_not_told(head: Any, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distrl.runtime.loop.loop.DIAGNOSE_SECONDS", 0.0)
    train(policy_gradient("ppo", head), runs_dir=tmp_runs)
    assert not any("do not fit" in text for text in warnings_of(tmp_runs))


def warnings_of(runs: Path) -> list[str]:
    return [warning["text"] for warning in events(runs / "run", "warning")]
