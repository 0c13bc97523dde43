"""Accounts for every fragment that was started; the counts must balance.

    started  = finished + cut + running
    finished = consumed + evicted + lost + rolled_back + waiting

*cut*: ended unfinished (its sampler died, or the run was stopped). *evicted*: too old to be consumed. *lost*: finished,
but its data is gone. *rolled_back*: belongs to updates after the checkpoint of a resume, or follows a lost fragment
that is regenerated.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from distrl.base.files import write_atomic
from distrl.base.pack import State
from distrl.experience.fragment import Unit

FATES = ("consumed", "evicted", "lost", "rolled_back")


class Ledger:
    """Counts per outcome, and the sets of running and waiting units.

    >>> ledger = Ledger()
    >>> ledger.start(Unit(0, 0)); ledger.finish(Unit(0, 0)); ledger.consume([Unit(0, 0)])
    >>> ledger.check(); ledger.read()["consumed"]
    1
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("started", "finished", "cut", *FATES), 0)
        self.env_steps = 0
        self.staleness_max = 0
        self.running: set[Unit] = set()
        self.waiting: set[Unit] = set()
        #: stream -> first sequence number that has not ended; a unit below it cannot be started again
        self._ended_below: dict[int, int] = {}
        self._ended_above: dict[int, set[int]] = {}
        self._live: np.ndarray | None = None

    def start(self, unit: Unit) -> None:
        if unit in self.running or unit in self.waiting or self.ended(unit):
            raise ValueError(f"{unit} was started before")
        self.running.add(unit)
        self.counts["started"] += 1
        if self._live is not None:
            self._live[0] += 1

    def cut(self, unit: Unit) -> None:
        """End an unfinished unit; it may be started again."""
        self.running.remove(unit)
        self.counts["cut"] += 1

    def finish(self, unit: Unit) -> None:
        self.running.remove(unit)
        self.waiting.add(unit)
        self.counts["finished"] += 1
        if self._live is not None:
            self._live[1] += 1

    def consume(self, units: Iterable[Unit], env_steps: int = 0, staleness: int = 0) -> None:
        """Count units as used by an update; a unit that was used before is refused."""
        for unit in units:
            self.end(unit, "consumed")
        self.env_steps += env_steps
        self.staleness_max = max(self.staleness_max, staleness)

    def reopen(self, unit: Unit) -> None:
        """Allow a unit that ended unused to be started again; it is counted twice."""
        below = self._ended_below[unit.stream]
        if unit.seq < below:
            self._ended_above[unit.stream].update(range(unit.seq + 1, below))
            self._ended_below[unit.stream] = unit.seq
        else:
            self._ended_above[unit.stream].remove(unit.seq)

    def ended(self, unit: Unit) -> bool:
        return unit.seq < self._ended_below.get(unit.stream, 0) or unit.seq in self._ended_above.get(unit.stream, ())

    def end(self, unit: Unit, fate: str) -> None:
        """Count a waiting unit as one of `FATES`."""
        if unit not in self.waiting:
            raise ValueError(f"{unit} is not waiting, so it cannot be {fate}")
        self.waiting.remove(unit)
        self.counts[fate] += 1
        above = self._ended_above.setdefault(unit.stream, set())
        above.add(unit.seq)
        below = self._ended_below.get(unit.stream, 0)
        while below in above:
            above.remove(below)
            below += 1
        self._ended_below[unit.stream] = below

    def check(self) -> None:
        counts = self.counts
        started = counts["finished"] + counts["cut"] + len(self.running)
        finished = sum(counts[fate] for fate in FATES) + len(self.waiting)
        if counts["started"] != started or counts["finished"] != finished:
            raise AssertionError(f"ledger does not balance: {self.read()}")

    def read(self) -> dict[str, int]:
        return {
            **self.counts,
            "running": len(self.running),
            "waiting": len(self.waiting),
            "env_steps": self.env_steps,
            "staleness_max": self.staleness_max,
        }

    def to_state(self) -> State:
        """Return the state for a checkpoint, in which running units count as cut."""
        return {
            "counts": {**self.counts, "cut": self.counts["cut"] + len(self.running)},
            "env_steps": self.env_steps,
            "staleness_max": self.staleness_max,
            "waiting": [list(unit) for unit in sorted(self.waiting)],
            "ended_below": [[stream, seq] for stream, seq in sorted(self._ended_below.items())],
            "ended_above": [[stream, sorted(seqs)] for stream, seqs in sorted(self._ended_above.items()) if seqs],
        }

    def mirror(self, path: Path) -> None:
        """Mirror `started` and `finished` in a memory-mapped file that survives a kill."""
        if not path.is_file():
            write_atomic(path, bytes(16))  # a mapped write to a hole of a full disk would kill the process
        self._live = np.memmap(path, np.int64, "r+", shape=(2,))
        self._live[:] = self.counts["started"], self.counts["finished"]

    def take_over(self, live: Path) -> None:
        """Account for the units of an earlier attempt from the file of its `mirror`.

        Units finished after the checkpoint count as rolled back, unfinished ones as cut.
        """
        if not live.is_file() or live.stat().st_size != 16:
            return
        started, finished = (int(number) for number in np.fromfile(live, np.int64))
        counts = self.counts
        if started >= finished >= counts["finished"]:
            counts["rolled_back"] += finished - counts["finished"]
            counts["started"], counts["finished"], counts["cut"] = started, finished, started - finished

    @classmethod
    def from_state(cls, state: State) -> Ledger:
        ledger = cls()
        ledger.counts.update(state["counts"])
        ledger.env_steps = state["env_steps"]
        ledger.staleness_max = state["staleness_max"]
        ledger.waiting = {Unit(*pair) for pair in state["waiting"]}
        ledger._ended_below = dict(state["ended_below"])
        ledger._ended_above = {stream: set(seqs) for stream, seqs in state["ended_above"]}
        ledger.check()
        return ledger
