"""Fragments whose data went with a machine: told, counted as lost, and made again where a batch needs just them.

By arrival a batch is whatever comes first, so a lost fragment is gone and its stream goes on. Where batch u is fragment
u of every stream, a lost one is made again from the snapshot before it, with the weights that it had: it has the same
bits. Later fragments of its stream are taken back with it.
"""

from __future__ import annotations

from typing import Any

from distrl.experience.fragment import FragmentMeta, Unit


class Losses:
    """Looks whether the data of waiting fragments is still there.

    Args:
        loop: The loop whose queue this is.
    """

    def __init__(self, loop: Any):
        self.loop = loop

    def look(self) -> bool:
        """Ask where the data of every waiting fragment is; returns whether some was lost. A batch under way is not
        looked at: if its data is gone, its update says so."""
        loop = self.loop
        items = [item for item in loop.queue.waiting() if item not in loop.queue.learning]
        gone = loop.backend.gone([item.data for item in items]) if items else []
        lost = sorted(item.meta.unit for item, is_gone in zip(items, gone, strict=True) if is_gone)
        if not lost:
            return False
        rolled_back: list[Unit] = []
        for unit in lost:
            loop.queue.drop(unit, "lose", again=loop.queue.ordered)
        if loop.queue.ordered:
            for stream in {unit.stream for unit in lost}:
                rolled_back += self._go_back(min(unit for unit in lost if unit.stream == stream))
        loop.monitor.event("lost", what="fragments", units=[tuple(unit) for unit in lost])
        if rolled_back:
            loop.monitor.event("rolled_back", units=len(rolled_back), after="a lost fragment that is made again")
        return True

    def update_failed(self) -> None:
        """The data of the batch under way is gone: the update was not made, and what is left of the batch waits."""
        loop = self.loop
        loop.queue.requeue()
        loop.updates_started -= 1
        loop.updating = False
        loop.recovery.withdrawn()
        if not self.look():
            loop.monitor.warn("an update found data of its batch missing, which is there again")

    def arrived(self, meta: FragmentMeta) -> None:
        """A finished fragment was put into the queue; one that was taken back meanwhile leaves it at once."""
        if meta.unit in self.loop.pool.rolled_back:
            self.loop.pool.rolled_back.remove(meta.unit)
            self.loop.queue.drop(meta.unit, "roll_back", again=True)

    def _go_back(self, unit: Unit) -> list[Unit]:
        """Let a stream make `unit` again, and what follows; returns the later fragments that waited."""
        loop = self.loop
        waiting = [item.meta.unit for item in loop.queue.waiting()]
        later = [other for other in waiting if other.stream == unit.stream and other.seq > unit.seq]
        for other in later:
            loop.queue.drop(other, "roll_back", again=True)
        loop.queue.next_seq[unit.stream] = unit.seq
        loop.pool.rolled_back |= {other for other in loop.ledger.running if other.stream == unit.stream}
        host = loop.pool.rewind(unit)
        if host is not None:
            loop.backend.drop_streams(host, [unit.stream])
        return later
