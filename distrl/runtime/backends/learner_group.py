"""`LearnerGroup`: the actors of the learner and of its replay shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from distrl.base.errors import ResourceError
from distrl.base.pack import State
from distrl.experience.fragment import Unit
from distrl.learning.learner_base import Progress
from distrl.learning.process_group import free_address
from distrl.runtime.backends.cluster import Actor, learner_gpus
from distrl.runtime.backends.pending import BlockingCalls
from distrl.runtime.backends.ray_actors import LearnerActor
from distrl.runtime.backends.replay_actors import start_shards
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.events import Failure
from distrl.runtime.protocol.orders import LEARNER_CALLS, Handle, RecoveryPoint, UpdateOrder
from distrl.runtime.run.checkpoint import SHARED
from distrl.store.replay.sharded import ShardLost

PEER_SECONDS = 5.0  # a process of a group that is alive answers within this time


class LearnerGroup:
    """One or several learner processes, which compute the same updates and reserve `cpus` each."""

    def __init__(self, plan: Plan, local: bool, cpus: float, blocking: BlockingCalls):
        self.plan, self.local, self.cpus, self.blocking = plan, local, cpus, blocking
        self.gpus = 0
        self.learners: list[Actor] = []
        self.replay_shards: list[Actor] = []
        self._staged: tuple[Unit, ...] = ()

    def start(self) -> list[Handle]:
        """Start all processes; return references that are ready once they are."""
        config = self.plan.config.learner
        rendezvous = free_address() if config.processes > 1 else ""
        self.gpus = learner_gpus(config.device, config.processes, self.local)
        # Staging a batch has its own thread, so that it runs during an update.
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "concurrency_groups": {"stage": 1}}
        actor: Actor = ray.remote(**options)(LearnerActor)
        self.replay_shards = start_shards(self.plan, self.cpus)
        processes = range(config.processes)
        self.learners = [actor.remote(self.plan, rank, rendezvous, self.replay_shards) for rank in processes]
        return [learner.ready.remote() for learner in self.learners]

    def reserved(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": float(self.gpus)}

    def update(self, data: Sequence[Handle], progress: Progress) -> list[list[Handle]]:
        """Order an update; return references of report and weights for each process."""
        return [learner.update.options(num_returns=2).remote(progress, *data) for learner in self.learners]

    def stage(self, units: Sequence[Unit], data: Sequence[Handle]) -> None:
        if self._staged != tuple(units):
            self._staged = tuple(units)
            for learner in self.learners:
                learner.stage.options(concurrency_group="stage").remote(list(units), *data)

    def call(self, method: str, *args: object) -> Any:
        call = LEARNER_CALLS[method]
        learners = self.learners if call.everywhere else self.learners[:1]
        # Large arguments are stored once for all processes; paths become absolute for other working directories.
        shared = [arg.absolute() if isinstance(arg, Path) else ray.put(arg) for arg in args]
        refs = [learner.call.remote(method, *shared) for learner in learners]
        if not call.seconds:
            return None
        answers = self.blocking.get(refs, call.purpose, call.seconds)
        for failure in [answer for answer in answers if isinstance(answer, Failure)]:
            if isinstance(failure.error, ShardLost):  # the next update reports it too
                fix = "No action needed: it is rebuilt automatically."
                raise ResourceError(f"could not {call.purpose}: {failure.error}.", fix)
            raise failure.error
        if method == "save_files" and isinstance(args[0], Path) and not args[0].is_dir():
            raise ResourceError(f"the learner wrote its replay to {args[0]}, which this machine does not see.", SHARED)
        return answers[0]

    def publish(self, version: int) -> Handle:
        return self.learners[0].publish.remote(version)

    def keep_state(self) -> Handle:
        return self.learners[0].keep.options(num_returns=2).remote()

    def kept_state(self, handle: Handle) -> tuple[float, State] | None:
        here, _ = ray.wait(list(handle), num_returns=2, timeout=0)
        if len(here) < 2:
            return None
        try:
            seconds, packed = ray.get(list(handle))
        except RayError:  # it died before it answered
            return None
        return seconds, packed

    def rebuild(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> tuple[Handle, dict[int, Handle]]:
        """Start new processes from `base` that repeat `updates`.

        Return a reference that is ready once the first process is, and version -> handle of the weights.
        """
        self.close()
        ready = self.start()
        # Calls of one actor run in order, so none of them has to be awaited.
        state = ray.put(base.state)
        folder = base.folder.absolute() if base.folder else None
        for learner in self.learners:
            learner.recover.remote(base.version, state, folder)
        published = {base.version: self.publish(base.version)}
        for batch in updates:
            handles = [learner.repeat.remote(batch.progress, *batch.data) for learner in self.learners]
            published[batch.progress.update + 1] = handles[0]
        return ready[0], published

    def dead_process(self) -> int | None:
        """Return the rank of a dead process; processes that wait for it do not answer."""
        for rank, learner in enumerate(self.learners):
            try:
                ray.get(learner.ready.remote(), timeout=PEER_SECONDS)
            except GetTimeoutError:
                continue
            except RayActorError:
                return rank
        return None

    def close(self) -> None:
        for actor in [*self.learners, *self.replay_shards]:
            ray.kill(actor)
        self.learners, self.replay_shards, self._staged = [], [], ()
