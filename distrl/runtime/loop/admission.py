"""Own admission before the object store's: samplers do not run ahead into a store that is nearly full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distrl.experience.fragment import CollectRequest, FragmentMeta

FULL = 0.6  # of the store: Ray begins to write to the disk at 0.8, and weights need room too
STORED = 100 * 2**10  # smaller values live in the memory of the loop's process


class Admission:
    """Counts what fragments take in the object store, and holds back all but the next batch where it is too much.

    Args:
        loop: The loop that dispatches.
        capacity: Bytes of the store; None where there is none.
    """

    def __init__(self, loop: Any, capacity: int | None):
        self.loop, self.capacity = loop, capacity
        self._fragment = 0  # bytes of the newest fragment
        self.held_back = False

    def note(self, metas: Sequence[FragmentMeta]) -> None:
        """Fragments are done."""
        self._fragment = metas[-1].nbytes

    def used(self) -> int:
        """Bytes of fragments that are made, wait, are learned from, or are kept for a new learner."""
        if self._fragment < STORED:
            return 0
        loop = self.loop
        waiting = sum(item.meta.nbytes for item in loop.queue.waiting())
        return waiting + len(loop.ledger.running) * self._fragment + loop.recovery.nbytes()

    def allowed(self, requests: list[CollectRequest]) -> list[CollectRequest]:
        """What of these requests may start now: everything, or what the next batch needs."""
        if not self.capacity or not requests:
            return requests
        room = self.capacity * FULL - self.used() - len(requests) * self._fragment * (self._fragment >= STORED)
        self.held_back = room < 0
        if not self.held_back:
            return requests
        loop = self.loop
        if loop.queue.ordered:
            return [request for request in requests if request.unit.seq <= loop.updates_started]
        missing = loop.queue.streams - len(loop.queue) - len(loop.ledger.running)
        return requests[: max(missing, 0)]

    def problem(self) -> str:
        """What to tell while samplers are held back."""
        if not self.held_back or self.capacity is None:
            return ""
        return (
            f"the object store is at its limit: {self.used() / 2**20:.0f} of {self.capacity / 2**20:.0f} MiB are "
            "fragments; samplers wait for the learner (raise ray.object_store_mb, or lower store.max_staleness)"
        )
