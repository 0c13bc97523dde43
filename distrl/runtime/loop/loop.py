"""The training loop: dispatches work and reacts to events; moves handles, not data.

Everything that counts (episodes, steps, evaluations, stop) changes at update boundaries only, from consumed data in
(sequence, stream) order, so it does not depend on the order of arrival.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from distrl.base.errors import UserError
from distrl.base.phases import Phases
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.monitor.monitor import Monitor
from distrl.runtime.loop.admission import Admission
from distrl.runtime.loop.elastic import Elastic
from distrl.runtime.loop.evaluations import Evaluations
from distrl.runtime.loop.lost_data import LostData
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.reporting import Reporter
from distrl.runtime.loop.saving import Saver
from distrl.runtime.loop.slow_streams import SlowStreams
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.loop.waits import Waits
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol import events as ev
from distrl.runtime.protocol.backend import Backend
from distrl.runtime.protocol.events import Event, Failure
from distrl.runtime.protocol.orders import STOP_NOW, UpdateOrder
from distrl.runtime.run.callbacks import Callback
from distrl.runtime.run.checkpoint import CheckpointStates
from distrl.runtime.run.folder import RunFolder
from distrl.runtime.run.progress import RunProgress

WAIT_SECONDS = 1.0  # longest wait for events
RESTART_SECONDS = 0.05  # the same while a process is down
DIAGNOSE_SECONDS = 0.5  # between two measurements of the policy's movement


class CommandChannel(Protocol):
    """The receiver of commands and the display of the status."""

    def poll(self, loop: Loop) -> None: ...
    def show(self, loop: Loop) -> None: ...


class Loop:
    """One attempt of one run."""

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        folder: RunFolder,
        monitor: Monitor,
        callbacks: list[Callback],
        phases: Phases,
    ):
        self.services = services = Services(backend, monitor, callbacks, phases, folder)
        self.plan, self.config = plan, plan.config
        self.state = state = RunState.fresh(plan, backend.concurrent)
        self.backend, self.monitor, self.callbacks, self.phases = backend, monitor, callbacks, phases
        self.reporter = Reporter(state, services)
        self.elastic = Elastic(state, services)
        self.recovery = Recovery(state, services, lambda: self.saver.save())
        self.lost_data = LostData(state, services, self.recovery)
        self.saver = Saver(state, services, self.recovery, self.lost_data, self.on_checkpoint)
        self.evaluations = Evaluations(state, services, self.saver, self.finish_evaluations)
        self.admission = Admission(state, self.recovery, None)
        self.slow = SlowStreams(state, services, self.elastic)
        problems = self.admission.problem, self.slow.problem
        self.waits = Waits(state, services, self.recovery, self.lost_data, self.elastic, problems)
        self.waits_at = 0.0
        backend.on_wait = self.show_waits
        self.control: CommandChannel | None = None
        self.diagnosed = 0.0  # time.monotonic() of the newest measurement

    @property
    def progress(self) -> RunProgress:
        return self.state.progress

    def start(self, restored: CheckpointStates | None, first: Weights | None = None) -> None:
        """Start all processes, from a checkpoint if given, else from initial weights if given."""
        state = self.state
        self.backend.start(len(state.pool.slots))
        for slot in state.pool.slots:  # their absence counts from here, where the learner is ready
            slot.away_since = time.monotonic()
        live = self.services.folder.live_ledger
        if restored is not None:
            self.saver.restore(restored)
        else:
            state.ledger.take_over(live)
            if first is not None:
                self.backend.ask_learner("warm_start", first)
            state.weights[0] = self.backend.publish(0)
        state.ledger.mirror(live)
        known = restored["progress"]["ledger"]["counts"]["rolled_back"] if restored else 0
        if state.ledger.counts["rolled_back"] > known:
            self.monitor.event("rolled_back", units=state.ledger.counts["rolled_back"] - known)
        self.admission.capacity = self.backend.store_bytes()
        self.recovery.begin(restored["folder"] if restored else None)

    def run(self) -> str:
        """Run until the stop rule holds, and return the reason; exceptions save the state first."""
        state = self.state
        reason = state.progress.stop_reason(self.config.stop)
        try:
            while reason is None:
                self.step()
                if state.stop_requested == STOP_NOW:
                    return state.stop_requested
                if state.queue.learning:
                    continue
                if state.interrupted:
                    self.saver.save()
                    raise KeyboardInterrupt
                reason = state.stop_requested or state.progress.stop_reason(self.config.stop)
        except Exception as error:
            self.monitor.event("failed", error=str(error) or type(error).__name__)
            self.save_after_failure()
            raise
        self.finish_evaluations(ended=True)
        for unit in sorted(state.ledger.running):
            state.queue.cut(unit)
        self.saver.save()
        return state.progress.eval_reason(self.config.stop) or reason  # an evaluation may have ended the run since

    def step(self) -> None:
        """Run one turn: poll commands, order work, handle events."""
        state = self.state
        with self.phases("loop"):
            self.poll()
            self.feed_learner()
            self.dispatch()
        if not (self.backend.busy() or state.interrupted or self.restarting()):  # no new orders once interrupted
            raise RuntimeError(f"the loop has no pending orders: {state.ledger.read()}, next {state.queue.next_seq}")
        if self.backend.concurrent:
            self.elastic.observe()
            with self.phases("wait"):
                events = self.wait()
        else:
            state.turn_began = time.monotonic()
            state.collecting = not state.queue.learning
            events = self.backend.wait(WAIT_SECONDS)
            state.collecting = False
        with self.phases("loop"):
            # A finished update counts, whatever else failed meanwhile.
            for event in sorted(events, key=lambda event: not isinstance(event, ev.Updated)):
                self.handle(event)

    def wait(self) -> list[Event]:
        """Wait for events, briefly while a process is about to be restarted."""
        if not self.backend.busy():
            time.sleep(RESTART_SECONDS)
        return self.backend.wait(RESTART_SECONDS if self.restarting() else WAIT_SECONDS)

    def restarting(self) -> bool:
        """Return True while a process is down that will be restarted."""
        slots = self.state.pool.slots
        moments = (self.recovery.restart_at, self.evaluations.restart_at, *(slot.restart_at for slot in slots))
        return any(moment is not None for moment in moments)

    def poll(self) -> None:
        """Carry out commands, and restart processes that are due."""
        if self.control is not None:
            self.control.poll(self)
        self.show_waits()
        self.elastic.poll()
        self.slow.poll()
        self.recovery.poll()
        self.evaluations.poll()

    def show_waits(self) -> None:
        """Update pending orders and status, at most once a second; also called by a blocked backend."""
        now = time.monotonic()
        if self.backend.concurrent and now - self.waits_at >= WAIT_SECONDS:
            self.waits_at = now
            self.waits.poll()
            if self.control is not None:
                self.control.show(self)

    def finish_evaluations(self, ended: bool = False) -> None:
        """Wait for pending evaluations; once the run has `ended`, ignore failures of samplers."""
        while self.state.evaluations_pending:
            (self.evaluations if ended else self).poll()
            for event in self.wait():
                if not (ended and isinstance(event, ev.SamplerFailed | ev.SamplerLost)):
                    self.handle(event)

    def feed_learner(self) -> None:
        """Order an update if a batch is complete and the learner free; else prefetch for a GPU."""
        state = self.state
        if state.interrupted:
            return
        if state.queue.learning:
            if self.backend.prefetches and (coming := state.queue.peek(state.progress.version + 1)):
                self.backend.stage([item.meta.unit for item in coming], [item.data for item in coming])
            return
        batch = state.queue.pop(state.progress.version, state.updates_started)
        if batch is None:
            return
        now = time.monotonic()
        diagnose = now - self.diagnosed >= DIAGNOSE_SECONDS
        self.diagnosed = now if diagnose else self.diagnosed
        count, units = state.progress, tuple(waiting.meta.unit for waiting in batch)
        progress = Progress(count.version, count.env_steps, self.config.stop.steps, diagnose=diagnose, units=units)
        state.updates_started += 1
        state.updating = True
        data = [waiting.data for waiting in batch]
        self.recovery.current = UpdateOrder(data, progress)
        self.backend.update(data, progress)

    def dispatch(self) -> None:
        """Order the next fragments from every idle sampler."""
        state = self.state
        if state.queue.learning and not self.backend.concurrent and not self.config.deterministic:
            return  # in one process, fragments sampled after the update are fresher
        for slot in state.pool.idle():
            requests = self.admission.allowed(state.pool.orders(slot, state.progress.version))
            if requests:
                state.pool.started(slot, requests)
                self.backend.collect(slot.index, requests, state.weights[requests[0].version])

    def handle(self, event: Event) -> None:
        match event:
            case ev.Updated():
                self.on_updated(event)
            case ev.Collected():
                self.on_collected(event)
            case ev.Probed():
                self.slow.probed(event)
            case ev.SamplerReady():
                self.elastic.sampler_ready(event)
            case ev.SamplerLost():
                self.elastic.sampler_lost(event)
            case ev.SamplerFailed():
                self.state.pool.stopped(self.state.pool.slots[event.sampler], event.requests)
                self.raise_failure(event.failure)
            case ev.LearnerFailed():
                self.state.updating = False
                self.raise_failure(event.failure)
            case ev.BatchLost():
                self.lost_data.update_failed()
            case ev.LearnerLost():
                self.recovery.learner_lost(event.reason, event.process)
            case ev.LearnerReady():
                self.monitor.event("joined", process="learner", pid=event.pid)
            case ev.Evaluated():
                self.evaluations.done(event)
            case ev.EvalFailed():
                self.evaluations.failed(str(event.failure.error))
            case ev.EvaluatorLost():
                self.evaluations.evaluator_lost(event)

    def on_collected(self, event: ev.Collected) -> None:
        """Put finished fragments into the queue, except those of reassigned streams."""
        state = self.state
        wanted = state.pool.finished(state.pool.slots[event.sampler], event.metas)
        units = {meta.unit for meta in wanted}
        for meta, data in zip(event.metas, event.data, strict=True):
            if meta.unit in units:
                state.queue.put(meta, data)
                self.lost_data.arrived(meta)
        self.reporter.shares.add("sampler", event.metas[0].seconds)
        self.admission.observe(event.metas)
        self.elastic.sampler_idle(event.sampler)
        self.slow.finished(wanted)

    def on_updated(self, event: ev.Updated) -> None:
        """Process an update boundary, the only place where counters move."""
        state, report = self.state, event.report
        state.updating = False
        before = state.progress.version
        metas = [waiting.meta for waiting in state.queue.consumed(before)]
        state.pool.consumed(metas)
        state.progress.version = version = report.version
        state.weights[version] = event.weights
        oldest_needed = version - self.config.store.max_staleness if self.config.deterministic else version
        state.weights = {known: handle for known, handle in state.weights.items() if known >= oldest_needed}
        episodes = [episode for meta in metas for episode in meta.episodes]
        state.progress.consume(sum(meta.env_steps for meta in metas), episodes)
        self.reporter.learner_report(report)
        with self.phases("monitor"):
            self.reporter.record(report.metrics, metas, episodes, before, self.diagnosed)
            for episode in episodes:
                for callback in self.callbacks:
                    callback.on_episode(self, episode)
            for callback in self.callbacks:
                callback.on_update(self, report.metrics)
        self.recovery.record_update(sum(meta.nbytes for meta in metas))
        self.evaluations.order_if_due()
        if self.saver.due():
            self.saver.save()

    def raise_failure(self, failure: Failure) -> None:
        if not isinstance(failure.error, UserError) and failure.traceback:
            self.monitor.event("traceback", text=failure.traceback)
        raise failure.error

    def on_checkpoint(self, path: Path) -> None:
        for callback in self.callbacks:
            callback.on_checkpoint(self, path)

    def save_after_failure(self) -> None:
        """Finish the running update, and save the state of its boundary, if possible."""
        try:
            while self.state.updating:
                for event in self.backend.wait(WAIT_SECONDS):
                    if isinstance(event, ev.LearnerFailed | ev.LearnerLost):
                        self.state.updating = False
                    elif isinstance(event, ev.BatchLost):
                        self.lost_data.update_failed()
                    elif isinstance(event, ev.Updated | ev.Evaluated | ev.EvalFailed):
                        self.handle(event)
            if self.progress.version and self.saver.saved_version != self.progress.version:
                self.saver.save()
        except Exception as error:
            self.monitor.warn(f"the state at the end could not be saved: {error}")
