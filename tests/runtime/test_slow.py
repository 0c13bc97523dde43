"""A stream that is far slower than the others is found, named, and holds up nobody."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from distrl.control.samplers.clock import StepClock
from distrl.experience.activity import LONG_STEP, Activity
from distrl.experience.fragment import FragmentMeta, Pace, Unit
from distrl.experience.ledger import Ledger
from distrl.runtime.loop import slow_streams as slow
from distrl.runtime.loop.pool import Pool
from distrl.runtime.loop.slow_streams import QUICK_FRAGMENTS, SlowStreams
from distrl.runtime.protocol.events import Probed
from distrl.runtime.train import train
from distrl.store.queue import Queue
from tests.helpers import config, events

USUAL = Pace(0.1, 0.02, 16)  # 16 steps of about 5 ms


def make_pool(streams: int, samplers: int) -> Pool:
    pool = Pool(streams, samplers, Queue(streams, 1, False, Ledger()), 1, False)
    for slot in pool.slots:
        pool.joined(slot, 1, "")
    return pool


class World:
    """A loop of 8 streams in 2 samplers that is told what samplers measure."""

    def __init__(self) -> None:
        self.pool = make_pool(8, 2)
        self.told: list[tuple[str, int]] = []
        monitor = SimpleNamespace(event=lambda kind, stream, **facts: self.told.append((kind, stream)))
        self.isolate: list[int] = []
        elastic: Any = SimpleNamespace(isolate=self.isolate.append, release=lambda stream: None)
        for slot in self.pool.slots:
            self.pool.started(slot, self.pool.orders(slot, 0))
        state: Any = SimpleNamespace(pool=self.pool)
        services: Any = SimpleNamespace(backend=None, monitor=monitor)
        self.watch = SlowStreams(state, services, elastic)

    def finished(self, seq: int, **paces: Pace) -> None:
        """A fragment of every stream; `s3=pace` is another pace than the usual one."""
        own = {int(name[1:]): pace for name, pace in paces.items()}
        metas = [FragmentMeta(Unit(seq, stream), 0, 16, [], pace=own.get(stream, USUAL)) for stream in range(8)]
        self.watch.finished(metas)


def test_a_slow_stream_is_found_in_the_middle_of_its_first_fragment() -> None:
    world = World()
    for seconds in (1, 2, 3, 4, 5):
        if not world.told:
            found_after = seconds
            siblings = {stream: Pace(0.005 * seconds, 0.005, seconds) for stream in (0, 1, 2)}
            world.watch.probed(Probed(0, Activity({**siblings, 3: Pace(float(seconds), 1.0, seconds)}, 3, 0.1)))
    assert world.told == [("slow", 3)]
    assert world.isolate == [3]
    assert found_after == 5  # three seconds beyond what the others need, the longest step not counted
    assert world.watch.problem() == "stream 3 is slow: 1 s a step, the median is 0.005 s; in sampler 0 with others"


def test_short_fragments_add_up() -> None:
    world = World()
    for seq in range(4):
        assert world.told == []
        world.finished(seq, s6=Pace(1.0, 0.1, 16))
    assert world.told == [("slow", 6)]


@pytest.mark.parametrize(
    "pace",
    [
        Pace(20.1, 20.0, 16),  # one step: a reset that takes long, or an environment that hung for a while
        Pace(0.6, 0.05, 16),  # seven times the others
    ],
)
def test_what_is_no_slow_stream(pace: Pace) -> None:
    world = World()
    for seq in range(20):
        world.finished(seq, s6=pace if seq % 2 or pace.seconds < 1 else USUAL)
    assert world.told == []


def test_streams_that_are_all_slow_are_not_slow() -> None:
    world = World()
    for seq in range(4):
        world.finished(seq, **{f"s{stream}": Pace(16.0, 1.0, 16) for stream in range(8)})
    assert world.told == []


def test_a_stream_that_is_quick_again_is_told() -> None:
    world = World()
    world.finished(0, s6=Pace(16.0, 1.0, 16))
    for seq in range(1, 1 + QUICK_FRAGMENTS):
        assert world.told == [("slow", 6)]
        world.finished(seq)
    assert world.told == [("slow", 6), ("slow_over", 6)]
    assert world.watch.problem() == ""


def test_the_clock_tells_whose_step_is_under_way() -> None:
    clock = StepClock()
    assert str(clock.activity()) == ""
    tick = clock.begin([4, 7])
    assert clock.activity().paces == {4: Pace(), 7: Pace()}
    for seconds in (-9.0, -8.0, -6.0, -5.5, -5.0):
        tick(perf_counter() + seconds)
    activity = clock.activity()
    assert activity.stream == 7
    assert [activity.paces[stream].steps for stream in (4, 7)] == [2, 2]
    assert activity.paces[4].seconds == pytest.approx(1.5, abs=0.1)
    assert activity.seconds >= LONG_STEP
    assert str(activity).startswith("a step of stream 7 takes 5 s")
    tick(perf_counter())
    assert (clock.activity().stream, clock.paces()[7].steps) == (-1, 2)
    assert str(clock.activity()).startswith("stream 7 has taken 7.0 s for 2 steps")


# ---- the pool ------------------------------------------------------------------------------------------------------


def make_all(pool: Pool, slot: Any, version: int) -> None:
    """A sampler makes whatever it may."""
    requests = pool.orders(slot, version)
    pool.started(slot, requests)
    for meta in pool.finished(slot, [FragmentMeta(r.unit, r.version, 16, [], snapshot="place") for r in requests]):
        pool.queue.put(meta, None)


@pytest.mark.parametrize("samplers", [1, 2, 4])
def test_updates_go_on_while_a_slow_fragment_is_made(samplers: int) -> None:
    pool = make_pool(8, samplers)
    slot = pool.slots[pool.sampler_of(1)]
    requests = pool.orders(slot, 0)
    pool.started(slot, requests)  # and this call does not end
    change = pool.isolate(1)
    assert change is not None
    assert change.start == (samplers,)
    assert pool.size == samplers
    pool.joined(pool.slots[samplers], 1, "")
    assert (slot.streams, slot.isolated, pool.queue.ledger.counts["cut"]) == ([1], 1, len(requests) - 1)
    assert pool.isolate(0) is None  # one of so few samplers is enough
    for version in range(20):
        while (batch := pool.queue.pop(version, version)) is None:
            before = len(pool.queue)
            for other in pool.idle():
                make_all(pool, other, version)
            assert len(pool.queue) > before
        assert all(waiting.meta.unit.stream != 1 for waiting in batch)
        pool.queue.consumed(version)
    done = [FragmentMeta(request.unit, 0, 16, []) for request in requests]
    assert [tuple(meta.unit) for meta in pool.finished(slot, done)] == [(0, 1)]  # its siblings' are long made
    pool.release(1)
    assert pool.size == samplers + 1
    assert sorted(len(slot.streams) for slot in pool.slots) == sorted(
        (8 + place) // (samplers + 1) for place in range(samplers + 1)
    )


def test_a_lost_sampler_of_a_slow_stream_blames_nobody_who_left() -> None:
    pool = make_pool(4, 2)
    slot = pool.slots[0]
    requests = pool.orders(slot, 0)
    pool.started(slot, requests)
    pool.isolate(1)
    assert pool.lost(slot, requests, "no answer")
    assert set(pool.suspects) == {1}
    assert pool.queue.ledger.counts["cut"] == 2


# ---- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_a_slow_stream_leaves_its_sampler_to_itself(
    local_ray: str, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fragment 0 of stream 1 takes half a minute; the run has long ended then, and everything adds up."""
    monkeypatch.setattr(slow, "SLOW_SECONDS", 1.0)
    run = config(
        "slow",
        backend="ray",
        deterministic=False,
        env={"id": "tests.runtime.user_code:SlowStreamEnv", "num_envs": 8, "streams": 8},
        algorithm={"rollout_steps": 80},
        samplers={"count": 2},
        store={"max_staleness": 1},
        stop={"updates": 16},
    )
    summary = train(run, runs_dir=tmp_runs)
    ledger = summary["ledger"]
    assert ledger["env_steps"] == 16 * 8 * 80
    assert ledger["started"] == ledger["finished"] + ledger["cut"]
    assert summary["staleness_max"] <= 1
    folder = tmp_runs / "slow"
    (found,) = events(folder, "slow")
    assert (found["stream"], found["sampler"]) == (1, 0)
    assert found["s_per_step"] > 0.2
    (parted,) = events(folder, "isolated")
    assert (parted["stream"], parted["sampler"], parted["cut"], parted["start"]) == (1, 0, 3, [2])
    assert set(events(folder, "reassigned")[0]["streams"]) == {"0", "2", "3"}
