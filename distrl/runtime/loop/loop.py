"""The loop: it decides who works next, watches everybody, and moves references, never data.

    while the run goes on:
        hand a complete batch to the learner
        give every idle sampler what it may do now
        wait for an event, and act on it

Everything that counts (episodes, steps, evaluation, stop) happens at update boundaries, on consumed data, in
(sequence, stream) order, so that it does not depend on who was faster.
"""

from __future__ import annotations

import time
from typing import Any

from distrl.base.errors import UserError
from distrl.base.phases import Phases
from distrl.control.learner.learner import Progress
from distrl.experience.fragment import FragmentMeta
from distrl.experience.ledger import Ledger
from distrl.experience.weights import Weights
from distrl.runtime.loop.admission import Admission
from distrl.runtime.loop.elastic import Elastic
from distrl.runtime.loop.evaluations import Evaluations
from distrl.runtime.loop.lost_data import Losses
from distrl.runtime.loop.pool import Pool
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.saving import Saver
from distrl.runtime.loop.slow_streams import SlowStreams
from distrl.runtime.loop.time_shares import Shares, limit
from distrl.runtime.loop.waits import Waits
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.backend import Backend
from distrl.runtime.protocol.events import (
    BatchLost,
    Collected,
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
from distrl.runtime.protocol.orders import STOP_NOW
from distrl.runtime.run.callbacks import Callbacks
from distrl.runtime.run.progress import RunProgress
from distrl.store.queue import Queue

WAIT_SECONDS = 1.0  # how long the loop sleeps at most before it looks around
RESTART_SECONDS = 0.05  # the same while something is down
DIAGNOSE_SECONDS = 0.5  # between two measurements of how far an update moved the policy


class Loop:
    """One attempt of one run.

    Args:
        plan: The checked run.
        backend: Where the work is done.
        saver: Writes checkpoints.
        monitor: Shows and records.
        callbacks: User code.
        phases: Of this process.
    """

    def __init__(self, plan: Plan, backend: Backend, saver: Saver, monitor: Any, callbacks: Callbacks, phases: Phases):
        config = plan.config
        self.plan, self.config = plan, config
        self.backend, self.saver, self.monitor, self.callbacks, self.phases = backend, saver, monitor, callbacks, phases
        self.shares = Shares(phases)
        self.ledger = Ledger()
        k = config.store.max_staleness
        self.queue = Queue(config.env.streams, k, plan.ordered, self.ledger)
        samplers = config.samplers.count if backend.concurrent else 1
        self.pool = Pool(config.env.streams, samplers, self.queue, k, config.deterministic)
        self.progress = RunProgress(config.stop.window)
        self.weights: dict[int, Any] = {}  # version -> handle, as far back as a unit may need
        self.updates_started = 0
        self.updating = False  # the learner is at work: its state is not that of a boundary
        self.lost_transitions = 0  # with replay shards that died
        self.interrupted = False
        self.asked_to_stop: str | None = None  # by a command: commands.STOP or STOP_NOW
        self.elastic = Elastic(self)
        self.recovery = Recovery(self)
        self.losses = Losses(self)
        self.evaluations = Evaluations(self)
        self.admission = Admission(self, None)
        self.slow = SlowStreams(self)
        self.waits = Waits(self)
        self.waits_at = 0.0
        backend.on_wait = self.show_waits
        self.control: Any = None  # commands from outside, see control.py
        self.diagnosed = self.shown = 0.0
        self.collecting = False  # a sampler of this very process is at work (serial back end)
        self.watchdog: Any = None

    # ---- the run ---------------------------------------------------------------------------------------------------

    def start(self, restored: dict[str, Any] | None, first: Weights | None = None) -> None:
        """Start every process; continue from a checkpoint's states, or begin with given weights, if there are any."""
        self.backend.start(len(self.pool.slots))
        self.elastic.begin()
        if restored is not None:
            self.saver.restore(self, restored)
        else:
            self.ledger.take_over(self.saver.folder.live_ledger)
            if first is not None:
                self.backend.warm_start(first)
            self.weights[0] = self.backend.publish(0)
        self.ledger.mirror(self.saver.folder.live_ledger)
        known = restored["progress"]["ledger"]["counts"]["rolled_back"] if restored else 0
        if self.ledger.counts["rolled_back"] > known:
            self.monitor.event("rolled_back", units=self.ledger.counts["rolled_back"] - known)
        self.admission.capacity = self.backend.store_bytes()
        self.recovery.begin(restored["folder"] if restored else None)

    def run(self) -> str:
        """Go on until the stop rule holds; returns why the run ended.

        Raises:
            UserError: Whatever ended the run early; the state of the last boundary has been saved.
            KeyboardInterrupt: Interrupted; saved as well.
        """
        reason = self.progress.stop_reason(self.config.stop)
        try:
            while reason is None:
                self.step()
                if self.asked_to_stop == STOP_NOW:
                    return self.asked_to_stop
                if not self.queue.learning:
                    reason = self.boundary_reason()
        except Exception as error:
            self.monitor.event("failed", error=str(error) or type(error).__name__)
            self.save_after_failure()
            raise
        self.evaluations.finish(ended=True)
        for unit in sorted(self.ledger.running):
            self.queue.cut(unit)
        self.saver.save(self)
        return self.progress.eval_reason(self.config.stop) or reason  # an evaluation may have ended after the last step

    def step(self) -> None:
        """One turn: commands, orders out, events in."""
        with self.phases("loop"):
            self.look_around()
            self.feed_learner()
            self.dispatch()
        if not (self.backend.busy() or self.interrupted or self.restarting()):  # interrupted, no orders go out any more
            raise RuntimeError(f"the loop has nothing to wait for: {self.ledger.read()}, next {self.queue.next_seq}")
        if self.backend.concurrent:
            self.elastic.note()
            with self.phases("wait"):
                events = self.wait()
        else:
            self.watchdog.turn()
            self.collecting = not self.queue.learning
            events = self.backend.wait(WAIT_SECONDS)
            self.collecting = False
        with self.phases("loop"):
            # An update that is done counts, whatever else went wrong meanwhile.
            for event in sorted(events, key=lambda event: not isinstance(event, Updated)):
                self.handle(event)

    def wait(self) -> list[Event]:
        """Events; short where something is to be started again soon."""
        if not self.backend.busy():
            time.sleep(RESTART_SECONDS)
        return self.backend.wait(RESTART_SECONDS if self.restarting() else WAIT_SECONDS)

    def restarting(self) -> bool:
        """Whether a part is down and will be started again when its time has come."""
        parts = (self.recovery.restart_at, self.evaluations.restart_at, *(slot.restart_at for slot in self.pool.slots))
        return any(moment is not None for moment in parts)

    def look_around(self) -> None:
        """Commands from outside, at most once a second; what died and may begin again does."""
        if self.control is not None:
            self.control.turn(self)
        self.show_waits()
        self.elastic.turn()
        self.slow.turn()
        self.recovery.turn()
        self.evaluations.turn()

    def show_waits(self) -> None:
        """Who waits for whom, at most once a second; also called while the back end itself waits."""
        now = time.monotonic()
        if self.backend.concurrent and now - self.waits_at >= WAIT_SECONDS:
            self.waits_at = now
            self.waits.turn()
            if self.control is not None:
                self.control.show(self)

    def boundary_reason(self) -> str | None:
        """Called with no update under way: stop, interrupt."""
        if self.interrupted:
            self.saver.save(self)
            raise KeyboardInterrupt
        return self.asked_to_stop or self.progress.stop_reason(self.config.stop)

    # ---- orders ----------------------------------------------------------------------------------------------------

    def feed_learner(self) -> None:
        """Hand over a batch, if one is complete and the learner is free; let a GPU fetch the next one meanwhile."""
        if self.interrupted:
            return
        if self.queue.learning:
            if self.backend.prefetches and (coming := self.queue.peek(self.progress.version + 1)):
                self.backend.stage([item.meta.unit for item in coming], [item.data for item in coming])
            return
        batch = self.queue.pop(self.progress.version, self.updates_started)
        if batch is None:
            return
        now = time.monotonic()
        diagnose = now - self.diagnosed >= DIAGNOSE_SECONDS
        if diagnose:
            self.diagnosed = now
        progress = Progress(
            self.progress.version,
            self.progress.env_steps,
            self.config.stop.env_steps,
            diagnose=diagnose,
            units=tuple(waiting.meta.unit for waiting in batch),
        )
        self.updates_started += 1
        self.updating = True
        data = [waiting.data for waiting in batch]
        self.recovery.ordered(data, progress)
        self.backend.update(data, progress)

    def dispatch(self) -> None:
        """Give every idle sampler what it may do now."""
        if self.queue.learning and not self.backend.concurrent and not self.config.deterministic:
            return  # one process: what is sampled after the update is fresher
        for slot in self.pool.idle():
            requests = self.admission.allowed(self.pool.orders(slot, self.progress.version))
            if requests:
                self.pool.started(slot, requests)
                self.backend.collect(slot.index, requests, self.weights[requests[0].version])

    # ---- events ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        match event:
            case Updated():
                self.on_updated(event)
            case Collected():
                self.on_collected(event)
            case Probed():
                self.slow.probed(event)
            case SamplerReady():
                self.elastic.ready(event)
            case SamplerLost():
                self.elastic.lost(event)
            case SamplerFailed():
                self.pool.stopped(self.pool.slots[event.sampler], event.requests)
                self.raise_failure(event.failure)
            case LearnerFailed():
                self.updating = False
                self.raise_failure(event.failure)
            case BatchLost():
                self.losses.update_failed()
            case LearnerLost():
                self.recovery.lost(event.reason, event.process)
            case LearnerReady():
                self.monitor.event("joined", process="learner", pid=event.pid)
            case Evaluated():
                self.evaluations.done(event)
            case EvalFailed():
                self.evaluations.failed(str(event.failure.error))
            case EvaluatorLost():
                self.evaluations.lost(event)

    def on_collected(self, event: Collected) -> None:
        """Fragments are whole; what a sampler made of streams that have left it is not used."""
        wanted = self.pool.finished(self.pool.slots[event.sampler], event.metas)
        units = {meta.unit for meta in wanted}
        for meta, data in zip(event.metas, event.data, strict=True):
            if meta.unit in units:
                self.queue.put(meta, data)
                self.losses.arrived(meta)
        self.shares.add("sampler", event.metas[0].seconds)
        self.admission.note(event.metas)
        self.elastic.drained(event.sampler)
        self.slow.finished(wanted)

    def on_updated(self, event: Updated) -> None:
        """An update boundary: the only place where counters move."""
        self.updating = False
        before = self.progress.version
        metas = [waiting.meta for waiting in self.queue.consumed(before)]
        self.pool.consumed(metas)
        self.progress.version = version = event.report.version
        self.weights[version] = event.weights
        oldest_needed = version - self.config.store.max_staleness if self.config.deterministic else version
        for old in [known for known in self.weights if known < oldest_needed]:
            del self.weights[old]
        episodes = [episode for meta in metas for episode in meta.episodes]
        self.progress.consume(sum(meta.env_steps for meta in metas), episodes)
        self.shares.add("learner", event.report.seconds)
        lost = int(event.report.metrics.get("replay/lost_with_shard", 0))
        if lost > self.lost_transitions:
            self.monitor.event("lost", what="replay shard", transitions=lost - self.lost_transitions)
            self.lost_transitions = lost
        for text in event.report.warnings:
            self.monitor.warn(text)
        with self.phases("monitor"):
            self.record(event.report.metrics, metas, episodes, before)
        self.recovery.done(sum(meta.nbytes for meta in metas))
        self.evaluations.order_if_due()
        self.checkpoint_if_due()

    def record(self, metrics: dict[str, float], metas: list[FragmentMeta], episodes: list[Any], version: int) -> None:
        """Curves and callbacks of one update."""
        ages = [version - meta.version for meta in metas]
        metrics["staleness/mean"] = sum(ages) / len(ages)
        metrics["staleness/max"] = max(ages)
        metrics["staleness/waiting"] = len(self.queue)
        if self.diagnosed > self.shown:
            metrics.update(self.show_status(max(ages)))
        if episodes:
            metrics["return/mean"] = sum(episode.return_ for episode in episodes) / len(episodes)
            metrics["length/mean"] = sum(episode.length for episode in episodes) / len(episodes)
        if self.progress.return_mean is not None:
            metrics[f"return/mean_last_{self.progress.window}"] = self.progress.return_mean
        self.monitor.update(metrics, self.progress.env_steps, self.progress.version)
        if self.callbacks:
            for episode in episodes:
                self.callbacks.on_episode(self, episode)
            self.callbacks.on_update(self, metrics)

    def show_status(self, staleness: int) -> dict[str, float]:
        """Tell the live display what goes on; returns the shares of time as curve tags."""
        self.shown = self.diagnosed
        shares = self.shares.since_last()
        self.monitor.status(
            samplers=sum(slot.ready for slot in self.pool.slots),
            waiting=len(self.queue),
            staleness=staleness,
            limit=limit(shares),
            phases=shares.get("learner", shares["loop"]),
        )
        return {f"time/{process}/{name}": share for process, phases in shares.items() for name, share in phases.items()}

    def raise_failure(self, failure: Failure) -> None:
        if not isinstance(failure.error, UserError) and failure.traceback:
            self.monitor.event("traceback", text=failure.traceback)
        raise failure.error

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> None:
        settings = self.config.checkpoint
        steps = self.progress.env_steps - self.progress.checkpointed_at
        if (settings.every and steps >= settings.every) or (
            settings.every_seconds and self.saver.seconds_since_save() >= settings.every_seconds
        ):
            self.saver.save(self)

    def save_after_failure(self) -> None:
        """Something raised: keep what was learned up to the last boundary, if it can be kept."""
        try:
            self.finish_update()
            if self.progress.version and self.saver.saved_version != self.progress.version:
                self.saver.save(self)
        except Exception as error:
            self.monitor.warn(f"the state at the end could not be saved: {error}")

    def finish_update(self) -> None:
        """Wait for an update under way, so that the learner's state is that of a boundary and fits our counters."""
        while self.updating:
            for event in self.backend.wait(WAIT_SECONDS):
                if isinstance(event, LearnerFailed | LearnerLost):
                    self.updating = False
                elif isinstance(event, BatchLost):
                    self.losses.update_failed()
                elif isinstance(event, Updated | Evaluated | EvalFailed):
                    self.handle(event)

    # ---- the end ---------------------------------------------------------------------------------------------------

    def summary(self, reason: str) -> dict[str, Any]:
        """What `summary.json` holds."""
        weights = self.backend.fetch(self.weights[self.progress.version])
        self.ledger.check()
        return {
            "name": self.config.name,
            "stopped": reason,
            "seed": self.config.seed,
            "backend": self.config.backend,
            "deterministic": self.config.deterministic,
            "env_steps": self.progress.env_steps,
            "updates": self.progress.version,
            "episodes": self.progress.episodes,
            "wall_s": self.progress.wall_seconds,
            "return_mean_last_20": _mean(list(self.progress.returns)[-20:]),
            "eval_return_mean": self.progress.last_eval,
            "best_eval_return_mean": self.progress.best,
            "evaluations": self.progress.evals,
            "parameter_hash": weights.checksum(),
            "ledger": self.ledger.read(),
            "staleness_max": self.ledger.staleness_max,
            "phases": self.shares.seconds(),
            "checkpoint": str(self.saver.last_path) if self.saver.last_path else None,
            "checkpoint_problem": self.saver.problem,
        }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
