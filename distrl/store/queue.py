"""The queue between samplers and learner: admission, batches, and the staleness contract.

It holds the metas and opaque data handles of finished fragments; the data itself stays where it is.

*Admission*: a stream may be at most `max_staleness + 1` fragments ahead of what the learner has consumed, counted live,
so work is rarely thrown away. *Contract*: a unit is consumed only if learner version - unit version <= max_staleness;
an older one is evicted.

With `ordered=True` (deterministic mode, and whenever max_staleness is 0) batch u is fragment u of every stream, in
stream order. Otherwise a batch is the first `streams` fragments to arrive, so that a slow stream holds up nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distrl.experience.fragment import FragmentMeta, Unit
from distrl.experience.ledger import Ledger


@dataclass
class Waiting:
    """A finished fragment: its meta, and a handle of its data (a reference on Ray, the data itself in-process)."""

    meta: FragmentMeta
    data: Any


class Queue:
    """Finished fragments on their way to the learner.

    Args:
        streams: Number of streams of the run; a batch has as many fragments.
        max_staleness: k of the contract, in versions.
        ordered: Batches by sequence number instead of by arrival.
        ledger: Told of every fate.
    """

    def __init__(self, streams: int, max_staleness: int, ordered: bool, ledger: Ledger):
        self.streams = streams
        self.max_staleness = max_staleness
        self.ordered = ordered
        self.ledger = ledger
        self.next_seq = [0] * streams  # the fragment that each stream makes next
        self._waiting: dict[Unit, Waiting] = {}  # in order of arrival
        self.learning: list[Waiting] = []  # the batch that the learner has; consumed once its update is done
        self._ahead = [0] * streams  # running or waiting fragments per stream

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, stream: int, version: int) -> Unit | None:
        """The next unit that `stream` may start now, or None while it is far enough ahead.

        Args:
            version: The newest published version. In ordered mode unit n is consumed at version n, so it waits for
                version n - max_staleness: begun earlier it would be too old for its only batch.
        """
        seq = self.next_seq[stream]
        if self.ordered:
            allowed = seq <= version + self.max_staleness
        else:
            allowed = self._ahead[stream] <= self.max_staleness
        return Unit(seq, stream) if allowed else None

    def start(self, unit: Unit) -> None:
        """`unit` is being made."""
        self.ledger.start(unit)
        self._ahead[unit.stream] += 1
        self.next_seq[unit.stream] = unit.seq + 1

    def cut(self, unit: Unit) -> None:
        """`unit` will not become whole: its stream makes it again."""
        self.ledger.cut(unit)
        self._ahead[unit.stream] -= 1
        self.next_seq[unit.stream] = min(self.next_seq[unit.stream], unit.seq)

    def put(self, meta: FragmentMeta, data: Any) -> None:
        """`meta.unit` is whole."""
        self.ledger.finish(meta.unit)
        self._waiting[meta.unit] = Waiting(meta, data)

    def take(self, version: int, updates_started: int) -> list[Waiting] | None:
        """The next batch for a learner at `version`, or None while it is not complete.

        Fragments older than the contract allows are evicted first. In ordered mode admission leaves none; otherwise it
        happens to a stream that takes longer for a fragment than the others for max_staleness batches.
        """
        for unit, waiting in list(self._waiting.items()):
            if version - waiting.meta.version > self.max_staleness:
                self.drop(unit, "evict")
        units = self._next_units(updates_started)
        if units is None:
            return None
        self.learning = [self._waiting.pop(unit) for unit in units]
        for unit in units:
            self._ahead[unit.stream] -= 1
        return self.learning

    def peek(self, updates_started: int) -> list[Waiting]:
        """The batch that `take` would give now, left where it is; empty while it is not complete."""
        return [self._waiting[unit] for unit in self._next_units(updates_started) or []]

    def _next_units(self, updates_started: int) -> list[Unit] | None:
        if self.ordered:
            units = [Unit(updates_started, stream) for stream in range(self.streams)]
            return units if all(unit in self._waiting for unit in units) else None
        return sorted(list(self._waiting)[: self.streams]) if len(self._waiting) >= self.streams else None

    def consumed(self, version: int) -> list[Waiting]:
        """The update on the batch that was taken at `version` is done."""
        batch, self.learning = self.learning, []
        staleness = max(version - waiting.meta.version for waiting in batch)
        env_steps = sum(waiting.meta.env_steps for waiting in batch)
        self.ledger.consume([waiting.meta.unit for waiting in batch], env_steps, staleness)
        return batch

    def drop(self, unit: Unit, fate: str, *, again: bool = False) -> None:
        """A waiting fragment ends unused: `evict`, `lose` or `void`; `again`: its stream may make it once more."""
        del self._waiting[unit]
        self._ahead[unit.stream] -= 1
        getattr(self.ledger, fate)(unit)
        if again:
            self.ledger.reopen(unit)

    def give_back(self) -> None:
        """The update on the batch that was taken is not made: it waits again, before everything else."""
        batch, self.learning = self.learning, []
        for item in batch:
            self._ahead[item.meta.unit.stream] += 1
        self._waiting = {item.meta.unit: item for item in [*batch, *self._waiting.values()]}

    def waiting(self) -> list[Waiting]:
        """Everything that is whole and not consumed, oldest first (for checkpoints)."""
        return [*self.learning, *self._waiting.values()]

    def restore(self, next_seq: list[int], waiting: list[Waiting]) -> None:
        """Continue from a checkpoint; the ledger was restored by its owner."""
        self.next_seq = list(next_seq)
        for item in waiting:
            self._waiting[item.meta.unit] = item
            self._ahead[item.meta.unit.stream] += 1
