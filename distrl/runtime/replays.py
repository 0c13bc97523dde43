"""From a plan to the replay of its learner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from distrl.config.schema import RunConfig
from distrl.envs.make import make_vector
from distrl.store.replay import Replay
from distrl.store.replay_layout import bytes_per_transition, require_memory
from distrl.store.replay_priorities import PrioritySettings

if TYPE_CHECKING:
    from distrl.runtime.build import Plan


def build_replay(plan: Plan) -> Replay:
    """An empty replay in this process.

    Raises:
        ConfigError, ResourceError: Numbers that cannot be, or more than fits.
    """
    config, algorithm = plan.config, plan.algorithm_config
    return Replay(
        plan.observation_space,
        plan.action_space,
        config.store.capacity,
        lines=config.env.num_envs,
        n_step=algorithm.n_step,
        prioritized=PrioritySettings(algorithm.priority_alpha) if algorithm.prioritized else None,
        frame_stack=config.env.frame_stack,
        folder=Path(plan.folder) / "replay" if config.store.memory_map else None,
        memory_map=config.store.memory_map,
        masked=plan.masked,
    )


def transition_bytes(plan: Plan) -> int | None:
    """Bytes of one transition in the replay; None where there is none."""
    if not plan.off_policy:
        return None
    return bytes_per_transition(
        plan.observation_space,
        plan.action_space,
        frame_stack=plan.config.env.frame_stack,
        masked=plan.masked,
        prioritized=plan.algorithm_config.prioritized,
    )


def require_room(plan: Plan) -> None:
    """Refuse a replay that this machine's memory cannot hold, before anything is started.

    Raises:
        ResourceError: With the numbers.
    """
    store, each = plan.config.store, transition_bytes(plan)
    if each is not None and not store.memory_map and plan.config.ray.address is None:
        require_memory(each * store.capacity, psutil.virtual_memory().available, store.capacity, each)


def gives_masks(config: RunConfig) -> bool:
    """Whether the environment says which actions are allowed."""
    env: Any = make_vector(config.env.model_copy(update={"backend": "gymnasium"}), 1, lambda i, episode: config.seed)
    try:
        env.reset()
        return env.mask is not None
    finally:
        env.close()
