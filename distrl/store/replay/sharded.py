"""K replays behind one face: multinomial counts over the shards' masses, then within each shard.

A shard is reached through a `ShardHandle`, which may lead to another process. Every answer of a shard reports its mass
and its counts as of then; a batch is divided over shards by the masses reported last. With q_k a shard's share of
those and m_i / M_k an item's share of its shard's mass when it draws, the item's probability is exactly q_k m_i / M_k,
whatever has changed in between; importance weights use it, so weighted means stay unbiased under concurrent updates.

Fragments are only sent: shards put them in place while the next are packed. Whatever is asked afterwards first waits
until all of them have arrived, so draws and counts are those of a face that waits for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from distrl.base.columns import Columns, tree_cat
from distrl.base.errors import ResourceError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.priorities import checked_priorities, importance_weights

SHARD_BITS = 40  # an item's index is its shard << SHARD_BITS | its slot there
MOST_SENT = 64  # fragments on their way, which this process holds twice until they have arrived


class ShardLost(Exception):
    """A shard's process is gone, and with it what it held."""


@dataclass(frozen=True)
class ShardReport:
    """What a shard says of itself with every answer.

    Attributes:
        mass: What draws within the cluster of shards are proportional to.
        counts: Its ledger: transitions inserted, resident, evicted.
    """

    mass: float
    counts: Mapping[str, int]


class Answer(Protocol):
    """An answer that may still be on its way."""

    def result(self) -> tuple[ShardReport, Any]:
        """Wait for it.

        Raises:
            ShardLost: It will never come.
        """


class ShardHandle(Protocol):
    """A way to a shard."""

    def call(self, method: str, *args: Any) -> Answer:
        """Ask for a method of `ReplayShard`; does not wait."""


class ReplayShard:
    """The shard's side: a replay whose answers carry reports.

    Args:
        replay: What it holds.
    """

    def __init__(self, replay: Replay):
        self.replay = replay

    def answer(self, method: str, *args: Any) -> tuple[ShardReport, Any]:
        """Do what a handle asked for."""
        value = getattr(self, method)(*args)
        return ShardReport(self.replay.mass, self.replay.ledger()), value

    def report(self) -> None:
        """Nothing but the report."""

    def insert(self, rollout: Columns, stream: int, sequence: int | None) -> int:
        """See `Replay.insert`."""
        return self.replay.insert(rollout, stream, sequence)

    def sample(self, count: int, seed: int, gamma: float) -> Columns:
        """A batch with `probability` (N,) within this shard."""
        return self._with_probability(self.replay.sample(count, np.random.default_rng(seed), gamma))

    def sample_sequences(self, count: int, seed: int, steps: int) -> Columns:
        """Sequences with `probability` (N,) of their first steps within this shard."""
        return self._with_probability(self.replay.sample_sequences(count, steps, np.random.default_rng(seed)))

    def _with_probability(self, batch: Columns) -> Columns:
        if "probability" in batch:
            return batch
        return batch.with_(probability=np.full(len(batch.index), 1 / self.replay.mass))

    def update_priorities(self, index: np.ndarray, generation: np.ndarray, priority: np.ndarray) -> int:
        """See `Replay.update_priorities`."""
        return self.replay.update_priorities(index, generation, priority)

    def save(self, folder: str) -> None:
        """See `Replay.save`."""
        self.replay.save(folder)

    def load(self, folder: str) -> None:
        """See `Replay.load`."""
        self.replay.load(folder)


class LocalShard:
    """A shard in this process.

    Args:
        replay: What it holds.
    """

    def __init__(self, replay: Replay):
        self.shard = ReplayShard(replay)

    def call(self, method: str, *args: Any) -> Answer:
        """Done at once."""
        return _Ready(self.shard.answer(method, *args))


@dataclass(frozen=True)
class _Sent:
    """A fragment on its way to shard `name`."""

    name: int
    answer: Answer
    fragment: tuple[Columns, int, int | None]


@dataclass(frozen=True)
class _Ready:
    value: tuple[ShardReport, Any]

    def result(self) -> tuple[ShardReport, Any]:
        return self.value


class ShardedReplay:
    """One face for K shards; the same methods as `Replay`.

    Stream s lives in shard s modulo K. When a shard dies, the others go on without what it held, and its streams
    continue in the next living one.

    Args:
        shards: Handles. Each replay was made with `lines` = environments of the whole run.
        prioritized: Whether they are; sets the importance weights.
        beta: Exponent of the importance weights.
        whole: Nothing goes on without a shard that died: `ShardLost` is raised, and its owner builds all anew.

    Attributes:
        lost: Names (numbers) of shards that died, each with the counts it last reported.
    """

    def __init__(
        self, shards: Sequence[ShardHandle], prioritized: bool = False, beta: float = 0.4, *, whole: bool = False
    ):
        self.shards: dict[int, ShardHandle] = dict(enumerate(shards))
        self.count = len(self.shards)
        self.prioritized, self.beta, self.whole = prioritized, beta, whole
        self.reports = {name: ShardReport(0.0, {"inserted": 0, "resident": 0, "evicted": 0}) for name in self.shards}
        self.lost: dict[int, Mapping[str, int]] = {}
        self._sent: list[_Sent] = []
        self.refresh()

    def refresh(self) -> None:
        """Ask every shard for its present mass."""
        self._ask(dict.fromkeys(self._living(), ("report",)))

    def __len__(self) -> int:
        return sum(self.reports[name].counts["resident"] for name in self._living())

    def ledger(self) -> dict[str, int]:
        """Transitions inserted = resident + evicted + lost_with_shard, as last reported."""
        everyone = [self.reports[name].counts for name in self._living()] + list(self.lost.values())
        return {
            "inserted": sum(counts["inserted"] for counts in everyone),
            "resident": len(self),
            "evicted": sum(counts["evicted"] for counts in everyone),
            "lost_with_shard": sum(counts["resident"] for counts in self.lost.values()),
        }

    def home(self, stream: int) -> int:
        """The shard that a stream's fragments go to: never back to one that it has left."""
        name = stream % self.count
        while name not in self.shards:
            name = (name + 1) % self.count
        return name

    def insert(self, rollout: Columns, stream: int, sequence: int | None = None) -> None:
        """Send a fragment; see `Replay.insert`. If its stream's shard turns out to be dead, another takes it.

        Its columns must stay as they are until something is asked.
        """
        if len(self._sent) >= MOST_SENT:
            self._arrive()
        self._send((rollout, stream, sequence))

    def _living(self) -> list[int]:
        """Shards that live, once all that was sent has arrived."""
        self._arrive()
        return list(self.shards)

    def _send(self, fragment: tuple[Columns, int, int | None]) -> None:
        while True:
            name = self.home(fragment[1])
            try:
                self._sent.append(_Sent(name, self.shards[name].call("insert", *fragment), fragment))
                return
            except ShardLost:
                self._bury(name)
                self._require_shards()

    def _arrive(self) -> None:
        """Wait for all fragments that were sent; those of shards that died go to others, in the same order."""
        while self._sent:
            sent, self._sent = self._sent, []
            again = []
            for each in sent:
                try:
                    self.reports[each.name], _ = each.answer.result()
                except ShardLost:
                    self._bury(each.name)
                    again.append(each.fragment)
            self._require_shards()
            for fragment in again:
                self._send(fragment)

    def sample(self, batch_size: int, rng: np.random.Generator, gamma: float, beta: float | None = None) -> Columns:
        """See `Replay.sample`; `probability` (N,) is what each item was really drawn with."""
        return self._draw("sample", batch_size, rng, gamma, beta, axis=0)

    def sample_sequences(
        self, batch_size: int, steps: int, rng: np.random.Generator, beta: float | None = None
    ) -> Columns:
        """See `Replay.sample_sequences`."""
        return self._draw("sample_sequences", batch_size, rng, steps, beta, axis=1)

    def _draw(
        self, method: str, batch_size: int, rng: np.random.Generator, argument: float, beta: float | None, axis: int
    ) -> Columns:
        while True:
            names = [name for name in self._living() if self.reports[name].mass > 0]
            if not names:
                raise ResourceError("replay: no shard has a transition to sample.", "Raise learning_starts above 0.")
            masses = np.array([self.reports[name].mass for name in names])
            share = masses / masses.sum()
            counts = rng.multinomial(batch_size, share)
            seeds = rng.integers(0, 2**63, len(names))
            orders = {
                name: (method, int(count), int(seed), argument)
                for name, count, seed in zip(names, counts, seeds, strict=True)
                if count
            }
            transitions = len(self)
            answers = self._ask(orders)
            if len(answers) == len(orders):  # else a shard died: its share is drawn anew from the others
                break
        parts = [self._part(name, answers[name], share[names.index(name)]) for name in orders]
        batch = _joined(parts, axis)
        if not self.prioritized:
            beta = 1.0  # masses change between report and draw; what that does is corrected fully
        elif beta is None:
            beta = self.beta
        return batch.with_(weight=importance_weights(batch.probability, transitions, beta))

    @staticmethod
    def _part(name: int, batch: Columns, share: float) -> Columns:
        return batch.with_(
            index=batch.index | (name << SHARD_BITS),
            probability=batch.probability * share,
        )

    def update_priorities(self, index: np.ndarray, generation: np.ndarray, priority: np.ndarray) -> int:
        """See `Replay.update_priorities`; items of dead shards are ignored like evicted ones."""
        priority = checked_priorities(priority)
        owner = index >> SHARD_BITS
        slot = index & ((1 << SHARD_BITS) - 1)
        orders = {}
        for name in self._living():
            mine = owner == name
            if mine.any():
                orders[name] = ("update_priorities", slot[mine], generation[mine], priority[mine])
        return sum(self._ask(orders).values())

    def save(self, folder: Any) -> None:
        """Each shard into a folder of its own, `shard-N`."""
        self._ask({name: ("save", f"{folder}/shard-{name}") for name in self._living()})

    def load(self, folder: Any) -> None:
        """The inverse of `save`, with as many shards."""
        self._ask({name: ("load", f"{folder}/shard-{name}") for name in self._living()})

    def _ask(self, orders: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Ask several shards at once. Shards that turn out to be dead are missing among the answers.

        Raises:
            ResourceError: All shards are dead.
            ShardLost: One is, and `whole`.
        """
        answers: dict[int, Any] = {}
        waiting: dict[int, Answer] = {}
        for name, order in orders.items():
            try:
                waiting[name] = self.shards[name].call(*order)
            except ShardLost:
                self._bury(name)
        for name, answer in waiting.items():
            try:
                self.reports[name], answers[name] = answer.result()
            except ShardLost:
                self._bury(name)
        self._require_shards()
        return answers

    def _require_shards(self) -> None:
        if not self.shards:
            lost = sum(counts["resident"] for counts in self.lost.values())
            raise ResourceError(
                f"replay: every shard has died, {lost:,} transitions are lost.", "Resume from the newest checkpoint."
            )

    def _bury(self, name: int) -> None:
        if self.whole:
            raise ShardLost(f"replay shard {name} of {self.count} died")
        if name in self.shards:  # several answers of one shard may fail
            del self.shards[name]
            self.lost[name] = self.reports[name].counts


def _joined(parts: Sequence[Columns], axis: int) -> Columns:
    """Join batches; (N,) columns along their only dimension, the others along `axis`."""
    flat = ("index", "generation", "probability", "weight", "length", "last_obs")
    return Columns(
        **{name: tree_cat([part[name] for part in parts], axis=0 if name in flat else axis) for name in parts[0]}
    )
