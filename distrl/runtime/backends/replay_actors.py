"""The replay as processes of their own: one actor for each shard, reached from the learner's process."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from distrl.base.errors import ResourceError
from distrl.runtime.backends.threads import set_threads
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.replay import build_shard
from distrl.runtime.protocol.events import Failure
from distrl.store.replay.sharded import ReplayShard, ShardLost, ShardReply, ShardReport

#: Longer than any draw; only a checkpoint of a very large shard on a slow disk comes near.
ANSWER_SECONDS = 600.0


class ShardActor:
    """Hosts a `ReplayShard`."""

    def __init__(self, plan: Plan, index: int):
        plan.enter_process()
        set_threads(1)
        self.shard: ReplayShard = build_shard(plan, index)

    def ready(self) -> int:
        return os.getpid()

    def execute(self, method: str, *args: Any) -> Any:
        """Report and value; an error as a value, so that it differs from a process that died."""
        try:
            return self.shard.execute(method, *args)
        except Exception as error:
            return Failure.of(error)


class RemoteShard:
    """A way to a shard in another process; see `store.replay.sharded.ShardHandle`.

    Args:
        actor: A `ShardActor`'s handle.
    """

    def __init__(self, actor: Any):
        self.actor = actor

    def call(self, method: str, *args: Any) -> ShardReply:
        try:
            return RemoteAnswer(self.actor.execute.remote(method, *args), method)
        except RayActorError as error:
            raise ShardLost(str(error)) from error


class RemoteAnswer:
    """An answer on its way."""

    def __init__(self, reference: Any, method: str):
        self.reference, self.method = reference, method

    def result(self) -> tuple[ShardReport, Any]:
        """Wait for it.

        Raises:
            ShardLost: The process is gone.
            ResourceError: It lives, and does not answer.
        """
        try:
            answer = ray.get(self.reference, timeout=ANSWER_SECONDS)
        except RayActorError as error:
            raise ShardLost(str(error)) from error
        except GetTimeoutError:
            raise ResourceError(
                f"a replay shard has not answered to {self.method!r} within {ANSWER_SECONDS:.0f} s.",
                "Look at its machine's disk and memory; then continue with --resume.",
            ) from None
        except RayTaskError as error:
            raise ShardLost(str(error)) from error
        if isinstance(answer, Failure):
            raise answer.error
        return answer


def start_shards(plan: Plan, cpus: float) -> list[Any]:
    """Handles of one new actor for each shard of the run; none where the replay stays in the learner's process."""
    if not plan.off_policy or plan.config.store.shards == 1:
        return []
    actor = ray.remote(num_cpus=cpus)(ShardActor)
    return [actor.remote(plan, index) for index in range(plan.config.store.shards)]
