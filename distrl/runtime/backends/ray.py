"""Back end `ray`: samplers, learner and evaluator are actors; the loop holds references and waits for events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from distrl.base.errors import ResourceError, UserError
from distrl.base.pack import unpack
from distrl.control.learner.learner import Progress
from distrl.experience.activity import Activity
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.process_group import free_address
from distrl.runtime.backends.cluster import connect, disconnect, fits, learner_gpus, scarcity
from distrl.runtime.backends.ray_actors import EvaluatorActor, LearnerActor, SamplerActor
from distrl.runtime.backends.replay_actors import start_shards
from distrl.runtime.backends.weight_board import BoardChannel
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.events import (
    BatchLost,
    Collected,
    DataLost,
    EvalFailed,
    Evaluated,
    EvaluatorLost,
    Event,
    Failure,
    LearnerFailed,
    LearnerLost,
    LearnerReady,
    Probed,
    SamplerFailed,
    SamplerLost,
    SamplerReady,
    Updated,
)
from distrl.runtime.protocol.orders import RecoveryPoint, UpdateOrder, Wait
from distrl.runtime.run.checkpoint import SHARED
from distrl.store.replay.sharded import ShardLost

START_SECONDS = 180.0  # an actor that is not up by then will not come: importing torch takes seconds, not minutes
UPDATE_SECONDS = 3600.0
START_LEARNER = "start the learner"
LOOK_SECONDS = 1.0  # between two looks around while the loop itself waits for an answer
SCARCE_SECONDS = 12.0  # after which an actor that has not started is asked whether it can
PROBE_DEADLINE = 10.0  # a sampler that does not say what it does holds the interpreter's lock
PEER_SECONDS = 5.0  # what a process of a group may take to say that it lives
INTACT_SECONDS = 10.0  # what weights may take to come from another node
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
    cause: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def process(self) -> str:
        """The process that executes the order."""
        if self.kind in ("ready", "collect"):
            return f"sampler {self.sampler}"
        return {"eval": "evaluator", "peer": "learner's group"}.get(self.kind, "learner")

    @property
    def what(self) -> tuple[str, str]:
        """Kind of wait, and the order in words."""
        match self.kind:
            case "ready" | "learner":
                return "start", "its process starts"
            case "collect":
                units = [f"{request.unit.seq} of stream {request.unit.stream}" for request in self.requests or []]
                return "fragments", f"it makes fragments {', '.join(units)}"
            case "eval":
                return "evaluation", f"it evaluates version {self.update}"
        return "update", f"it makes update {self.update + 1}"


def data_lost(error: BaseException) -> bool:
    """Whether a call was left out because an argument of it is gone."""
    return isinstance(error, ObjectLostError) or (
        isinstance(error, RayTaskError) and isinstance(error.cause, ObjectLostError)
    )


class RayBackend:
    """Actors on a local or remote Ray cluster.

    On a local cluster our actors ask for no CPUs (two cores would never schedule two samplers and a learner); on a
    remote one for one each, so that the scheduler spreads them.
    """

    concurrent = True
    prefetches = False
    recovers = True

    def __init__(self, plan: Plan):
        self.plan = plan
        config = plan.config
        self.local, self.started_here = connect(config.ray, config.name)
        if plan.swaps_weights:
            plan.weight_channel = BoardChannel(f"weights of {config.name}")
        self.cpus = 0.0 if self.local else 1.0
        self.samplers: dict[int, Any] = {}
        self.learners: list[Any] = []
        self.evaluator: Any = None
        self.replay_shards: list[Any] = []
        self._staged: tuple[Unit, ...] = ()
        self.on_wait: Callable[[], None] = lambda: None
        self._blocked: Wait | None = None  # what this very process waits for
        self.gpus = 0
        self._store: int | None = None
        self._orders: dict[Any, Order] = {}  # the first reference of a call -> its order

    # ---- starting ------------------------------------------------------------------------------------------------

    def start(self, samplers: int) -> None:
        for sampler in range(samplers):  # they start while the learner does
            self.replace_sampler(sampler)
        self._start_learners()
        self._get([learner.ready.remote() for learner in self.learners], START_LEARNER, START_SECONDS)

    def _start_learners(self) -> None:
        """Processes of the learner, and of its replay's shards."""
        config = self.plan.config.learner
        rendezvous = free_address() if config.processes > 1 else ""
        self.gpus = learner_gpus(config.device, config.processes, self.local)
        # Staging a batch has a thread of its own, so that it runs beside an update.
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "concurrency_groups": {"stage": 1}}
        actor = ray.remote(**options)(LearnerActor)
        self.prefetches = bool(self.gpus) and config.prefetch
        self.replay_shards = start_shards(self.plan, self.cpus)
        processes = range(config.processes)
        self.learners = [actor.remote(self.plan, rank, rendezvous, self.replay_shards) for rank in processes]

    def replace_sampler(self, sampler: int) -> None:
        old = self.samplers.pop(sampler, None)
        if old is not None:
            ray.kill(old)
        cpus = self.plan.config.samplers.cpus
        options: dict[str, Any] = {"num_cpus": self.cpus if cpus is None else cpus, "concurrency_groups": {"probe": 1}}
        actor = ray.remote(**options)(SamplerActor)
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

    def probe(self, sampler: int) -> None:
        if not any(order.kind == "probe" and order.sampler == sampler for order in self._orders.values()):
            ref = self.samplers[sampler].probe.options(concurrency_group="probe").remote()
            self._orders[ref] = Order("probe", time.monotonic() + PROBE_DEADLINE, sampler)

    def update(self, data: Sequence[Any], progress: Progress) -> None:
        deadline = time.monotonic() + UPDATE_SECONDS
        for rank, learner in enumerate(self.learners):
            refs = learner.update.options(num_returns=2).remote(progress, *data)
            # Every process of a group computes the same; one answer is enough, but each may die.
            self._orders[refs[0]] = Order("peer" if rank else "update", deadline, refs=refs, update=progress.update)

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
        answers = [self._answer(self._orders.pop(ref), ref) for ref in ready if ref in self._orders]
        return [event for event in answers if event is not None] + self._overdue()

    def busy(self) -> bool:
        return bool(self._orders)

    def _answer(self, order: Order, ref: Any) -> Event | None:
        """The event that an answered call is; None where there is nothing to tell."""
        if order.kind == "probe":
            return self._probed(order.sampler, ref)
        try:
            value = ray.get(ref)
        except RayActorError as error:
            return self._died(order, str(error).split("\n")[0])
        except RayError as error:
            if order.kind in ("update", "peer") and data_lost(error) and len(self.learners) == 1:
                return BatchLost()
            return self._died(order, f"{type(error).__name__}: {str(error)[-300:]}")
        if order.kind == "ready":
            return SamplerReady(order.sampler, *value)
        if order.kind == "collect":
            assert order.requests is not None
            if isinstance(value, Failure):
                return SamplerFailed(order.sampler, order.requests, value)
            return Collected(order.sampler, order.requests, value, list(order.refs[1:]))
        if order.kind == "peer":
            return None
        if order.kind == "learner":
            return LearnerReady(value)
        if order.kind == "update":
            return self._update_failed(value) if isinstance(value, Failure) else Updated(value, order.refs[1])
        return (
            EvalFailed(value)
            if isinstance(value, Failure)
            else Evaluated(order.env_steps, order.update, order.refs, value)
        )

    def _probed(self, sampler: int, ref: Any) -> Event | None:
        """What a sampler does; from now on it is known which stream its order waits for."""
        try:
            activity: Activity = ray.get(ref)
        except RayError:
            return None  # the order that was looked at tells
        for order in self._orders.values():
            if order.kind == "collect" and order.sampler == sampler:
                order.cause = str(activity)
        return Probed(sampler, activity)

    def _update_failed(self, failure: Failure) -> Event:
        """An update raised; in a group maybe because another process of it died in the middle of an exchange."""
        if isinstance(failure.error, ShardLost):
            return self._learner_lost(str(failure.error), "replay")
        if len(self.learners) > 1 and not isinstance(failure.error, UserError):
            for rank, learner in enumerate(self.learners):
                try:
                    ray.get(learner.ready.remote(), timeout=PEER_SECONDS)
                except GetTimeoutError:
                    continue  # it waits for a lost one
                except RayActorError:
                    return self._learner_lost(f"process {rank} of its group of {len(self.learners)} was lost")
        return LearnerFailed(failure)

    def _learner_lost(self, reason: str, process: str = "learner") -> Event:
        """One event for a death, however many calls were under way."""
        for ref in [ref for ref, order in self._orders.items() if order.kind in ("update", "peer", "learner")]:
            del self._orders[ref]
        return LearnerLost(reason, process)

    def _died(self, order: Order, reason: str) -> Event:
        if order.kind in ("ready", "collect"):
            return SamplerLost(order.sampler, order.requests or [], reason)
        if order.kind == "eval":
            self.evaluator = None  # the next evaluation starts a new one
            return EvaluatorLost(order.env_steps, order.update, order.refs, reason)
        return self._learner_lost(reason)

    def _overdue(self) -> list[Event]:
        """Calls past their deadline: a hung call is ended by killing its actor."""
        now = time.monotonic()
        events: list[Event] = []
        for ref, order in list(self._orders.items()):
            if ref not in self._orders:  # another death took it along
                continue
            if order.kind == "ready" and self._hopeless(order, now):
                del self._orders[ref]
                ray.kill(self.samplers.pop(order.sampler))
                events.append(SamplerLost(order.sampler, [], scarcity(self._asked(order)), hopeless=True))
                continue
            if now < order.deadline:
                continue
            del self._orders[ref]
            if order.kind == "probe":
                continue
            if order.kind in ("ready", "collect"):
                ray.kill(self.samplers[order.sampler])
                seconds = order.deadline - order.began
                events.append(self._died(order, f"no answer to {order.kind!r} within {seconds:.0f} s"))
            else:
                if order.kind == "eval":
                    ray.kill(self.evaluator)
                seconds = START_SECONDS if order.kind == "learner" else UPDATE_SECONDS
                events.append(self._died(order, f"no answer to {order.kind!r} within {seconds:.0f} s"))
        return events

    # ---- waits -----------------------------------------------------------------------------------------------------

    def waits(self) -> list[Wait]:
        now = time.monotonic()
        waits = [self._blocked] if self._blocked else []
        for order in self._orders.values():
            if order.kind == "probe":
                continue
            kind, what = order.what
            seconds = now - order.began
            why = scarcity(self._asked(order)) if kind == "start" and seconds > SCARCE_SECONDS / 2 else order.cause
            waits.append(Wait(order.process, kind, what, seconds, order.deadline - order.began, why))
        return waits

    def nodes(self) -> dict[str, str]:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}

    def head(self) -> str | None:
        client = ray.util.client.ray.is_connected()  # which sees the head's own proxy only
        return None if self.local or client else ray.get_runtime_context().gcs_address

    def store_bytes(self) -> int | None:
        if self._store is None:
            self._store = int(ray.cluster_resources().get("object_store_memory", 0))
        return self._store or None

    def _asked(self, order: Order) -> dict[str, float]:
        """Resources that an actor reserves."""
        if order.kind == "learner":
            return {"CPU": self.cpus, "GPU": float(self.gpus)}
        cpus = self.plan.config.samplers.cpus
        return {"CPU": self.cpus if cpus is None else cpus}

    def _hopeless(self, order: Order, now: float) -> bool:
        """Whether a sampler will never start: this machine has too little. A cluster may still grow."""
        return self.local and now - order.began > SCARCE_SECONDS and not fits(self._asked(order))

    # ---- state and data ------------------------------------------------------------------------------------------

    def learner_state(self) -> dict[str, Any]:
        return self._get(self.learners[0].state.remote(), "read the learner's state", START_SECONDS)

    def keep_state(self) -> Any:
        return self.learners[0].keep.options(num_returns=2).remote()

    def kept_state(self, handle: Any) -> tuple[float, Any] | None:
        here, _ = ray.wait(list(handle), num_returns=2, timeout=0)
        if len(here) < 2:
            return None
        try:
            seconds, packed = ray.get(list(handle))
        except RayError:  # it died before it could tell
            return None
        return seconds, packed

    def unpacked(self, state: Any) -> dict[str, Any]:
        return unpack(*state)

    def rebuild_learner(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> dict[int, Any]:
        for actor in [*self.learners, *self.replay_shards]:
            ray.kill(actor)
        self._staged = ()
        self._start_learners()
        ready = [learner.ready.remote() for learner in self.learners]
        self._orders[ready[0]] = Order("learner", time.monotonic() + START_SECONDS)
        # Calls of one actor run in the order in which they were made, so nothing has to be waited for.
        state = ray.put(base.state)
        folder = str(base.folder.absolute()) if base.folder else None
        for learner in self.learners:
            learner.recover.remote(base.version, state, folder)
        published = {base.version: self.publish(base.version)}
        for batch in updates:
            handles = [learner.make_again.remote(batch.progress, *batch.data) for learner in self.learners]
            published[batch.progress.update + 1] = handles[0]
        return published

    def intact(self, handle: Any) -> bool:
        try:
            ray.get(handle, timeout=INTACT_SECONDS)
        except RayError:
            return False
        return True

    def gone(self, data: Sequence[Any]) -> list[bool]:
        # In the place of a lost object Ray puts a mark into this node's store, so what is here is looked at.
        elsewhere = self.nodes().keys() - {ray.get_runtime_context().get_node_id()}
        try:
            places = ray.experimental.get_object_locations(list(data))
        except Exception:  # Ray Client does not know places: then all of it has to come here
            places = {}
        return [not elsewhere & set(places.get(ref, {}).get("node_ids", ())) and not self.intact(ref) for ref in data]

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
            if isinstance(node.error, ShardLost):  # the next update says so too, and all is built anew
                raise ResourceError(f"the replay could not be written: {node.error}.", "Nothing: it is built anew.")
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
        """Wait for an answer, and show meanwhile that this is what the run waits for."""
        try:
            return self._shown_get(refs, purpose, seconds)
        except GetTimeoutError:
            cluster, free = ray.cluster_resources(), ray.available_resources()
            raise ResourceError(
                f"could not {purpose} within {seconds:.0f} s; the cluster has {cluster.get('CPU', 0):g} CPUs "
                f"({free.get('CPU', 0):g} free) and {cluster.get('GPU', 0):g} GPUs ({free.get('GPU', 0):g} free).",
                "Free resources, or ask for fewer (samplers.cpus, learner.processes).",
            ) from None
        except RayActorError as error:
            raise ResourceError(f"could not {purpose}: {str(error)[-1500:]}") from None
        except ObjectLostError as error:
            raise DataLost(f"could not {purpose}: it is gone with its node.", "Start again with --resume.") from error
        finally:
            self._blocked = None

    def _shown_get(self, refs: Any, purpose: str, seconds: float) -> Any:
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            try:
                return ray.get(refs, timeout=min(LOOK_SECONDS, seconds))
            except GetTimeoutError:
                if waited >= seconds:
                    raise
            starting = purpose == START_LEARNER and waited > SCARCE_SECONDS / 2
            why = scarcity({"CPU": self.cpus, "GPU": float(self.gpus)}) if starting else ""
            self._blocked = Wait("the run", "start", f"it waits to {purpose}", waited, seconds, why)
            self.on_wait()

    def close(self) -> None:
        self._orders.clear()
        everyone = [*self.samplers.values(), *self.learners, *self.replay_shards]
        for actor in [*everyone, *([self.evaluator] if self.evaluator else [])]:
            ray.kill(actor)
        self.samplers, self.learners, self.replay_shards, self.evaluator = {}, [], [], None
        if self.started_here:
            disconnect()
