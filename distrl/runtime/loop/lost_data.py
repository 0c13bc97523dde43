"""Handles fragments lost with a node: reports, counts and, in order, regenerates them.

A regenerated fragment is bit-identical: the same snapshot, the same weights. Later ones of its stream are rolled back.
"""

from __future__ import annotations

from distrl.experience.fragment import FragmentMeta, Unit
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.state import RunState, Services


class LostData:
    """Checks that the data of waiting fragments still exists."""

    def __init__(self, state: RunState, services: Services, recovery: Recovery):
        self.state, self.backend, self.monitor, self.recovery = state, services.backend, services.monitor, recovery

    def probe(self) -> bool:
        """Drop waiting fragments whose data is lost; return True if there were any.

        The batch of a running update is left out: if its data is gone, the update reports it.
        """
        queue = self.state.queue
        items = [item for item in queue.waiting() if item not in queue.learning]
        gone = self.backend.gone([item.data for item in items]) if items else []
        lost = sorted(item.meta.unit for item, is_gone in zip(items, gone, strict=True) if is_gone)
        if not lost:
            return False
        for unit in lost:
            queue.drop(unit, "lost", again=queue.ordered)
        rolled_back: list[Unit] = []
        for stream in {unit.stream for unit in lost} if queue.ordered else ():
            rolled_back += self._rewind(min(unit for unit in lost if unit.stream == stream))
        self.monitor.event("lost", what="fragments", units=[tuple(unit) for unit in lost])
        if rolled_back:
            self.monitor.event("rolled_back", units=len(rolled_back), after="a lost fragment that is regenerated")
        return True

    def update_failed(self) -> None:
        """Cancel the running update, whose data is lost, and requeue the rest of its batch."""
        state = self.state
        state.queue.requeue()
        state.updates_started -= 1
        state.updating = False
        self.recovery.current = None
        if not self.probe():
            self.monitor.warn("an update found data of its batch missing that is available again")

    def arrived(self, meta: FragmentMeta) -> None:
        """Roll back a finished fragment if an earlier one of its stream was lost meanwhile."""
        if meta.unit in self.state.pool.rolled_back:
            self.state.pool.rolled_back.remove(meta.unit)
            self.state.queue.drop(meta.unit, "rolled_back", again=True)

    def _rewind(self, unit: Unit) -> list[Unit]:
        """Rewind a stream to before `unit`; roll back and return later waiting fragments."""
        queue, pool = self.state.queue, self.state.pool
        waiting = [item.meta.unit for item in queue.waiting()]
        later = [other for other in waiting if other.stream == unit.stream and other.seq > unit.seq]
        for other in later:
            queue.drop(other, "rolled_back", again=True)
        queue.next_seq[unit.stream] = unit.seq
        pool.rolled_back |= {other for other in self.state.ledger.running if other.stream == unit.stream}
        host = pool.rewind(unit)
        if host is not None:
            self.backend.drop_streams(host, [unit.stream])
        return later
