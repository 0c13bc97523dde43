"""Samplers that join and leave while the run goes on, by command or by themselves (`samplers.min` and `max`)."""

from __future__ import annotations

import time
from typing import Any

from distrl.base.errors import ConfigError
from distrl.runtime.backends.stacks import stacks_file
from distrl.runtime.loop.autoscale import Autoscaler
from distrl.runtime.loop.pool import Quarantined
from distrl.runtime.loop.recovery import backoff
from distrl.runtime.protocol.events import SamplerLost, SamplerReady

LODGE_SECONDS = 10.0  # a process that starts takes less on a machine that has room for it


class Elastic:
    """Carries out changes of the pool: starts and ends processes, tells the monitor.

    Args:
        loop: The loop whose pool and back end these are.
    """

    def __init__(self, loop: Any):
        self.loop = loop
        self.wanted: int = loop.pool.size
        settings = loop.config.samplers
        self.autoscaler = Autoscaler(settings.min, settings.max) if settings.min and settings.max else None

    def begin(self) -> None:
        """The learner stands; samplers that do not yet are away from now on."""
        for slot in self.loop.pool.slots:
            slot.away_since = time.monotonic()

    # ---- by command ------------------------------------------------------------------------------------------------

    def scale(self, samplers: int, why: str) -> str:
        """Go to another number of samplers; returns at once, with a sentence for people.

        Raises:
            ConfigError: Not a number that this run can use.
        """
        loop, settings = self.loop, self.loop.config.samplers
        if not loop.backend.concurrent:
            raise ConfigError(
                "this run has backend serial: one process does everything.", "Start it with backend=ray to scale it."
            )
        if self.autoscaler and not settings.min <= samplers <= settings.max:
            raise ConfigError(
                f"{samplers} samplers asked for; this run scales itself between samplers.min {settings.min} and "
                f"samplers.max {settings.max}.",
                "Give a number between the two.",
            )
        before = loop.pool.size
        change = loop.pool.resize(samplers)
        self.wanted = samplers
        if samplers == before:
            return f"{before} samplers already."
        loop.monitor.event("scaled", before=before, after=samplers, why=why)
        if self.autoscaler:
            self.autoscaler.reset()
        for index in change.start:
            loop.backend.replace_sampler(index)
        self._announce(change.moved)
        for index in change.end:
            self._left(index)
        leaving = sum(slot.state == "draining" for slot in loop.pool.slots)
        parts = [f"{len(change.start)} starting"] * bool(change.start)
        parts += [f"{len(change.end)} left"] * bool(change.end)
        parts += [f"{leaving} leaving after their running fragments"] * bool(leaving)
        return f"samplers {before} -> {samplers}: {', '.join(parts)}."

    # ---- slow streams ----------------------------------------------------------------------------------------------

    def isolate(self, stream: int) -> None:
        """Leave a slow stream its sampler alone, if that helps: where a batch needs every stream it does not."""
        loop = self.loop
        if not loop.backend.concurrent or loop.queue.ordered or stream in loop.pool.isolated():
            return
        cut = loop.ledger.counts["cut"]
        change = loop.pool.isolate(stream)
        if change is None:
            return
        for index in change.start:
            loop.backend.replace_sampler(index)
        cut = loop.ledger.counts["cut"] - cut
        loop.monitor.event("isolated", stream=stream, sampler=loop.pool.sampler_of(stream), cut=cut, start=change.start)
        self._announce(change.moved)

    def release(self, stream: int) -> None:
        """A stream is slow no more."""
        self._announce(self.loop.pool.release(stream))

    # ---- by what the loop sees -------------------------------------------------------------------------------------

    def ready(self, event: SamplerReady) -> None:
        """A sampler stands: it gets streams, or is sent away where it is no longer wanted."""
        slot = self.loop.pool.slots[event.sampler]
        moved = self.loop.pool.joined(slot, event.pid, event.node)
        self.loop.monitor.event(
            "joined", sampler=slot.index, pid=event.pid, node=event.node, streams=sorted(slot.streams)
        )
        self._announce(moved)

    def lost(self, event: SamplerLost) -> None:
        """A sampler died or hung: a new process takes its place, at once or after a while, where one is wanted."""
        loop, slot = self.loop, self.loop.pool.slots[event.sampler]
        facts: dict[str, Any] = {"reason": event.reason, "cut": [tuple(request.unit) for request in event.requests]}
        stacks = stacks_file(loop.saver.folder.path, f"sampler {slot.index}")
        if stacks.is_file():
            facts["stacks"] = str(stacks)
        loop.monitor.event("died", sampler=slot.index, **facts)
        try:
            wanted = loop.pool.lost(slot, event.requests, event.reason, event.hopeless)
        except Quarantined as error:
            loop.monitor.event("quarantined", stream=error.stream, why=error.problem)
            raise
        if wanted:
            slot.restart_at = time.monotonic() + backoff(slot.losses)
            return
        self._left(slot.index)
        if slot.losses > 1:
            loop.monitor.warn(
                f"sampler {slot.index} could not be started ({event.reason}); the run goes on with {loop.pool.size}."
            )

    def turn(self) -> None:
        """Called between the loop's turns: successors of lost samplers begin when their time has come."""
        self._lodge()
        for slot in self.loop.pool.slots:
            if slot.restart_at is not None and time.monotonic() >= slot.restart_at:
                slot.restart_at = None
                self.loop.backend.replace_sampler(slot.index)
                self.loop.monitor.event("restarted", sampler=slot.index, streams=slot.streams, losses=slot.losses)

    def _lodge(self) -> None:
        """Streams whose sampler has been away for long live in the others until it is back."""
        pool, now = self.loop.pool, time.monotonic()
        if not any(slot.state == "hosting" and slot.ready for slot in pool.slots):
            return
        away = [slot for slot in pool.slots if slot.state == "hosting" and not slot.ready]
        away = [slot for slot in away if slot.streams and now - slot.away_since > LODGE_SECONDS]
        if away:
            self._announce(pool.reassign(away))

    def room(self) -> None:
        """A machine joined: samplers that were given up because there was no room for them are started again."""
        if self.autoscaler is None and self.loop.backend.concurrent and self.loop.pool.size < self.wanted:
            self.scale(self.wanted, "a machine joined")

    def drained(self, sampler: int) -> None:
        """A sampler finished its fragments: if it was to leave, it goes now."""
        if self.loop.pool.take_leave(self.loop.pool.slots[sampler]):
            self._left(sampler)

    def note(self) -> None:
        """Called before every wait of the loop: who is idle until it ends."""
        if self.autoscaler is None:
            return
        loop = self.loop
        working = [slot for slot in loop.pool.slots if slot.ready and slot.state == "hosting"]
        idle = sum(not slot.busy for slot in working) / max(len(working), 1)
        self.autoscaler.note(time.monotonic(), float(not loop.queue.learning), idle)
        if any(slot.state in ("joining", "draining") for slot in loop.pool.slots):
            self.autoscaler.reset()  # the last change has not shown its effect yet
            return
        wish = self.autoscaler.wish(loop.pool.size)
        if wish is not None:
            self.scale(wish, "the learner waits" if wish > loop.pool.size else "the queue is full")

    # ---- words and processes ---------------------------------------------------------------------------------------

    def _left(self, sampler: int) -> None:
        self.loop.backend.end_sampler(sampler)
        self.loop.monitor.event("left", sampler=sampler)

    def _announce(self, moved: dict[int, tuple[int, int]]) -> None:
        """Tell where streams live now; old homes may forget them."""
        if not moved:
            return
        forget: dict[int, list[int]] = {}
        for stream, (old, _) in moved.items():
            forget.setdefault(old, []).append(stream)
        for sampler, streams in forget.items():
            if self.loop.pool.slots[sampler].state != "gone":
                self.loop.backend.drop_streams(sampler, streams)
        places = {str(stream): list(change) for stream, change in sorted(moved.items())}
        self.loop.monitor.event("reassigned", streams=places)
