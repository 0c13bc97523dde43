"""The replay of a run's learner: built, sized and checked from its plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from distrl.base.errors import ConfigError
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.wrappers.goal_rewards import GoalRewards
from distrl.runtime.plan.base import Plan
from distrl.store.replay.buffer import Replay
from distrl.store.replay.hindsight import Hindsight, require_goals
from distrl.store.replay.layout import Column, bytes_per_transition, require_memory
from distrl.store.replay.priorities import PrioritySettings
from distrl.store.replay.sharded import LocalShard, ReplayShard, ShardedReplay, ShardHandle


def build_replay(plan: Plan, handles: Sequence[ShardHandle] = ()) -> Replay | ShardedReplay:
    """Build an empty replay; shards are those of `handles`, or live in this process."""
    count = plan.config.store.shards
    if count == 1:
        return empty_replay(plan, plan.config.store.capacity, "replay")
    shards = list(handles) or [HereShard(build_shard(plan, index)) for index in range(count)]
    # A rebuilt learner restores what a dead process held.
    require_all = bool(handles) and plan.config.learner.recover_every != 0
    return ShardedReplay(shards, prioritized=plan.algorithm_config.prioritized, require_all=require_all)


class Shard(ReplayShard):
    """A shard of a run; empty if it was dead when the loaded checkpoint was written."""

    def load(self, folder: str) -> None:
        if Path(folder).is_dir():
            self.replay.load(folder)


class HereShard(LocalShard):
    """A shard in this process."""

    def __init__(self, shard: Shard):
        self.shard = shard


def build_shard(plan: Plan, index: int) -> Shard:
    return Shard(empty_replay(plan, -(-plan.config.store.capacity // plan.config.store.shards), f"replay/{index}"))


def empty_replay(plan: Plan, capacity: int, folder: str) -> Replay:
    """Build a replay in this process; a memory-mapped one lies in `folder` of the run folder."""
    config, algorithm = plan.config, plan.algorithm_config
    return Replay(
        plan.observation_space,
        plan.action_space,
        capacity,
        num_envs=config.environment.num_envs,
        n_step=algorithm.n_step,
        prioritized=PrioritySettings(algorithm.priority_alpha) if algorithm.prioritized else None,
        frame_stack=config.environment.frame_stack,
        folder=Path(plan.folder) / folder if config.store.memory_map else None,
        memory_map=config.store.memory_map,
        extra_columns=extra_columns(plan),
        masked=plan.masked,
    )


def extra_columns(plan: Plan) -> tuple[Column, ...]:
    columns = _algorithm(plan).replay_columns(plan.algorithm_config)
    return tuple(Column(name, (size,)) for name, size in columns.items())


def _algorithm(plan: Plan) -> type[OffPolicy]:
    chosen = plan.algorithm_class
    assert issubclass(chosen, OffPolicy)
    return chosen


def transition_bytes(plan: Plan) -> int | None:
    """Return the bytes of one transition in the replay; None without a replay."""
    if not plan.off_policy:
        return None
    return bytes_per_transition(
        plan.observation_space,
        plan.action_space,
        frame_stack=plan.config.environment.frame_stack,
        extra_columns=extra_columns(plan),
        masked=plan.masked,
        prioritized=plan.algorithm_config.prioritized,
    )


def require_memory_for_replay(plan: Plan) -> None:
    """Refuse a replay that exceeds this machine's memory, before any process starts."""
    store, each = plan.config.store, transition_bytes(plan)
    if each is not None and not store.memory_map and plan.config.ray.address is None:
        require_memory(each * store.capacity, psutil.virtual_memory().available, store.capacity, each)


def build_hindsight(plan: Plan) -> Hindsight | None:
    """Build the hindsight relabeling of this run's batches; None if it is not configured.

    The environment that computes the rewards of new goals lives in this process, with the learner.
    """
    wanted = plan.algorithm_config.hindsight
    if wanted is None:
        return None
    require_goals(plan.observation_space)
    if (shards := plan.config.store.shards) > 1:
        raise ConfigError(
            f"algorithm.hindsight with store.shards {shards}: goals are taken from a replay in the learner's process.",
            "Set store.shards=1, or algorithm.hindsight=null.",
        )
    if extra_columns(plan):
        names = ", ".join(column.name for column in extra_columns(plan))
        raise ConfigError(
            f"algorithm.hindsight: {plan.config.algorithm['name']} stores {names} of every step, which "
            "compute_reward does not return for other goals.",
            "Use a head for one reward, or set algorithm.hindsight=null.",
        )
    goals = GoalRewards(plan.config.environment, plan.config.seed)
    return Hindsight(plan.observation_space, goals.reward, wanted.relabeled, wanted.horizon, goals.terminated)


def probe(plan: Plan) -> bool:
    """Return True if the environment masks actions; check the columns of the algorithm."""
    config = plan.config
    if _algorithm(plan).goes_on_after_ends and config.environment.backend != "gymnasium":
        raise ConfigError(
            f"{config.algorithm['name']} bootstraps from the first observation after a true end, which env.backend "
            f"{config.environment.backend} delivers one step late.",
            "Use env.backend=gymnasium.",
        )
    settings = config.environment.model_copy(update={"backend": "gymnasium"})
    env: Any = make_vector(settings, 1, lambda i, episode: config.seed)
    try:
        env.reset()
        masked, there = env.mask is not None, env.reward_channels
    finally:
        env.close()
    for column in extra_columns(plan):
        if column.name == "reward_channels" and (column.shape[0] != there or config.environment.backend != "gymnasium"):
            raise ConfigError(
                f"the algorithm's head has {column.shape[0]} reward channels, {config.environment.id} on env.backend "
                f"{config.environment.backend} gives {there if config.environment.backend == 'gymnasium' else 1}.",
                "Set algorithm.head.channels to match; an environment declares them with its attribute "
                "reward_channels and info['reward_channels'].",
            )
    return masked
