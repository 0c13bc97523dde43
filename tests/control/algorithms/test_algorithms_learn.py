"""Every algorithm learns: CartPole in the serial back end, to a mean return of 150 (random actions: 22)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.train import train

SMALL_BATCHES: dict[str, Any] = {"gamma": 0.98, "learning_rate": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {"learning_rate": 1e-3},
    "impala": {"optimizer": "adam", "learning_rate": 2e-3},
    "appo": {**SMALL_BATCHES, "rollout_steps": 32, "epochs": 4, "minibatches": 1, "lam": 0.9, "kl_coefficient": 0.1},
    "ppo": {**SMALL_BATCHES, "rollout_steps": 32, "epochs": 10, "minibatches": 1, "lam": 0.8},
    "spo_simple": {**SMALL_BATCHES, "rollout_steps": 32, "epochs": 10, "minibatches": 1, "lam": 0.8},
    "trpo": {"rollout_steps": 128, "max_kl": 0.02, "critic_epochs": 10},
}


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_learns_cartpole(name: str, staleness: int, tmp_path: Path):
    summary = train(
        {
            "name": "smoke",
            "seed": 1,
            "backend": "serial",
            "deterministic": True,  # the same run everywhere, staleness included
            "env": {"id": "CartPole-v1", "num_envs": 8, "streams": 2},
            "algorithm": {"name": name, **SETTINGS[name]},
            "store": {"max_staleness": staleness},
            "logging": {"tensorboard": False, "console": "quiet"},
            "stop": {"env_steps": 100000, "return_mean": 150},
        },
        runs_dir=tmp_path,
    )
    assert summary["env_steps"] < 100000, f"no mean return of 150 within 100,000 steps: {summary['stopped']}"
