"""Replay over K shards, called through a `ShardHandle`, possibly in other processes.

A batch is divided over shards by the masses last reported. With q_k a shard's share and m_i / M_k an item's share of
its shard's mass at the draw, the item's probability is exactly q_k m_i / M_k, so importance weights stay exact under
concurrent updates. Insertion is asynchronous; other methods first wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from distrl.base.columns import Columns, tree_cat
from distrl.base.errors import ResourceError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.priorities import checked_priorities, importance_weights

SHARD_BITS = 40  # index = shard << SHARD_BITS | slot within the shard
MOST_SENT = 64  # fragments in flight, each held twice until it has arrived


#: Method of `ReplayShard` and its arguments.
Call: TypeAlias = tuple[Any, ...]


class ShardLost(Exception):
    """Loss of a shard's process and its transitions."""


@dataclass(frozen=True)
class ShardReport:
    """State of a shard, part of every reply: mass, and transitions inserted, resident, evicted."""

    mass: float
    counts: Mapping[str, int]


class ShardReply(Protocol):
    """Future of a shard's reply."""

    def result(self) -> tuple[ShardReport, Any]:
        """Wait for the reply; raise ShardLost if the shard is dead."""


class ShardHandle(Protocol):
    """Handle of a shard, local or remote."""

    def call(self, method: str, *args: Any) -> ShardReply:
        """Call a method of `ReplayShard` or `Replay` without waiting."""


class ReplayShard:
    """One shard: a replay whose replies include reports."""

    def __init__(self, replay: Replay):
        self.replay = replay

    def execute(self, method: str, *args: Any) -> tuple[ShardReport, Any]:
        """Execute a call of a handle: a method of this class, or else of its replay."""
        value = getattr(self if hasattr(self, method) else self.replay, method)(*args)
        return ShardReport(self.replay.mass, self.replay.ledger()), value

    def report(self) -> None:
        """Do nothing; the reply includes the report."""

    def sample(self, count: int, seed: int, gamma: float) -> Columns:
        """Sample a batch with `probability` (N,) within this shard."""
        return self._with_probability(self.replay.sample(count, np.random.default_rng(seed), gamma))

    def sample_sequences(self, count: int, seed: int, steps: int) -> Columns:
        """Sample sequences with `probability` (N,) of their first steps within this shard."""
        return self._with_probability(self.replay.sample_sequences(count, steps, np.random.default_rng(seed)))

    def _with_probability(self, batch: Columns) -> Columns:
        if "probability" in batch:
            return batch
        return batch.with_(probability=np.full(len(batch.index), 1 / self.replay.mass))


class LocalShard:
    """Shard in this process."""

    def __init__(self, replay: Replay):
        self.shard = ReplayShard(replay)

    def call(self, method: str, *args: Any) -> ShardReply:
        """Call a method of `ReplayShard` and wait."""
        return _Ready(self.shard.execute(method, *args))


@dataclass(frozen=True)
class _Sent:
    """Fragment in flight."""

    shard: int
    reply: ShardReply
    fragment: tuple[Columns, int, int | None]


@dataclass(frozen=True)
class _Ready:
    value: tuple[ShardReport, Any]

    def result(self) -> tuple[ShardReport, Any]:
        return self.value


class ShardedReplay:
    """Replay over K shards, with the methods of `Replay`.

    Stream s is assigned to shard s modulo K. When a shard dies, its transitions are lost, its last counts move to
    `lost`, and its streams continue in the next living shard; with `require_all`, `ShardLost` is raised instead.
    """

    def __init__(
        self, shards: Sequence[ShardHandle], prioritized: bool = False, beta: float = 0.4, *, require_all: bool = False
    ):
        self.shards: dict[int, ShardHandle] = dict(enumerate(shards))
        self.count = len(self.shards)
        self.prioritized, self.beta, self.require_all = prioritized, beta, require_all
        self.reports = {shard: ShardReport(0.0, {"inserted": 0, "resident": 0, "evicted": 0}) for shard in self.shards}
        self.lost: dict[int, Mapping[str, int]] = {}
        self._sent: list[_Sent] = []
        self.refresh()

    def refresh(self) -> None:
        """Update the reports of all shards."""
        self._call_all(dict.fromkeys(self._living(), ("report",)))

    def __len__(self) -> int:
        return sum(self.reports[shard].counts["resident"] for shard in self._living())

    def ledger(self) -> dict[str, int]:
        """Count transitions as last reported; inserted = resident + evicted + lost_with_shard."""
        reports = [self.reports[shard].counts for shard in self._living()] + list(self.lost.values())
        return {
            "inserted": sum(counts["inserted"] for counts in reports),
            "resident": len(self),
            "evicted": sum(counts["evicted"] for counts in reports),
            "lost_with_shard": sum(counts["resident"] for counts in self.lost.values()),
        }

    def assigned_shard(self, stream: int) -> int:
        """Return the living shard that stores a stream's fragments."""
        shard = stream % self.count
        while shard not in self.shards:
            shard = (shard + 1) % self.count
        return shard

    def insert(self, rollout: Columns, stream: int, sequence: int | None = None) -> None:
        """Send a fragment to its stream's shard, or to the next one if that is dead.

        The caller must not change the columns before the next call of another method.
        """
        if len(self._sent) >= MOST_SENT:
            self._await_sent()
        self._send((rollout, stream, sequence))

    def _living(self) -> list[int]:
        """List the living shards after all sent fragments have arrived."""
        self._await_sent()
        return list(self.shards)

    def _send(self, fragment: tuple[Columns, int, int | None]) -> None:
        while True:
            shard = self.assigned_shard(fragment[1])
            try:
                self._sent.append(_Sent(shard, self.shards[shard].call("insert", *fragment), fragment))
                return
            except ShardLost:
                self._mark_dead(shard)
                self._require_shards()

    def _await_sent(self) -> None:
        """Wait for all sent fragments, resending those of dead shards to others in the same order."""
        while self._sent:
            in_flight, self._sent = self._sent, []
            resend = []
            for sent in in_flight:
                try:
                    self.reports[sent.shard], _ = sent.reply.result()
                except ShardLost:
                    self._mark_dead(sent.shard)
                    resend.append(sent.fragment)
            self._require_shards()
            for fragment in resend:
                self._send(fragment)

    def sample(self, batch_size: int, rng: np.random.Generator, gamma: float, beta: float | None = None) -> Columns:
        """Sample as `Replay.sample`, with the exact `probability` (N,) of each item."""
        return self._draw("sample", batch_size, rng, gamma, beta, axis=0)

    def sample_sequences(
        self, batch_size: int, steps: int, rng: np.random.Generator, beta: float | None = None
    ) -> Columns:
        """Sample as `Replay.sample_sequences`."""
        return self._draw("sample_sequences", batch_size, rng, steps, beta, axis=1)

    def _draw(
        self, method: str, batch_size: int, rng: np.random.Generator, argument: float, beta: float | None, axis: int
    ) -> Columns:
        while True:
            shards = [shard for shard in self._living() if self.reports[shard].mass > 0]
            if not shards:
                raise ResourceError("replay: no shard has a transition to sample.", "Raise learning_starts above 0.")
            masses = np.array([self.reports[shard].mass for shard in shards])
            share = masses / masses.sum()
            counts = rng.multinomial(batch_size, share)
            seeds = rng.integers(0, 2**63, len(shards))
            calls = {
                shard: (method, int(count), int(seed), argument)
                for shard, count, seed in zip(shards, counts, seeds, strict=True)
                if count
            }
            transitions = len(self)
            replies = self._call_all(calls)
            if len(replies) == len(calls):  # else a shard died: draw again from the others
                break
        batches = []
        for shard, part in zip(shards, share, strict=True):
            if shard in calls:
                mine: Columns = replies[shard]
                index, probability = mine.index | (shard << SHARD_BITS), mine.probability * part
                batches.append(mine.with_(index=index, probability=probability))
        flat = ("index", "generation", "probability", "weight", "length", "last_obs")  # (N, ...) in any case
        axes = {name: 0 if name in flat else axis for name in batches[0]}
        batch = Columns(**{name: tree_cat([part[name] for part in batches], axis=axes[name]) for name in axes})
        if not self.prioritized:
            beta = 1.0  # masses change between report and draw: correct fully
        elif beta is None:
            beta = self.beta
        return batch.with_(weight=importance_weights(batch.probability, transitions, beta))

    def update_priorities(self, index: np.ndarray, generation: np.ndarray, priority: np.ndarray) -> int:
        """Set priorities as `Replay.update_priorities`; items of dead shards count as evicted."""
        priority = checked_priorities(priority)
        owner = index >> SHARD_BITS
        slot = index & ((1 << SHARD_BITS) - 1)
        calls = {}
        for shard in self._living():
            mine = owner == shard
            if mine.any():
                calls[shard] = ("update_priorities", slot[mine], generation[mine], priority[mine])
        return sum(self._call_all(calls).values())

    def save(self, folder: str | Path) -> None:
        """Save each shard to its folder `shard-N`."""
        self._call_all({shard: ("save", f"{folder}/shard-{shard}") for shard in self._living()})

    def load(self, folder: str | Path) -> None:
        """Restore from `save` of the same number of shards."""
        self._call_all({shard: ("load", f"{folder}/shard-{shard}") for shard in self._living()})

    def _call_all(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """Call several shards concurrently; dead shards are missing in the result."""
        replies: dict[int, Any] = {}
        pending: dict[int, ShardReply] = {}
        for shard, call in calls.items():
            try:
                pending[shard] = self.shards[shard].call(*call)
            except ShardLost:
                self._mark_dead(shard)
        for shard, reply in pending.items():
            try:
                self.reports[shard], replies[shard] = reply.result()
            except ShardLost:
                self._mark_dead(shard)
        self._require_shards()
        return replies

    def _require_shards(self) -> None:
        if not self.shards:
            lost = sum(counts["resident"] for counts in self.lost.values())
            raise ResourceError(
                f"replay: every shard has died, {lost:,} transitions are lost.", "Resume from the newest checkpoint."
            )

    def _mark_dead(self, shard: int) -> None:
        if self.require_all:
            raise ShardLost(f"replay shard {shard} of {self.count} died")
        if shard in self.shards:  # several replies of one shard may fail
            del self.shards[shard]
            self.lost[shard] = self.reports[shard].counts
