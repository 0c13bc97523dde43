"""Policies with random weights, as if trained: no logit is close to another, no statistic is the identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distrl.config.load import load_config
from distrl.control.envs.make import make_env
from distrl.control.models.actor_critic import build_actor_critic
from distrl.deploy.policy_file import SavedPolicy
from distrl.models.parameters.published import pack_weights

MakePolicy = Callable[..., Path]


@pytest.fixture
def make_policy(tmp_path: Path) -> MakePolicy:
    """make_policy(env_id, "model.recurrent=gru", ...) -> path of a policy file."""

    def make(env_id: str, *overrides: str) -> Path:
        raw: dict[str, Any] = {
            "name": "p",
            "env": {"id": env_id},
            "algorithm": {"name": "ppo"},
            "model": {"hidden": [16], "recurrent_size": 12},
            "stop": {"updates": 1},
        }
        config = load_config(raw, overrides)
        env = make_env(config.env)
        spaces = env.observation_space, env.action_space
        env.close()
        model = build_actor_critic(
            *spaces, config.model, normalize_obs=config.env.normalize_obs, clip_obs=config.env.clip_obs, seed=3
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            model.policy.head.weight.normal_(generator=generator)
            normalizer = model.policy.normalizer
            if normalizer.enabled:
                mean = torch.rand(normalizer.size, generator=generator)
                normalizer.load(mean, 0.5 + mean, 100.0)
        path = tmp_path / "policy.safetensors"
        SavedPolicy(config, *spaces, pack_weights(model, 7), {"run": "p", "update": 7}).save(path)
        return path

    return make
