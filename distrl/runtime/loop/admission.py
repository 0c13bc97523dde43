"""Admission control: holds samplers back before the object store is full."""

from __future__ import annotations

from collections.abc import Sequence

from distrl.experience.fragment import CollectRequest, FragmentMeta
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.state import RunState

FULL = 0.6  # of the store: Ray starts to write to the disk at 0.8, and weights need space too
STORED = 100 * 2**10  # smaller values stay in the memory of the loop's process


class Admission:
    """Admits only fragments of the next batch when the object store is nearly full."""

    def __init__(self, state: RunState, recovery: Recovery, capacity: int | None):
        self.state, self.recovery, self.capacity = state, recovery, capacity
        self._fragment = 0  # bytes of the newest fragment
        self.held_back = False

    def observe(self, metas: Sequence[FragmentMeta]) -> None:
        self._fragment = metas[-1].nbytes

    def used(self) -> int:
        """Return the bytes of running, waiting and kept fragments."""
        if self._fragment < STORED:
            return 0
        state = self.state
        waiting = sum(item.meta.nbytes for item in state.queue.waiting())
        return waiting + len(state.ledger.running) * self._fragment + self.recovery.nbytes()

    def allowed(self, requests: list[CollectRequest]) -> list[CollectRequest]:
        """Return the requests that may start now: all, or those that the next batch needs."""
        if not self.capacity or not requests:
            return requests
        free = self.capacity * FULL - self.used() - len(requests) * self._fragment * (self._fragment >= STORED)
        self.held_back = free < 0
        if not self.held_back:
            return requests
        state = self.state
        if state.queue.ordered:
            return [request for request in requests if request.unit.seq <= state.updates_started]
        missing = state.queue.streams - len(state.queue) - len(state.ledger.running)
        return requests[: max(missing, 0)]

    def problem(self) -> str:
        """Describe why samplers are held back, or return an empty string."""
        if not self.held_back or self.capacity is None:
            return ""
        return (
            f"the object store is at its limit: {self.used() / 2**20:.0f} of {self.capacity / 2**20:.0f} MiB are "
            "fragments; samplers wait for the learner (raise ray.object_store_mb, or lower store.max_staleness)"
        )
