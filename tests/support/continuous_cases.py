"""Learners of continuous control with small networks, and replay batches for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from distrl.base.columns import Columns
from distrl.base.registry import register

OBSERVATION = spaces.Box(-1.0, 1.0, (3,))
ACTION = spaces.Box(-2.0, 4.0, (2,))

#: every learner, with options that switch on what it can remember between updates
LEARNERS: dict[str, dict[str, Any]] = {
    "sac": {"state_dependent": True},
    "tqc": {"critic_head": {"name": "quantile", "size": 5}},
    "dsac": {},
    "dsac_quantile": {"critic_head": {"name": "quantile", "size": 5}, "risk": {"name": "cvar", "level": 0.5}},
    "redq": {"critics": 4, "policy_interval": 2, "replay_ratio": 2, "layer_norm": True, "reset_every": 4},
    "td3": {},
    "ddpg": {},
    "aro_ddpg": {},
}


def make_learner(name: str, seed: int = 0, hidden: tuple[int, ...] = (16, 16), **options: Any) -> Any:
    """A learner as the runtime builds it, schedules resolved; the option `build` says how it computes."""
    build = options.pop("build", {})
    spaces_ = options.pop("spaces", (OBSERVATION, ACTION))
    normalize_obs = options.pop("normalize_obs", False)
    learner = register.get("algorithm", name)
    config = learner.Config.model_validate({"name": name, **options})
    model_config = SimpleNamespace(torso="auto", hidden=list(hidden), activation="relu", recurrent=None)
    model = learner.build_model(*spaces_, model_config, config, seed=seed, normalize_obs=normalize_obs)
    made = learner(config, model, **build)
    made.resolve(0, 1000)
    made.warming_up = False
    return made


def make_batch(rows: int = 32, seed: int = 0, **columns: Any) -> Columns:
    """Transitions with a few true ends among them."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    action = rng.uniform(ACTION.low, ACTION.high, (rows, *ACTION.shape)).astype(np.float32)
    batch = Columns(
        obs=normal(rows, 3),
        action=torch.from_numpy(action),
        reward=normal(rows),
        discount=torch.from_numpy((0.9 * (rng.random(rows) > 0.2)).astype(np.float32)),
        next_obs=normal(rows, 3),
        weight=torch.from_numpy(rng.uniform(0.2, 1.0, rows).astype(np.float32)),
        index=torch.arange(rows),
        generation=torch.zeros(rows, dtype=torch.int64),
    )
    return batch.with_(**columns)


def learn(learner: Any, batches: Any, seed: int = 0) -> dict[str, float]:
    """Gradient steps as the learner takes them; the last one's metrics."""
    rng = np.random.default_rng(seed)
    learner.begin_steps()
    metrics: dict[str, Any] = {}
    for batch in batches:
        metrics = learner.update(batch, rng).metrics or metrics
    learner.end_steps()
    return {name: float(value) for name, value in metrics.items()}


def weights(learner: Any) -> torch.Tensor:
    """Everything that learning moves, targets and buffers included."""
    found = []
    for part in learner.modules.values():
        found += [part.flat.data, *([part.target_flat.data] if part.target is not None else [])]
    found += [buffer.reshape(-1) for buffer in learner.model.buffers()]
    return torch.cat([tensor.detach().flatten() for tensor in found])
