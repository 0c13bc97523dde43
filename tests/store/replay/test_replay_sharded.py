"""Several replays behind one face: exact probabilities, unbiased means, dead shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from distrl.base.columns import Columns
from distrl.base.errors import ResourceError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.priorities import PrioritySettings
from distrl.store.replay.sharded import LocalShard, ShardedReplay, ShardLost
from tests.store.replay.test_sum_tree import chi_square_bound
from tests.support.replay_worlds import World, space

GAMMA = 0.9


class Mortal(LocalShard):
    """A shard that dies when told to: at once, or while it answers."""

    dead = False
    dies_answering = False

    def call(self, method: str, *args: Any) -> Any:
        if self.dead:
            raise ShardLost
        if self.dies_answering:
            self.dead = True
            return self
        return super().call(method, *args)

    def result(self) -> Any:
        raise ShardLost


def build(shards: int, streams: int, alpha: float | None, fragments: int = 6) -> tuple[ShardedReplay, list[Mortal]]:
    """Shards that hold unequally much, with priorities that differ."""
    rng = np.random.default_rng(5)
    settings = None if alpha is None else PrioritySettings(alpha, eps=0.0)
    lines = 2 * streams
    handles = [Mortal(Replay(space("box", 1), Discrete(5), 200, lines, prioritized=settings)) for _ in range(shards)]
    sharded = ShardedReplay(handles, prioritized=alpha is not None)
    worlds = [World(i, 2, "box", 1, False, rng) for i in range(streams)]
    for world in worlds:
        for i in range(fragments * (1 + world.stream % 2)):
            sharded.insert(world.fragment(3)[0], world.stream, i)
    if alpha is not None:
        for _ in range(20):
            batch = sharded.sample(16, rng, GAMMA)
            sharded.update_priorities(batch.index, batch.generation, 0.2 + 3 * rng.random(16))
    return sharded, handles


def masses(handles: list[Mortal]) -> dict[int, float]:
    """Every item's mass by its frame, which names it."""
    found = {}
    for handle in handles:
        replay = handle.shard.replay
        rows = np.arange(replay.rows.tail, replay.rows.head)
        slots = rows[~replay.rows.unsampleable(rows % replay.rows.ring.rows)] % replay.rows.ring.rows
        values = np.ones(len(slots)) if replay.rows.tree is None else replay.rows.tree.mass[slots]
        found |= dict(zip(replay.rows.obs[slots, 0].astype(int).tolist(), values.tolist(), strict=True))
    return found


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_draws_follow_the_exact_distribution(alpha: float | None) -> None:
    sharded, handles = build(3, 5, alpha)
    mass = masses(handles)
    total = sum(mass.values())
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(mass, 0)
    for _ in range(400):
        batch = sharded.sample(64, rng, GAMMA)
        for item, probability in zip(batch.obs[:, 0].astype(int).tolist(), batch.probability, strict=True):
            assert probability == pytest.approx(mass[item] / total, rel=1e-12)
            counts[item] += 1
    expected = np.array([400 * 64 * mass[item] / total for item in counts])
    statistic = ((np.array(list(counts.values())) - expected) ** 2 / expected).sum()
    assert statistic < chi_square_bound(len(counts) - 1)
    if alpha is None:
        assert (batch.weight == 1).all()


def test_weighted_means_stay_unbiased_while_priorities_change() -> None:
    """The face divides batches by masses that it was told long ago; every draw finds shards changed since."""
    sharded, handles = build(2, 4, 1.0)
    stale = dict(sharded.reports)
    items = sorted(masses(handles))
    truth = np.mean([item % 7 for item in items])
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(3000):
        for handle in handles:  # somebody else's updates, which the face does not hear of
            replay = handle.shard.replay
            index = rng.integers(0, replay.rows.head, 8)
            there = replay.rows.tree.mass[index] > 0
            index = index[there]
            replay.update_priorities(index, np.zeros(len(index), np.int64), 0.1 + 2 * rng.random(len(index)))
        sharded.reports = dict(stale)
        batch = sharded.sample(32, rng, GAMMA)
        value = batch.obs[:, 0].astype(int) % 7
        estimates.append((value / (len(items) * batch.probability)).mean())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 4.5 * error
    assert error < 0.02 * truth


def test_a_dead_shard_is_named_and_the_others_go_on() -> None:
    sharded, handles = build(3, 5, 1.0)
    before = sharded.ledger()
    held = len(handles[1].shard.replay)
    old = sharded.sample(64, np.random.default_rng(0), GAMMA)
    handles[1].dead = True
    batch = sharded.sample(64, np.random.default_rng(1), GAMMA)
    assert len(batch.index) == 64
    assert batch.probability.max() < 1
    assert sharded.lost[1]["resident"] == held
    after = sharded.ledger()
    assert after["lost_with_shard"] == held
    assert after["inserted"] == after["resident"] + after["evicted"] + after["lost_with_shard"] == before["inserted"]
    updated = sharded.update_priorities(old.index, old.generation, np.ones(64))
    assert updated == int((old.index >> 40 != 1).sum()) < 64
    world = World(1, 2, "box", 1, False, np.random.default_rng(2))  # the stream whose home was shard 1
    sharded.insert(world.fragment(2)[0], 1)
    assert sharded.assigned_shard(1) == 2
    assert sharded.ledger()["inserted"] == before["inserted"] + 4


def test_a_shard_that_dies_while_it_answers() -> None:
    sharded, handles = build(2, 4, None)
    handles[0].dies_answering = True
    batch = sharded.sample(40, np.random.default_rng(0), GAMMA)
    assert len(batch.index) == 40
    assert set(batch.index >> 40) == {1}
    handles[1].dies_answering = True
    with pytest.raises(ResourceError, match="every shard has died"):
        sharded.sample(4, np.random.default_rng(0), GAMMA)


class Slow(LocalShard):
    """A shard that does what it is asked for only when somebody waits for the answer; it may have died by then."""

    dead = False

    def __init__(self, replay: Replay):
        super().__init__(replay)
        self.orders: list[tuple[str, tuple[Any, ...]]] = []

    def call(self, method: str, *args: Any) -> Any:
        self.orders.append((method, args))
        return self

    def result(self) -> Any:
        if self.dead:
            raise ShardLost
        method, args = self.orders.pop(0)
        return self.shard.execute(method, *args)


def fragments_of(streams: int, count: int) -> list[tuple[Columns, int, int]]:
    worlds = [World(i, 2, "box", 1, False, np.random.default_rng(5)) for i in range(streams)]
    return [(world.fragment(3)[0], world.stream, i) for i in range(count) for world in worlds]


def replay_of(lines: int) -> Replay:
    return Replay(space("box", 1), Discrete(5), 2000, lines)


def test_draws_wait_for_the_fragments_that_were_sent() -> None:
    """A face that sends and one whose shards are done at once draw the same."""
    slow = ShardedReplay([Slow(replay_of(8)) for _ in range(2)])
    quick = ShardedReplay([LocalShard(replay_of(8)) for _ in range(2)])
    fragments = fragments_of(4, 40)  # more than are ever on their way together
    for fragment in fragments:
        slow.insert(*fragment)
        quick.insert(*fragment)
    one, other = (replay.sample(64, np.random.default_rng(0), GAMMA) for replay in (slow, quick))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert slow.ledger() == quick.ledger()
    assert len(slow) == 4 * 40 * 3 * 2


def test_fragments_on_their_way_to_a_dead_shard_go_to_another() -> None:
    shards = [Slow(replay_of(8)) for _ in range(3)]
    replay = ShardedReplay(shards)
    fragments = fragments_of(3, 2)
    for fragment in fragments[:3]:
        replay.insert(*fragment)
    assert len(replay) == 3 * 3 * 2
    for fragment in fragments[3:]:
        replay.insert(*fragment)
    shards[1].dead = True
    assert replay.ledger() == {"inserted": 36, "resident": 30, "evicted": 0, "lost_with_shard": 6}
    assert len(shards[2].shard.replay) == 18  # its own two fragments, and the one that was under way
    assert replay.assigned_shard(1) == 2


def test_a_replay_that_must_stay_whole_asks_for_a_new_one_where_a_fragment_is_lost() -> None:
    shards = [Slow(replay_of(4)) for _ in range(2)]
    replay = ShardedReplay(shards, require_all=True)
    for fragment in fragments_of(2, 1):
        replay.insert(*fragment)
    shards[0].dead = True
    with pytest.raises(ShardLost, match="replay shard 0 of 2 died"):
        len(replay)


def test_sequences_and_checkpoints(tmp_path: Path) -> None:
    sharded, _ = build(2, 4, 1.0)
    sharded.save(tmp_path)
    again = ShardedReplay(
        [
            LocalShard(Replay(space("box", 1), Discrete(5), 200, 8, prioritized=PrioritySettings(1.0, eps=0.0)))
            for _ in range(2)
        ],
        prioritized=True,
    )
    again.load(tmp_path)
    one, other = (replay.sample_sequences(9, 4, np.random.default_rng(3)) for replay in (sharded, again))
    assert isinstance(one, Columns)
    assert one.obs.shape == (4, 9, 2)
    assert one.last_obs.shape == (9, 2)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_replay_that_must_stay_whole_says_which_shard_died() -> None:
    shards = [Mortal(Replay(space("box", 1), Discrete(5), 200, 1)) for _ in range(2)]
    replay = ShardedReplay(shards, require_all=True)
    shards[1].dead = True
    with pytest.raises(ShardLost, match="replay shard 1 of 2 died"):
        replay.refresh()
    assert replay.lost == {}
