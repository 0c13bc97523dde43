"""Runs of PG-Rainbow, CeSoR and stock DQN, end to end: they repeat, resume to the bit, and play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.train import train
from tests.helpers import config, merged, parameter_hash, summary_of

STOCK = {"stock": {"gamma": 1.0, "start": [0, 10], "scale": 10}}
RUNS: dict[str, dict[str, Any]] = {
    "pg_rainbow": {
        "env": {"normalize_obs": True},
        "algorithm": {"name": "pg_rainbow", "rollout_steps": 16, "side_start": 100, "side_batch": 16},
    },
    "cesor": {
        "env": {
            "id": "distrl.control.envs.wrappers.context:GuardedPath",
            "wrappers": ["choose_context"],
            "max_episode_steps": 20,
        },
        "algorithm": {"name": "cesor", "rollout_steps": 24, "episodes": 10},
        "stop": {"env_steps": 800},
    },
    "stock_dqn": {
        "env": {"id": "distrl/RiskyChoice-v0", "wrappers": [STOCK]},
        "algorithm": {"name": "stock_dqn", "gamma": 1.0, "stock_scale": 10, "learning_starts": 32, "batch_size": 16},
        "store": {"capacity": 300},
    },
}


def run_config(name: str, run: str, **changes: Any) -> dict[str, Any]:
    own = {"checkpoint": {"every": 0}, "stop": {"updates": 8}, **RUNS[run]}
    base = {key: value for key, value in config(name).items() if key != "algorithm"}
    return merged(merged(base, own), changes)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_repeats_resumes_and_plays(run: str, tmp_runs: Path) -> None:
    undisturbed = parameter_hash(run_config("undisturbed", run, eval={"every": 200, "episodes": 2}), tmp_runs)
    assert parameter_hash(run_config("again", run), tmp_runs) == undisturbed
    train(run_config("cut", run, stop={"updates": 5}), runs_dir=tmp_runs)
    train(run_config("cut", run), runs_dir=tmp_runs, resume=True)
    assert summary_of(tmp_runs / "cut")["parameter_hash"] == undisturbed
