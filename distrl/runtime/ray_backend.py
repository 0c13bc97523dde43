"""Back end `ray`: samplers, learner and evaluator are actors; the loop holds references and waits for events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from distrl.base.errors import ResourceError
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learner.group import free_address
from distrl.learner.learner import Progress
from distrl.runtime.actors import EvaluatorActor, LearnerActor, SamplerActor
from distrl.runtime.build import Plan
from distrl.runtime.checkpoint import SHARED
from distrl.runtime.cluster import connect, disconnect, learner_gpus
from distrl.runtime.events import (
    Collected,
    EvalFailed,
    Evaluated,
    Event,
    Failure,
    LearnerFailed,
    SamplerFailed,
    SamplerLost,
    SamplerReady,
    Updated,
)
from distrl.runtime.replay_actors import start_shards

START_SECONDS = 180.0  # an actor that is not up by then will not come: importing torch takes seconds, not minutes
UPDATE_SECONDS = 3600.0
REPLAY_SECONDS = 3600.0  # a large replay is as many GiB as the disk writes in minutes


@dataclass
class Order:
    """A call on its way: what to do with its answer, and until when it must come."""

    kind: str
    deadline: float
    sampler: int = -1
    requests: list[CollectRequest] | None = None
    refs: Any = None
    env_steps: int = 0
    update: int = 0


class RayBackend:
    """Actors on a local or remote Ray cluster.

    On a local cluster our actors ask for no CPUs (two cores would never schedule two samplers and a learner); on a
    remote one for one each, so that the scheduler spreads them.
    """

    concurrent = True
    prefetches = False

    def __init__(self, plan: Plan):
        self.plan = plan
        config = plan.config
        self.local, self.started_here = connect(config.ray, config.name)
        self.cpus = 0.0 if self.local else 1.0
        self.samplers: dict[int, Any] = {}
        self.learners: list[Any] = []
        self.evaluator: Any = None
        self.replay_shards: list[Any] = []
        self._staged: tuple[Unit, ...] = ()
        self._orders: dict[Any, Order] = {}  # the first reference of a call -> its order

    # ---- starting ------------------------------------------------------------------------------------------------

    def start(self, samplers: int) -> None:
        config = self.plan.config.learner
        rendezvous = free_address() if config.processes > 1 else ""
        gpus = learner_gpus(config.device, config.processes, self.local)
        # Staging a batch has a thread of its own, so that it runs beside an update.
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": gpus, "concurrency_groups": {"stage": 1}}
        actor = ray.remote(**options)(LearnerActor)
        self.prefetches = bool(gpus) and config.prefetch
        for sampler in range(samplers):  # they start while the learner does
            self.replace_sampler(sampler)
        self.replay_shards = start_shards(self.plan, self.cpus)
        processes = range(config.processes)
        self.learners = [actor.remote(self.plan, rank, rendezvous, self.replay_shards) for rank in processes]
        self._get([learner.ready.remote() for learner in self.learners], "start the learner", START_SECONDS)

    def replace_sampler(self, sampler: int) -> None:
        old = self.samplers.pop(sampler, None)
        if old is not None:
            ray.kill(old)
        cpus = self.plan.config.samplers.cpus
        actor = ray.remote(num_cpus=self.cpus if cpus is None else cpus)(SamplerActor)
        handle: Any = actor.remote(self.plan, sampler)
        self.samplers[sampler] = handle
        self._orders[handle.ready.remote()] = Order("ready", time.monotonic() + START_SECONDS, sampler)

    def end_sampler(self, sampler: int) -> None:
        handle = self.samplers.pop(sampler, None)
        if handle is not None:
            ray.kill(handle)
        for ref in [ref for ref, order in self._orders.items() if order.sampler == sampler]:
            del self._orders[ref]

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        if sampler in self.samplers:
            self.samplers[sampler].drop.remote(list(streams))

    # ---- orders --------------------------------------------------------------------------------------------------

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Any) -> None:
        method = self.samplers[sampler].collect.options(num_returns=len(requests) + 1)
        refs = method.remote(requests, weights)
        deadline = time.monotonic() + self.plan.config.samplers.timeout
        self._orders[refs[0]] = Order("collect", deadline, sampler, requests, refs)

    def update(self, data: Sequence[Any], progress: Progress) -> None:
        deadline = time.monotonic() + UPDATE_SECONDS
        for rank, learner in enumerate(self.learners):
            refs = learner.update.options(num_returns=2).remote(progress, *data)
            if rank == 0:  # every process of a group computes the same; one answer is enough
                self._orders[refs[0]] = Order("update", deadline, refs=refs)

    def stage(self, units: Sequence[Unit], data: Sequence[Any]) -> None:
        if self._staged != tuple(units):
            self._staged = tuple(units)
            for learner in self.learners:
                learner.stage.options(concurrency_group="stage").remote(list(units), *data)

    def evaluate(self, weights: Any, env_steps: int, update: int) -> None:
        if self.evaluator is None:
            self.evaluator = ray.remote(num_cpus=self.cpus)(EvaluatorActor).remote(self.plan)
        deadline = time.monotonic() + UPDATE_SECONDS
        order = Order("eval", deadline, refs=weights, env_steps=env_steps, update=update)
        self._orders[self.evaluator.evaluate.remote(weights)] = order

    # ---- events --------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> list[Event]:
        pending = list(self._orders)
        if not pending:
            return []
        ready, rest = ray.wait(pending, num_returns=1, timeout=timeout, fetch_local=False)
        if ready and rest:  # whatever else is there already
            ready += ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)[0]
        events = [self._answer(self._orders.pop(ref), ref) for ref in ready if ref in self._orders]
        return events + self._overdue()

    def busy(self) -> bool:
        return bool(self._orders)

    def _answer(self, order: Order, ref: Any) -> Event:
        try:
            value = ray.get(ref)
        except RayActorError as error:
            return self._died(order, str(error).split("\n")[0])
        except RayError as error:
            return self._died(order, f"{type(error).__name__}: {str(error)[-300:]}")
        if order.kind == "ready":
            return SamplerReady(order.sampler, *value)
        if order.kind == "collect":
            assert order.requests is not None
            if isinstance(value, Failure):
                return SamplerFailed(order.sampler, order.requests, value)
            return Collected(order.sampler, order.requests, value, list(order.refs[1:]))
        if order.kind == "update":
            return LearnerFailed(value) if isinstance(value, Failure) else Updated(value, order.refs[1])
        return (
            EvalFailed(value)
            if isinstance(value, Failure)
            else Evaluated(order.env_steps, order.update, order.refs, value)
        )

    def _died(self, order: Order, reason: str) -> Event:
        if order.kind in ("ready", "collect"):
            return SamplerLost(order.sampler, order.requests or [], reason)
        if order.kind == "eval":
            self.evaluator = None  # the next evaluation starts a new one
            return EvalFailed(Failure(ResourceError(f"the evaluator died: {reason}"), ""))
        problem = ResourceError(f"the learner died: {reason}", "Start again with --resume.")
        return LearnerFailed(Failure(problem, ""))

    def _overdue(self) -> list[Event]:
        """Calls past their deadline: a hung call is ended by killing its actor."""
        now = time.monotonic()
        events: list[Event] = []
        for ref, order in list(self._orders.items()):
            if now < order.deadline:
                continue
            del self._orders[ref]
            if order.kind in ("ready", "collect"):
                ray.kill(self.samplers[order.sampler])
                seconds = START_SECONDS if order.kind == "ready" else self.plan.config.samplers.timeout
                events.append(self._died(order, f"no answer to {order.kind!r} within {seconds:.0f} s"))
            else:
                events.append(self._died(order, f"no answer to {order.kind!r} within {UPDATE_SECONDS:.0f} s"))
        return events

    # ---- state and data ------------------------------------------------------------------------------------------

    def learner_state(self) -> dict[str, Any]:
        return self._get(self.learners[0].state.remote(), "read the learner's state", START_SECONDS)

    def load_learner(self, state: dict[str, Any]) -> None:
        handle = ray.put(state)
        loads = [learner.load_state.remote(handle) for learner in self.learners]
        self._get(loads, "restore the learner", START_SECONDS)

    def save_replay(self, folder: Path) -> None:
        """The learner's process writes: it must see the run folder's file system.

        Raises:
            ResourceError: It does not.
        """
        path = str(folder.absolute())
        node = self._get(self.learners[0].save_replay.remote(path), "write the replay", REPLAY_SECONDS)
        if isinstance(node, Failure):
            raise node.error
        if not folder.is_dir():
            raise ResourceError(f"the learner on {node} wrote its replay to {path}, which is not seen here.", SHARED)

    def replay_saved(self, folder: Path) -> None:
        self.learners[0].replay_saved.remote(str(folder.absolute()))

    def load_replay(self, folder: Path) -> None:
        path = str(folder.absolute())
        failure = self._get(self.learners[0].load_replay.remote(path), "restore the replay", REPLAY_SECONDS)
        if failure is not None:
            raise failure.error

    def warm_start(self, weights: Weights) -> None:
        handle = ray.put(weights)
        loads = [learner.warm_start.remote(handle) for learner in self.learners]
        self._get(loads, "load the first weights", START_SECONDS)

    def publish(self, version: int) -> Any:
        return self.learners[0].publish.remote(version)

    def put_weights(self, weights: Weights) -> Any:
        return ray.put(weights)

    def put_data(self, data: FragmentData) -> Any:
        return ray.put(data)

    def fetch(self, handle: Any) -> Any:
        return self._get(handle, "fetch data", START_SECONDS)

    def _get(self, refs: Any, purpose: str, seconds: float) -> Any:
        try:
            return ray.get(refs, timeout=seconds)
        except GetTimeoutError:
            cluster, free = ray.cluster_resources(), ray.available_resources()
            raise ResourceError(
                f"could not {purpose} within {seconds:.0f} s; the cluster has {cluster.get('CPU', 0):g} CPUs "
                f"({free.get('CPU', 0):g} free) and {cluster.get('GPU', 0):g} GPUs ({free.get('GPU', 0):g} free).",
                "Free resources, or ask for fewer (samplers.cpus, learner.processes).",
            ) from None
        except RayActorError as error:
            raise ResourceError(f"could not {purpose}: {str(error)[-1500:]}") from None

    def close(self) -> None:
        self._orders.clear()
        everyone = [*self.samplers.values(), *self.learners, *self.replay_shards]
        for actor in [*everyone, *([self.evaluator] if self.evaluator else [])]:
            ray.kill(actor)
        self.samplers, self.learners, self.replay_shards, self.evaluator = {}, [], [], None
        if self.started_here:
            disconnect()
