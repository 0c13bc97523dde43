"""Ray backend: samplers, learner and evaluator are actors, handles are object references."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from distrl.base.errors import UserError
from distrl.experience.fragment import CollectRequest, FragmentData
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.runtime.backends.cluster import Actor, connect, fits, scarcity
from distrl.runtime.backends.learner_group import LearnerGroup
from distrl.runtime.backends.pending import SCARCE_SECONDS, BlockingCalls, Order, data_lost
from distrl.runtime.backends.ray_actors import EvaluatorActor, SamplerActor
from distrl.runtime.backends.weight_board import WeightReceiver, WeightSender
from distrl.runtime.plan.base import Plan, WeightChannel
from distrl.runtime.protocol import events as ev
from distrl.runtime.protocol.events import Event, Failure
from distrl.runtime.protocol.orders import START_SECONDS, Handle, RecoveryPoint, UpdateOrder, Wait
from distrl.store.replay.sharded import ShardLost

UPDATE_SECONDS = 3600.0
PROBE_SECONDS = 10.0  # a sampler that does not answer a probe holds the interpreter's lock
INTACT_SECONDS = 10.0  # for weights to arrive from another node


class RayBackend:
    """Actors on a local or remote Ray cluster.

    On a local cluster actors reserve no CPUs (two cores would never schedule two samplers and a learner); on a remote
    one each reserves one, so that the scheduler spreads them.
    """

    concurrent = True
    prefetches = False
    recovers = True

    def __init__(self, plan: Plan):
        self.plan = plan
        config = plan.config
        self.local, self.started_here = connect(config.ray.address, config.name, config.ray.object_store_mb)
        if plan.swaps_weights:
            board = f"weights of {config.name}"
            plan.weight_channel = WeightChannel(partial(WeightSender, board), partial(WeightReceiver, board))
        self.cpus = 0.0 if self.local else 1.0
        self.on_wait: Callable[[], None] = lambda: None
        self.blocking = BlockingCalls(lambda: self.on_wait())
        self.group = group = LearnerGroup(plan, self.local, self.cpus, self.blocking)
        self.ask_learner, self.publish, self.stage = group.call, group.publish, group.stage
        self.keep_state, self.kept_state = group.keep_state, group.kept_state
        self.samplers: dict[int, Actor] = {}
        self.evaluator: Actor = None
        self._store: int | None = None
        self._orders: dict[Handle, Order] = {}  # the first reference of a call -> its order

    def start(self, samplers: int) -> None:
        for sampler in range(samplers):  # they start while the learner does
            self.replace_sampler(sampler)
        ready = self.group.start()
        self.prefetches = bool(self.group.gpus) and self.plan.config.learner.prefetch
        self.blocking.get(ready, "start the learner", START_SECONDS, lambda: scarcity(self.group.reserved()))

    def replace_sampler(self, sampler: int) -> None:
        old = self.samplers.pop(sampler, None)
        if old is not None:
            ray.kill(old)
        options: dict[str, Any] = {"num_cpus": self._sampler_cpus(), "concurrency_groups": {"probe": 1}}
        handle: Actor = ray.remote(**options)(SamplerActor).remote(self.plan, sampler)
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

    def _sampler_cpus(self) -> float:
        cpus = self.plan.config.samplers.cpus
        return self.cpus if cpus is None else cpus

    def close(self) -> None:
        self._orders.clear()
        for actor in [*self.samplers.values(), *([self.evaluator] if self.evaluator else [])]:
            ray.kill(actor)
        self.group.close()
        self.samplers, self.evaluator = {}, None
        if self.started_here:
            ray.shutdown()

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Handle) -> None:
        refs = self.samplers[sampler].collect.options(num_returns=len(requests) + 1).remote(requests, weights)
        deadline = time.monotonic() + self.plan.config.samplers.timeout
        self._orders[refs[0]] = Order("collect", deadline, sampler, requests, refs)

    def probe(self, sampler: int) -> None:
        if not any(order.kind == "probe" and order.sampler == sampler for order in self._orders.values()):
            ref = self.samplers[sampler].probe.options(concurrency_group="probe").remote()
            self._orders[ref] = Order("probe", time.monotonic() + PROBE_SECONDS, sampler)

    def update(self, data: Sequence[Handle], progress: Progress) -> None:
        deadline = time.monotonic() + UPDATE_SECONDS
        for rank, refs in enumerate(self.group.update(data, progress)):
            # All processes compute the same: the first one's answer is enough, but each may die.
            self._orders[refs[0]] = Order("peer" if rank else "update", deadline, refs=refs, update=progress.update)

    def evaluate(self, weights: Handle, env_steps: int, update: int) -> None:
        if self.evaluator is None:
            self.evaluator = ray.remote(num_cpus=self.cpus)(EvaluatorActor).remote(self.plan)
        deadline = time.monotonic() + UPDATE_SECONDS
        order = Order("eval", deadline, refs=weights, env_steps=env_steps, update=update)
        self._orders[self.evaluator.evaluate.remote(weights)] = order

    def wait(self, timeout: float) -> list[Event]:
        pending = list(self._orders)
        if not pending:
            return []
        ready, rest = ray.wait(pending, num_returns=1, timeout=timeout, fetch_local=False)
        if ready and rest:  # other answers that have arrived already
            ready += ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)[0]
        answers = [self._answer(self._orders.pop(ref), ref) for ref in ready if ref in self._orders]
        return [event for event in answers if event is not None] + self._overdue()

    def busy(self) -> bool:
        return bool(self._orders)

    def _answer(self, order: Order, ref: Handle) -> Event | None:
        if order.kind == "probe":
            return self._probed(order.sampler, ref)
        try:
            value: Any = ray.get(ref)
        except RayActorError as error:
            return self._died(order, str(error).split("\n")[0])
        except RayError as error:
            if order.kind in ("update", "peer") and data_lost(error) and len(self.group.learners) == 1:
                return ev.BatchLost()
            return self._died(order, f"{type(error).__name__}: {str(error)[-300:]}")
        failed = isinstance(value, Failure)
        match order.kind:
            case "ready":
                return ev.SamplerReady(order.sampler, *value)
            case "collect" if failed:
                return ev.SamplerFailed(order.sampler, order.requests, value)
            case "collect":
                return ev.Collected(order.sampler, order.requests, value, list(order.refs[1:]))
            case "peer":
                return None
            case "learner":
                return ev.LearnerReady(value)
            case "update":
                return self._update_failed(value) if failed else ev.Updated(value, order.refs[1])
        return ev.EvalFailed(value) if failed else ev.Evaluated(order.env_steps, order.update, order.refs, value)

    def _probed(self, sampler: int, ref: Handle) -> Event | None:
        """Return a sampler's progress, and note the stream that its order waits for."""
        try:
            activity: Any = ray.get(ref)
        except RayError:
            return None  # the probed order reports the loss
        for order in self._orders.values():
            if order.kind == "collect" and order.sampler == sampler:
                order.cause = str(activity)
        return ev.Probed(sampler, activity)

    def _update_failed(self, failure: Failure) -> Event:
        """Return the event of an update that raised, perhaps as a process of its group died."""
        if isinstance(failure.error, ShardLost):
            return self._learner_lost(str(failure.error), "replay")
        processes = len(self.group.learners)
        if processes > 1 and not isinstance(failure.error, UserError):
            rank = self.group.dead_process()
            if rank is not None:
                return self._learner_lost(f"process {rank} of its group of {processes} was lost")
        return ev.LearnerFailed(failure)

    def _learner_lost(self, reason: str, process: str = "learner") -> Event:
        """Forget all pending calls of the learner, so that a death gives one event."""
        for ref in [ref for ref, order in self._orders.items() if order.kind in ("update", "peer", "learner")]:
            del self._orders[ref]
        return ev.LearnerLost(reason, process)

    def _died(self, order: Order, reason: str) -> Event:
        if order.kind in ("ready", "collect"):
            return ev.SamplerLost(order.sampler, order.requests, reason)
        if order.kind == "eval":
            self.evaluator = None  # the next evaluation starts a new one
            return ev.EvaluatorLost(order.env_steps, order.update, order.refs, reason)
        return self._learner_lost(reason)

    def _overdue(self) -> list[Event]:
        """Kill actors whose calls are past their deadline."""
        now = time.monotonic()
        events: list[Event] = []
        for ref, order in list(self._orders.items()):
            if ref not in self._orders:  # forgotten with another death
                continue
            scarce = self.local and now - order.began > SCARCE_SECONDS  # a cluster may still grow
            if order.kind == "ready" and scarce and not fits(self._reserved(order)):
                del self._orders[ref]
                ray.kill(self.samplers.pop(order.sampler))
                events.append(ev.SamplerLost(order.sampler, [], scarcity(self._reserved(order)), hopeless=True))
                continue
            if now < order.deadline:
                continue
            del self._orders[ref]
            if order.kind == "probe":
                continue
            if order.kind in ("ready", "collect"):
                ray.kill(self.samplers[order.sampler])
            elif order.kind == "eval" and self.evaluator is not None:
                ray.kill(self.evaluator)
            seconds = order.deadline - order.began
            events.append(self._died(order, f"no answer to {order.kind!r} within {seconds:.0f} s"))
        return events

    def waits(self) -> list[Wait]:
        now = time.monotonic()
        waits = [self.blocking.wait] if self.blocking.wait else []
        for order in self._orders.values():
            if order.kind == "probe":
                continue
            kind, what = order.what
            seconds = now - order.began
            scarce = kind == "start" and seconds > SCARCE_SECONDS / 2
            why = scarcity(self._reserved(order)) if scarce else order.cause
            waits.append(Wait(order.process, kind, what, seconds, order.deadline - order.began, why))
        return waits

    def _reserved(self, order: Order) -> dict[str, float]:
        return self.group.reserved() if order.kind == "learner" else {"CPU": self._sampler_cpus()}

    def nodes(self) -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}

    def head(self) -> str | None:
        client = ray.util.client.ray.is_connected()  # it sees only the head's own proxy
        return None if self.local or client else ray.get_runtime_context().gcs_address

    def store_bytes(self) -> int | None:
        if self._store is None:
            self._store = int(ray.cluster_resources().get("object_store_memory", 0))
        return self._store or None

    def rebuild_learner(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> dict[int, Handle]:
        ready, published = self.group.rebuild(base, updates)
        self._orders[ready] = Order("learner", time.monotonic() + START_SECONDS)
        return published

    def put(self, value: Weights | FragmentData) -> Handle:
        return ray.put(value)

    def fetch(self, handle: Handle) -> Any:
        return self.blocking.get(handle, "fetch data", START_SECONDS)

    def intact(self, handle: Handle) -> bool:
        try:
            ray.get(handle, timeout=INTACT_SECONDS)
        except RayError:
            return False
        return True

    def gone(self, data: Sequence[Handle]) -> list[bool]:
        # Ray puts an error marker in place of a lost object into this node's store, so local objects are fetched.
        elsewhere = self.nodes().keys() - {ray.get_runtime_context().get_node_id()}
        try:
            places = ray.experimental.get_object_locations(list(data))
        except Exception:  # Ray Client does not report locations: fetch everything
            places = {}
        return [not elsewhere & set(places.get(ref, {}).get("node_ids", ())) and not self.intact(ref) for ref in data]
