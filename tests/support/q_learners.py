"""Value-based learners with small networks, and random replay batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig

OBSERVATION = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION = spaces.Discrete(4)


def make_q(
    name: str = "dqn",
    *,
    observation: Any = OBSERVATION,
    action: Any = ACTION,
    hidden: tuple[int, ...] = (16,),
    activation: str = "relu",
    recurrent: str | None = None,
    seed: int = 0,
    build: dict[str, Any] | None = None,
    **config: Any,
) -> Any:
    """An algorithm with its default config, but for `config`; `build` says how it computes: compile, bf16."""
    cls = register.get("algorithm", name)
    checked = cls.Config(name=name, **config)
    model_config = ModelConfig(hidden=list(hidden), activation=activation, recurrent=recurrent)
    options = {"normalize_obs": False, "clip_obs": 10.0, "seed": seed}
    algorithm = cls(checked, cls.build_model(observation, action, model_config, checked, **options), **(build or {}))
    algorithm.resolve(0, 1000)
    return algorithm


def make_batch(rows: int = 8, seed: int = 0, masked: bool = False, **columns: torch.Tensor) -> Columns:
    """Random transitions of `OBSERVATION` and `ACTION`; a quarter of them are true ends."""
    rng = np.random.default_rng(seed)
    mask = rng.random((2, rows, 4)) < 0.7
    mask[..., 0] = True
    made: dict[str, torch.Tensor] = {
        "obs": torch.from_numpy(rng.standard_normal((rows, 3), dtype=np.float32)),
        "action": torch.from_numpy(rng.integers(0, 4, rows)),
        "reward": torch.from_numpy(rng.standard_normal(rows, dtype=np.float32)),
        "discount": torch.from_numpy(np.where(rng.random(rows) < 0.25, 0.0, 0.9).astype(np.float32)),
        "next_obs": torch.from_numpy(rng.standard_normal((rows, 3), dtype=np.float32)),
        "weight": torch.from_numpy(rng.uniform(0.2, 1.0, rows).astype(np.float32)),
    }
    if masked:
        made |= {"mask": torch.from_numpy(mask[0]), "next_mask": torch.from_numpy(mask[1])}
    return Columns(**{**made, **columns})


def parameters(algorithm: Any) -> torch.Tensor:
    """All learned parameters as one vector."""
    return torch.cat([part.flat.data for part in algorithm.modules.values()])
