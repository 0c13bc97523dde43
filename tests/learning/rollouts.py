"""Algorithms with small networks, and random rollouts that obey the schema, for every kind of space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces

from distrl.base.columns import Columns, tree_map, tree_stack
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.on_policy.base import OnPolicy
from distrl.control.models.actor_critic import build_actor_critic
from distrl.experience.rollout import check_rollout
from distrl.learning.shards import Shards

ALGORITHMS = ["a2c", "appo", "impala", "ppo", "spo_simple", "trpo"]
#: trpo refuses memory
RECURRENT = ["a2c", "appo", "impala", "ppo", "spo_simple"]

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
OBSERVATIONS: dict[str, Space[Any]] = {"vector": VECTOR, "dict": spaces.Dict(place=VECTOR, phase=spaces.Discrete(4))}
ACTIONS: dict[str, Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(arm=spaces.Box(-1.0, 1.0, (2,), np.float32), hand=spaces.Discrete(3)),
}


def make_algorithm(
    name: str,
    observation: Space[Any] = VECTOR,
    action: Space[Any] = ACTIONS["discrete"],
    *,
    shards: Shards | int = 1,
    recurrent: str | None = None,
    hidden: tuple[int, ...] = (16, 16),
    seed: int = 0,
    **config: Any,
) -> Any:
    """An `OnPolicy` with its default config, but for `config`."""
    cls = register.get("algorithm", name)
    model_config = ModelConfig(hidden=list(hidden), recurrent=recurrent, recurrent_size=8)
    model = build_actor_critic(observation, action, model_config, seed=seed)
    shards = Shards(shards) if isinstance(shards, int) else shards
    algorithm: OnPolicy = cls(cls.Config(name=name, **config), model, shards=shards)
    algorithm.resolve(0, 1000)
    return algorithm


def make_rollout(
    algorithm: OnPolicy,
    observation: Space[Any] = VECTOR,
    action: Space[Any] = ACTIONS["discrete"],
    *,
    steps: int = 8,
    envs: int = 4,
    seed: int = 1,
    masks: bool = False,
    burnt: bool = False,
    stale: float = 0.0,
) -> Columns:
    """Random observations and rewards, with actions of the algorithm's present policy.

    Args:
        masks: With random action masks.
        burnt: Every end of an episode costs the next step, which is not valid.
        stale: Standard deviation of noise on the behavior's parameters: an older policy.
    """
    rng = np.random.default_rng(seed)
    policy, actions = algorithm.policy, algorithm.policy.actions
    state, first = policy.initial_state(envs), np.ones(envs, bool)
    burns = np.zeros(envs, bool)
    start, rows, finals, positions = state, [], [], []
    for t in range(steps):
        obs = _sample(observation, envs, rng)
        with torch.no_grad():
            params, state = policy(obs, state, torch.from_numpy(first))
        params = params + stale * torch.from_numpy(rng.standard_normal(params.shape).astype(np.float32))
        mask = _mask(action, envs, rng) if masks else None
        chosen = actions.sample(params, torch.from_numpy(actions.draw_noise(rng, (envs,))), mask)
        terminated, truncated = (rng.random(envs) < 0.15) & ~burns, (rng.random(envs) < 0.15) & ~burns
        rows.append(
            {
                "obs": obs,
                "action": chosen,
                "logp": actions.logp(params, chosen, mask),
                "params": params,
                "reward": torch.from_numpy(rng.standard_normal(envs).astype(np.float32)),
                "terminated": torch.from_numpy(terminated),
                "truncated": torch.from_numpy(truncated),
                "first": torch.from_numpy(first),
                "valid": torch.from_numpy(~burns),
                **({"mask": mask} if masks else {}),
            }
        )
        for b in np.flatnonzero(truncated & ~terminated):
            positions.append((t, int(b)))
            finals.append(tree_map(lambda leaf: leaf[0], _sample(observation, 1, rng)))
        done = terminated | truncated
        first, burns = (burns, done) if burnt else (done, burns)
    columns: dict[str, Any] = tree_stack(rows)
    if not burnt:
        del columns["valid"]
    last_obs = _sample(observation, envs, rng)
    empty = tree_map(lambda leaf: leaf[:0], last_obs)
    rollout = Columns(
        **columns,
        last_obs=last_obs,
        final_obs=tree_stack(finals) if finals else empty,
        final_index=torch.tensor(positions, dtype=torch.int64).reshape(-1, 2),
        version=torch.zeros(envs, dtype=torch.int64),
        **({} if start is None else {"state": start}),
    )
    return check_rollout(rollout)


def update(algorithm: OnPolicy, rollout: Columns, number: int = 0) -> dict[str, float]:
    """One update, with the generator of that number."""
    return algorithm.update(rollout, np.random.default_rng(number)).metrics


def weights(algorithm: OnPolicy) -> torch.Tensor:
    """A copy of all parameters."""
    return algorithm.flat.data.clone()


def whole_gradient(algorithm: OnPolicy, rollout: Columns) -> torch.Tensor:
    """The gradient of `loss` over the whole rollout as one minibatch."""
    with torch.no_grad():
        rows = algorithm.training_rows(algorithm.prepare(rollout))
    algorithm.gradient(algorithm.prepare_minibatch(rows), algorithm.loss)
    return algorithm.flat.grad.clone()


def _sample(space: Space[Any], count: int, rng: np.random.Generator) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _sample(child, count, rng) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return torch.from_numpy(rng.integers(0, int(space.n), count))
    assert isinstance(space, spaces.Box)
    return torch.from_numpy(rng.standard_normal((count, *space.shape)).astype(np.float32))


def _mask(space: Space[Any], count: int, rng: np.random.Generator) -> Any:
    """Random masks that leave at least one choice; a Dict's entry that takes none is left out."""
    if isinstance(space, spaces.Dict):
        masks = {name: _mask(child, count, rng) for name, child in space.spaces.items()}
        return {name: mask for name, mask in masks.items() if mask is not None}
    if isinstance(space, spaces.Discrete):
        return torch.cat([_choices(int(space.n), count, rng)], -1)
    if isinstance(space, spaces.MultiDiscrete):
        return torch.cat([_choices(int(n), count, rng) for n in space.nvec], -1)
    if isinstance(space, spaces.MultiBinary):
        return torch.from_numpy(rng.random((count, math.prod(space.shape))) < 0.7)
    return None


def _choices(n: int, count: int, rng: np.random.Generator) -> torch.Tensor:
    allowed = rng.random((count, n)) < 0.6
    allowed[np.arange(count), rng.integers(0, n, count)] = True
    return torch.from_numpy(allowed)


def maskable(action: str) -> bool:
    """Whether a named action space takes masks."""
    return action != "box"
