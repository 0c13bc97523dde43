"""From a plan to the replay of its learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from distrl.base.errors import ConfigError
from distrl.control.envs.make import make_vector
from distrl.control.envs.wrappers.goal_rewards import GoalRewards
from distrl.store.replay.buffer import Replay
from distrl.store.replay.hindsight import Hindsight, require_goals
from distrl.store.replay.layout import Column, bytes_per_transition, require_memory
from distrl.store.replay.priorities import PrioritySettings
from distrl.store.replay.sharded import LocalShard, ReplayShard, ShardedReplay, ShardHandle

if TYPE_CHECKING:
    from distrl.runtime.plan.base import Plan


def build_replay(plan: Plan, handles: Sequence[ShardHandle] = ()) -> Replay | ShardedReplay:
    """An empty replay: one in this process, or the face of several.

    Args:
        handles: Ways to shards in other processes; without them, shards live in this one.

    Raises:
        ConfigError, ResourceError: Numbers that cannot be, or more than fits.
    """
    count = plan.config.store.shards
    if count == 1:
        return empty_replay(plan, plan.config.store.capacity, "replay")
    shards = list(handles) or [HereShard(build_shard(plan, index)) for index in range(count)]
    # What a dead process held comes back with a new learner, where there may be one: see recovery.py.
    whole = bool(handles) and plan.config.learner.recover_every != 0
    return ShardedReplay(shards, prioritized=plan.algorithm_config.prioritized, whole=whole)


class Shard(ReplayShard):
    """A shard of a run. One that had died when a checkpoint was made has no files there, and begins empty."""

    def load(self, folder: str) -> None:
        if Path(folder).is_dir():
            super().load(folder)


class HereShard(LocalShard):
    """A run's shard in this process."""

    def __init__(self, shard: Shard):
        self.shard = shard


def build_shard(plan: Plan, index: int) -> Shard:
    """One of the run's shards, empty."""
    return Shard(empty_replay(plan, -(-plan.config.store.capacity // plan.config.store.shards), f"replay/{index}"))


def empty_replay(plan: Plan, capacity: int, folder: str) -> Replay:
    """A replay in this process, its files (where it has any) in `folder` below the run folder."""
    config, algorithm = plan.config, plan.algorithm_config
    return Replay(
        plan.observation_space,
        plan.action_space,
        capacity,
        lines=config.env.num_envs,
        n_step=algorithm.n_step,
        prioritized=PrioritySettings(algorithm.priority_alpha) if algorithm.prioritized else None,
        frame_stack=config.env.frame_stack,
        folder=Path(plan.folder) / folder if config.store.memory_map else None,
        memory_map=config.store.memory_map,
        extra_columns=extra_columns(plan),
        masked=plan.masked,
    )


def extra_columns(plan: Plan) -> tuple[Column, ...]:
    """What the algorithm needs of a transition beside the usual columns."""
    chosen: Any = plan.algorithm_class
    return tuple(Column(name, (size,)) for name, size in chosen.replay_columns(plan.algorithm_config).items())


def transition_bytes(plan: Plan) -> int | None:
    """Bytes of one transition in the replay; None where there is none."""
    if not plan.off_policy:
        return None
    return bytes_per_transition(
        plan.observation_space,
        plan.action_space,
        frame_stack=plan.config.env.frame_stack,
        extra_columns=extra_columns(plan),
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


def build_hindsight(plan: Plan) -> Hindsight | None:
    """What relabels this run's batches with new goals; None where the config does not ask for it.

    The environment that judges goals lives in this process, beside the learner.

    Raises:
        ConfigError: An environment without goals or without `compute_reward`, or a replay that cannot be relabeled.
    """
    wanted = plan.algorithm_config.hindsight
    if wanted is None:
        return None
    require_goals(plan.observation_space)
    if plan.config.store.shards > 1:
        raise ConfigError(
            f"algorithm.hindsight with store.shards {plan.config.store.shards}: goals are taken from a replay in the "
            "learner's process.",
            "Set store.shards=1, or algorithm.hindsight=null.",
        )
    if extra_columns(plan):
        names = ", ".join(column.name for column in extra_columns(plan))
        raise ConfigError(
            f"algorithm.hindsight: {plan.config.algorithm['name']} keeps {names} of every step, which "
            "compute_reward does not tell for other goals.",
            "Use a head for one reward, or set algorithm.hindsight=null.",
        )
    goals = GoalRewards(plan.config.env, plan.config.seed)
    return Hindsight(plan.observation_space, goals.reward, wanted.relabeled, wanted.horizon, goals.terminated)


def probe(plan: Plan) -> bool:
    """Whether the environment says which actions are allowed; and whether it gives the columns that are asked for.

    Raises:
        ConfigError: The algorithm needs reward channels that the environment does not tell apart, or first
            observations that the back end does not show in time.
    """
    config = plan.config
    chosen: Any = plan.algorithm_class
    if chosen.goes_on_after_ends and config.env.backend != "gymnasium":
        raise ConfigError(
            f"{config.algorithm['name']} goes on from the first observation after a true end, which env.backend "
            f"{config.env.backend} shows one step too late.",
            "Use env.backend=gymnasium.",
        )
    env: Any = make_vector(config.env.model_copy(update={"backend": "gymnasium"}), 1, lambda i, episode: config.seed)
    try:
        env.reset()
        masked, there = env.mask is not None, env.reward_channels
    finally:
        env.close()
    for column in extra_columns(plan):
        if column.name == "reward_channels" and (column.shape[0] != there or config.env.backend != "gymnasium"):
            raise ConfigError(
                f"the algorithm's head has {column.shape[0]} reward channels, {config.env.id} on env.backend "
                f"{config.env.backend} gives {there if config.env.backend == 'gymnasium' else 1}.",
                "Set algorithm.head.channels to match; an environment tells channels apart by its attribute "
                "reward_channels and info['reward_channels'].",
            )
    return masked
