"""`RunState` and `Services`: the data and the objects that the loop shares with its helpers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from distrl.base.phases import Phases
from distrl.config.schema import RunConfig
from distrl.experience.ledger import Ledger
from distrl.monitor.monitor import Monitor
from distrl.runtime.loop.pool import Pool
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.backend import Backend
from distrl.runtime.protocol.orders import Handle
from distrl.runtime.run.callbacks import Callback
from distrl.runtime.run.folder import RunFolder
from distrl.runtime.run.progress import RunProgress
from distrl.store.queue import Queue


@dataclass
class RunState:
    """Mutable state of one attempt of a run."""

    plan: Plan
    queue: Queue
    pool: Pool
    progress: RunProgress
    weights: dict[int, Handle] = field(default_factory=dict)  # by version, back to the oldest that a unit may need
    updates_started: int = 0  # the running one included
    updating: bool = False  # an update is running: the learner's state is not that of a boundary
    evaluations_pending: int = 0
    lost_transitions: int = 0  # with dead replay shards
    interrupted: bool = False  # by Ctrl-C or SIGTERM
    stop_requested: str | None = None  # the reason: `STOP`, `STOP_NOW`, or one given by a callback
    collecting: bool = False  # a sampler of this process is running (serial backend)
    turn_began: float = field(default_factory=time.monotonic)

    @classmethod
    def fresh(cls, plan: Plan, concurrent: bool) -> RunState:
        config = plan.config
        staleness = config.store.max_staleness
        queue = Queue(config.streams, staleness, plan.ordered, Ledger())
        samplers = config.samplers.count if concurrent else 1
        pool = Pool(config.streams, samplers, queue, staleness, config.deterministic)
        return cls(plan, queue, pool, RunProgress(config.stop.window))

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    @property
    def ledger(self) -> Ledger:
        return self.queue.ledger


@dataclass
class Services:
    """Objects with effects outside the loop: processes, curves, user code, timers, files."""

    backend: Backend
    monitor: Monitor
    callbacks: list[Callback]
    phases: Phases
    folder: RunFolder
