"""A deterministic DQN run of a second."""

from __future__ import annotations

from typing import Any

from tests.helpers import config, merged


def dqn_config(name: str = "run", **changes: Any) -> dict[str, Any]:
    """CartPole, 4 environments in 4 streams, 4 steps an update, prioritized 3-step quantile DQN on 200 transitions."""
    base = {
        "algorithm": {
            "name": "dqn",
            "rollout_steps": 4,
            "batch_size": 16,
            "learning_starts": 32,
            "replay_ratio": 0.25,
            "target_interval": 5,
            "epsilon": {"from": 1.0, "to": 0.1, "over": 300},
        },
        "store": {"capacity": 200},
        "stop": {"updates": 20},
    }
    algorithm = changes.pop("algorithm", {})
    run = {**config(name), **base}
    run["algorithm"] = {**base["algorithm"], **algorithm}  # type: ignore[dict-item]
    return merged(run, changes)
