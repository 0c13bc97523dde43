"""Starts, ends and restarts samplers: by command, automatically, and after losses."""

from __future__ import annotations

import time
from collections.abc import Mapping

from distrl.base.errors import ConfigError
from distrl.runtime.backends.stacks import stacks_file
from distrl.runtime.loop.autoscale import Autoscaler
from distrl.runtime.loop.pool import Quarantined
from distrl.runtime.loop.recovery import backoff
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.events import SamplerLost, SamplerReady

REASSIGN_SECONDS = 10.0  # longer than the start of a process on a machine with free memory


class Elastic:
    """Carries out the pool's changes: processes and events."""

    def __init__(self, state: RunState, services: Services):
        self.state, self.pool = state, state.pool
        self.backend, self.monitor, self.folder = services.backend, services.monitor, services.folder
        self.wanted = self.pool.size
        settings = state.config.samplers
        self.autoscaler = Autoscaler(settings.min, settings.max) if settings.min and settings.max else None

    def scale(self, samplers: int, why: str) -> str:
        """Change the number of samplers; return at once with a sentence for the user."""
        if not self.backend.concurrent:
            problem = "this run has backend serial: one process does everything."
            raise ConfigError(problem, "Start it with backend=ray to scale it.")
        if (scaler := self.autoscaler) and not scaler.least <= samplers <= scaler.most:
            raise ConfigError(
                f"{samplers} samplers requested; this run scales itself between samplers.min {scaler.least} and "
                f"samplers.max {scaler.most}.",
                "Give a number between the two.",
            )
        before = self.pool.size
        change = self.pool.resize(samplers)
        self.wanted = samplers
        if samplers == before:
            return f"{before} samplers already."
        self.monitor.event("scaled", before=before, after=samplers, why=why)
        if self.autoscaler:
            self.autoscaler.reset()
        for index in change.start:
            self.backend.replace_sampler(index)
        self._announce(change.moved)
        for index in change.end:
            self._end(index)
        leaving = [slot for slot in self.pool.slots if slot.state == "draining"]
        facts = {"starting": change.start, "left": change.end, "leaving after their running fragments": leaving}
        counts = [f"{len(these)} {what}" for what, these in facts.items() if these]
        return f"samplers {before} -> {samplers}: {', '.join(counts)}."

    def observe(self) -> None:
        """Update the autoscaler before each wait of the loop, and scale if it proposes a change."""
        if self.autoscaler is None:
            return
        slots, learner_idle = self.pool.slots, not self.state.queue.learning
        hosting = [slot for slot in slots if slot.ready and slot.state == "hosting"]
        idle = sum(not slot.busy for slot in hosting) / max(len(hosting), 1)
        self.autoscaler.observe(time.monotonic(), float(learner_idle), idle)
        if any(slot.state in ("joining", "draining") for slot in slots):
            self.autoscaler.reset()  # the effect of the last change is not visible yet
            return
        target = self.autoscaler.target(self.pool.size)
        if target is not None:
            self.scale(target, "the learner waits" if target > self.pool.size else "the queue is full")

    def node_joined(self) -> None:
        """Start the samplers again that were given up for lack of resources."""
        if self.autoscaler is None and self.backend.concurrent and self.pool.size < self.wanted:
            self.scale(self.wanted, "a machine joined")

    def isolate(self, stream: int) -> None:
        """Leave a slow stream alone in its sampler, unless batches need every stream anyway."""
        if not self.backend.concurrent or self.state.queue.ordered or stream in self.pool.isolated():
            return
        cut = self.state.ledger.counts["cut"]
        change = self.pool.isolate(stream)
        if change is None:
            return
        for index in change.start:
            self.backend.replace_sampler(index)
        cut = self.state.ledger.counts["cut"] - cut
        sampler = self.pool.sampler_of(stream)
        self.monitor.event("isolated", stream=stream, sampler=sampler, cut=cut, start=change.start)
        self._announce(change.moved)

    def release(self, stream: int) -> None:
        self._announce(self.pool.release(stream))

    def sampler_ready(self, event: SamplerReady) -> None:
        slot = self.pool.slots[event.sampler]
        moved = self.pool.joined(slot, event.pid, event.node)
        self.monitor.event("joined", sampler=slot.index, pid=event.pid, node=event.node, streams=sorted(slot.streams))
        self._announce(moved)

    def sampler_lost(self, event: SamplerLost) -> None:
        """Schedule the restart of a sampler that died or hung, if it is still wanted."""
        slot = self.pool.slots[event.sampler]
        facts: dict[str, object] = {"reason": event.reason, "cut": [tuple(request.unit) for request in event.requests]}
        stacks = stacks_file(self.folder.path, f"sampler {slot.index}")
        if stacks.is_file():
            facts["stacks"] = str(stacks)
        self.monitor.event("died", sampler=slot.index, **facts)
        try:
            wanted = self.pool.lost(slot, event.requests, event.reason, event.hopeless)
        except Quarantined as error:
            self.monitor.event("quarantined", stream=error.stream, why=error.problem)
            raise
        if wanted:
            slot.restart_at = time.monotonic() + backoff(slot.losses)
            return
        self._end(slot.index)
        if slot.losses > 1:
            left = f"the run continues with {self.pool.size}"
            self.monitor.warn(f"sampler {slot.index} could not be started ({event.reason}); {left}.")

    def sampler_idle(self, sampler: int) -> None:
        """End a draining sampler that has finished its fragments."""
        if self.pool.end_if_drained(self.pool.slots[sampler]):
            self._end(sampler)

    def poll(self) -> None:
        """Restart lost samplers that are due, and reassign the streams of those absent for long."""
        self._reassign()
        for slot in self.pool.slots:
            if slot.restart_at is not None and time.monotonic() >= slot.restart_at:
                slot.restart_at = None
                self.backend.replace_sampler(slot.index)
                self.monitor.event("restarted", sampler=slot.index, streams=slot.streams, losses=slot.losses)

    def _reassign(self) -> None:
        slots, now = self.pool.slots, time.monotonic()
        if not any(slot.state == "hosting" and slot.ready for slot in slots):
            return
        away = [slot for slot in slots if slot.state == "hosting" and not slot.ready]
        away = [slot for slot in away if slot.streams and now - slot.away_since > REASSIGN_SECONDS]
        if away:
            self._announce(self.pool.reassign(away))

    def _end(self, sampler: int) -> None:
        self.backend.end_sampler(sampler)
        self.monitor.event("left", sampler=sampler)

    def _announce(self, moved: Mapping[int, tuple[int, int]]) -> None:
        """Report moved streams, and let their old samplers drop them."""
        if not moved:
            return
        dropped: dict[int, list[int]] = {}
        for stream, (old, _) in moved.items():
            dropped.setdefault(old, []).append(stream)
        for sampler, streams in dropped.items():
            if self.pool.slots[sampler].state != "gone":
                self.backend.drop_streams(sampler, streams)
        self.monitor.event("reassigned", streams={str(stream): list(moved[stream]) for stream in sorted(moved)})
