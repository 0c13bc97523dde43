"""Replay shards in their own actors, called from the learner's process."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from distrl.base.errors import ResourceError
from distrl.runtime.backends.cluster import Actor
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.replay import build_shard
from distrl.runtime.protocol.events import Failure
from distrl.runtime.protocol.orders import Handle
from distrl.store.replay.sharded import ReplayShard, ShardLost, ShardReply, ShardReport

ANSWER_SECONDS = 600.0  # longer than any sample; a checkpoint of a very large shard on a slow disk comes near


class ShardActor:
    """A `ReplayShard` in its own process."""

    def __init__(self, plan: Plan, index: int):
        plan.enter_process()
        set_threads(1)
        self.shard: ReplayShard = build_shard(plan, index)

    def ready(self) -> int:
        return os.getpid()

    def execute(self, method: str, *args: Any) -> Any:
        """Call a method of the shard; return report and value, or a failure."""
        try:
            return self.shard.execute(method, *args)
        except Exception as error:
            return Failure.of(error)


class RemoteShard:
    """The `ShardHandle` of a `ShardActor`."""

    def __init__(self, actor: Actor):
        self.actor = actor

    def call(self, method: str, *args: Any) -> ShardReply:
        try:
            return RemoteAnswer(self.actor.execute.remote(method, *args), method)
        except RayActorError as error:
            raise ShardLost(str(error)) from error


class RemoteAnswer:
    """A pending answer."""

    def __init__(self, reference: Handle, method: str):
        self.reference, self.method = reference, method

    def result(self) -> tuple[ShardReport, Any]:
        """Wait for report and value; raise `ShardLost` if the process died."""
        try:
            answer: Any = ray.get(self.reference, timeout=ANSWER_SECONDS)
        except (RayActorError, RayTaskError) as error:
            raise ShardLost(str(error)) from error
        except GetTimeoutError:
            raise ResourceError(
                f"a replay shard has not answered {self.method!r} within {ANSWER_SECONDS:.0f} s.",
                "Check its machine's disk and memory; then continue with --resume.",
            ) from None
        if isinstance(answer, Failure):
            raise answer.error
        return answer


def start_shards(plan: Plan, cpus: float) -> list[Actor]:
    """Start one actor per shard of the run; none if the replay stays in the learner's process."""
    if not plan.off_policy or plan.config.store.shards == 1:
        return []
    actor = ray.remote(num_cpus=cpus)(ShardActor)
    return [actor.remote(plan, index) for index in range(plan.config.store.shards)]
