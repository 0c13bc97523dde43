"""Queue between samplers and learner: admission, batches, and the staleness contract.

It contains metadata and data handles of finished fragments, not the data. *Admission*: a stream may be at most
`max_staleness + 1` fragments ahead of those consumed. *Contract*: a unit is consumed only if learner version - unit
version <= max_staleness; an older one is evicted.

With `ordered=True` (deterministic mode, and if max_staleness is 0) batch u is fragment u of every stream, in stream
order. Otherwise a batch is the first `streams` fragments to arrive, so that slow streams delay no batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from distrl.experience.fragment import FragmentMeta, Unit
from distrl.experience.ledger import Ledger


@dataclass
class Waiting:
    """Finished fragment with its data, or a reference to it on Ray."""

    meta: FragmentMeta
    data: object


class Queue:
    """Queue of finished fragments; a batch has as many fragments as there are `streams`."""

    def __init__(self, streams: int, max_staleness: int, ordered: bool, ledger: Ledger):
        self.streams, self.max_staleness, self.ordered, self.ledger = streams, max_staleness, ordered, ledger
        self.next_seq = [0] * streams  # of each stream
        self._waiting: dict[Unit, Waiting] = {}  # in order of arrival
        self.learning: list[Waiting] = []  # the batch being learned; consumed once its update is done
        self._ahead = [0] * streams  # running or waiting fragments per stream

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, stream: int, version: int) -> Unit | None:
        """Return the next unit that `stream` may start now, or None at its admission limit.

        In ordered mode unit n is consumed at version n, so it starts at version n - max_staleness or later.
        """
        seq = self.next_seq[stream]
        ahead = seq - version if self.ordered else self._ahead[stream]
        return Unit(seq, stream) if ahead <= self.max_staleness else None

    def start(self, unit: Unit) -> None:
        """Record that `unit` has been started."""
        self.ledger.start(unit)
        self._ahead[unit.stream] += 1
        self.next_seq[unit.stream] = unit.seq + 1

    def cut(self, unit: Unit) -> None:
        """Record that `unit` was interrupted; its stream restarts it."""
        self.ledger.cut(unit)
        self._ahead[unit.stream] -= 1
        self.next_seq[unit.stream] = min(self.next_seq[unit.stream], unit.seq)

    def put(self, meta: FragmentMeta, data: object) -> None:
        """Add a finished fragment."""
        self.ledger.finish(meta.unit)
        self._waiting[meta.unit] = Waiting(meta, data)

    def pop(self, version: int, updates_started: int) -> list[Waiting] | None:
        """Evict fragments that are too old and pop the next batch; None while it is not complete."""
        for unit, waiting in list(self._waiting.items()):
            if version - waiting.meta.version > self.max_staleness:
                self.drop(unit, "evicted")
        units = self._next_units(updates_started)
        if units is None:
            return None
        self.learning = [self._waiting.pop(unit) for unit in units]
        for unit in units:
            self._ahead[unit.stream] -= 1
        return self.learning

    def peek(self, updates_started: int) -> list[Waiting]:
        """Return the next batch without removing it; empty while it is not complete."""
        return [self._waiting[unit] for unit in self._next_units(updates_started) or []]

    def _next_units(self, updates_started: int) -> list[Unit] | None:
        if self.ordered:
            units = [Unit(updates_started, stream) for stream in range(self.streams)]
            return units if all(unit in self._waiting for unit in units) else None
        return sorted(list(self._waiting)[: self.streams]) if len(self._waiting) >= self.streams else None

    def consumed(self, version: int) -> list[Waiting]:
        """Count the batch popped at `version` as consumed, its update being done."""
        batch, self.learning = self.learning, []
        staleness = max(version - waiting.meta.version for waiting in batch)
        env_steps = sum(waiting.meta.env_steps for waiting in batch)
        self.ledger.consume([waiting.meta.unit for waiting in batch], env_steps, staleness)
        return batch

    def drop(self, unit: Unit, fate: str, *, again: bool = False) -> None:
        """Drop a waiting fragment (`evicted`, `lost`, `rolled_back`), to be regenerated with `again`."""
        del self._waiting[unit]
        self._ahead[unit.stream] -= 1
        self.ledger.end(unit, fate)
        if again:
            self.ledger.reopen(unit)

    def requeue(self) -> None:
        """Put the popped batch back in front, its update having been cancelled."""
        batch, self.learning = self.learning, []
        for item in batch:
            self._ahead[item.meta.unit.stream] += 1
        self._waiting = {item.meta.unit: item for item in [*batch, *self._waiting.values()]}

    def waiting(self) -> list[Waiting]:
        """List the finished fragments that are not consumed, oldest first (for checkpoints)."""
        return [*self.learning, *self._waiting.values()]

    def restore(self, next_seq: list[int], waiting: list[Waiting]) -> None:
        """Restore from a checkpoint; the ledger is restored separately."""
        self.next_seq = list(next_seq)
        for item in waiting:
            self._waiting[item.meta.unit] = item
            self._ahead[item.meta.unit.stream] += 1
