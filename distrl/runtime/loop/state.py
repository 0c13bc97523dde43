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
from distrl.runtime.run.callbacks import Callbacks
from distrl.runtime.run.folder import RunFolder
from distrl.runtime.run.progress import RunProgress
from distrl.store.queue import Queue


@dataclass
class RunState:
    """Mutable state of one attempt of a run.

    Attributes:
        weights: Version -> handle, back to the oldest version that a unit may need.
        updates_started: Updates ordered so far, the running one included.
        updating: An update is running, so the learner's state is not that of a boundary.
        evaluations_pending: Evaluations ordered and not finished.
        lost_transitions: Transitions lost with dead replay shards.
        interrupted: Ctrl-C or SIGTERM was received.
        stop_requested: Reason given by a command (`STOP` or `STOP_NOW`) or a callback.
        collecting: A sampler of this process is running (serial backend).
        turn_began: `time.monotonic()` at the start of the present turn.
    """

    plan: Plan
    queue: Queue
    pool: Pool
    progress: RunProgress
    weights: dict[int, Handle] = field(default_factory=dict)
    updates_started: int = 0
    updating: bool = False
    evaluations_pending: int = 0
    lost_transitions: int = 0
    interrupted: bool = False
    stop_requested: str | None = None
    collecting: bool = False
    turn_began: float = field(default_factory=time.monotonic)

    @classmethod
    def fresh(cls, plan: Plan, concurrent: bool) -> RunState:
        """Return the state before the first update."""
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
    """Objects with effects outside the loop: processes, curves and events, user code, timers, files."""

    backend: Backend
    monitor: Monitor
    callbacks: Callbacks
    phases: Phases
    folder: RunFolder
