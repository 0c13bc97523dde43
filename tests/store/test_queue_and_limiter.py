"""Queue, pool and ledger under random delays, deaths and checkpoints: a stateful model with a clock of its own.

The test plays back end and learner: it decides who finishes when, who dies, and when the run is killed and resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distrl.base.errors import ResourceError
from distrl.experience.fragment import CollectRequest, FragmentMeta, Unit
from distrl.experience.ledger import Ledger
from distrl.runtime.loop.pool import MAX_BLAMED, MAX_LOSSES, Pool, Quarantined
from distrl.store.queue import Queue, Waiting

STEPS = 7  # environment steps of a fragment
MAX_EXTRA = 1  # samplers that stay when a slow stream is quick again: 5 samplers have one apart at a time


class Flow(RuleBasedStateMachine):
    """Everything of a run but its data."""

    @initialize(
        streams=st.integers(1, 5),
        samplers=st.integers(1, 5),
        staleness=st.integers(0, 3),
        mode=st.sampled_from(["deterministic", "ordered", "free"]),
    )
    def begin(self, streams: int, samplers: int, staleness: int, mode: str) -> None:
        self.streams, self.samplers = streams, min(samplers, streams)
        self.deterministic = mode == "deterministic"
        self.k = 0 if mode == "ordered" else staleness
        self.ordered = mode != "free" or self.k == 0
        self.version = self.started = 0
        self.working: dict[int, list[CollectRequest]] = {}  # sampler -> what it is making
        self.learning: list[Unit] = []
        self.requeued = False
        self.consumed: list[Unit] = []
        self.history: list[list[Unit]] = []  # units of each surviving update
        self.positions = [0] * streams  # which fragment each stream's environments are at, as snapshots say
        self.build(Ledger())

    def build(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.queue = Queue(self.streams, self.k, self.ordered, ledger)
        self.pool = Pool(self.streams, self.samplers, self.queue, self.k, self.deterministic)
        self.working = {}
        for slot in self.pool.slots:
            slot.ready = True

    # ---- what may happen ---------------------------------------------------------------------------------------------

    @rule(choice=st.integers(0, 99))
    def dispatch(self, choice: int) -> None:
        """One idle sampler gets its orders, in any order of samplers."""
        idle = self.pool.idle()
        if idle:
            self.order(idle[choice % len(idle)])

    def order(self, slot: Any) -> bool:
        requests = self.pool.orders(slot, self.version)
        if not requests:
            return False
        assert len({request.version for request in requests}) == 1
        for request in requests:
            assert 0 <= request.version <= self.version
            if self.deterministic:
                assert request.version == max(0, request.unit.seq - self.k)
            if request.assign and self.positions[request.unit.stream]:
                assert request.snapshot == self.positions[request.unit.stream] == request.unit.seq
        self.pool.started(slot, requests)
        self.working[slot.index] = requests
        return True

    @precondition(lambda self: self.working)
    @rule(choice=st.integers(0, 99))
    def finish(self, choice: int) -> None:
        """One busy sampler is done."""
        sampler = sorted(self.working)[choice % len(self.working)]
        requests = self.working.pop(sampler)
        metas = [
            FragmentMeta(request.unit, request.version, STEPS, [], snapshot=request.unit.seq + 1)
            for request in requests
        ]
        for meta in self.pool.finished(self.pool.slots[sampler], metas):
            self.positions[meta.unit.stream] = meta.unit.seq + 1
            self.queue.put(meta, data=None)
        self.pool.end_if_drained(self.pool.slots[sampler])

    @rule(choice=st.integers(0, 99))
    def die(self, choice: int) -> None:
        """One sampler is lost with whatever it is making, and replaced."""
        hosting = [slot for slot in self.pool.slots if slot.state == "hosting"]
        slot = hosting[choice % len(hosting)]
        requests = self.working.get(slot.index, [])
        wanted = [request for request in requests if request.unit in slot.making]
        blamed = self.pool.suspects.get(wanted[0].unit.stream, 0) + 1 if len(wanted) == 1 else 0
        if slot.losses < MAX_LOSSES and blamed < MAX_BLAMED:  # more would end the run
            self.working.pop(slot.index, None)
            self.pool.lost(slot, requests, "a test")
            assert not slot.ready
            if choice % 2 and any(other.isolated < 0 for other in hosting if other is not slot):
                self.pool.reassign([slot])  # for good; `join` brings it back
                assert slot.streams == []
            else:
                slot.ready = True

    @rule(choice=st.integers(0, 99))
    def isolate(self, choice: int) -> None:
        """A stream is found to be slow, in the middle of whatever is made."""
        stream = choice % self.streams
        home = self.pool.slots[self.pool.sampler_of(stream)]
        siblings = set(home.streams) - {stream}
        change = self.pool.isolate(stream)
        if change is None:
            return
        assert home.isolated == stream
        assert set(change.moved) in (set(), siblings)
        assert all(unit.stream not in change.moved for unit in home.making)

    @precondition(lambda self: hasattr(self, "pool") and self.pool.isolated())
    @rule(choice=st.integers(0, 99))
    def release(self, choice: int) -> None:
        """A slow stream is quick again."""
        apart = self.pool.isolated()
        self.pool.release(apart[choice % len(apart)])

    @rule(samplers=st.integers(1, 5))
    def scale(self, samplers: int) -> None:
        """Another number of samplers is asked for."""
        self.samplers = min(samplers, self.streams)
        self.pool.resize(self.samplers)

    @precondition(lambda self: hasattr(self, "pool") and any(slot.state == "joining" for slot in self.pool.slots))
    @rule()
    def join(self) -> None:
        """A sampler that was started stands."""
        slot = next(slot for slot in self.pool.slots if slot.state == "joining")
        self.pool.joined(slot, 1, "")

    @rule()
    def take(self) -> None:
        """The learner gets a batch, if it is free and one is complete."""
        if not self.learning:
            batch = self.queue.pop(self.version, self.started)
            if batch is not None:
                self.check_batch(batch)
                self.learning = [waiting.meta.unit for waiting in batch]
                self.started += 1

    def check_batch(self, batch: list[Waiting]) -> None:
        units = [waiting.meta.unit for waiting in batch]
        assert units == sorted(units)
        assert len(units) == self.streams
        if self.ordered:
            assert units == [Unit(self.version, stream) for stream in range(self.streams)]
        for waiting in batch:
            age = self.version - waiting.meta.version
            assert 0 <= age <= self.k
            if self.deterministic:
                assert age == min(self.k, self.version)

    @precondition(lambda self: self.learning)
    @rule()
    def update(self) -> None:
        """The learner is done."""
        batch = self.queue.consumed(self.version)
        assert [waiting.meta.unit for waiting in batch] == self.learning
        self.history.append(self.learning)
        self.learning = []
        self.version += 1

    @rule(samplers=st.integers(1, 5))
    def kill_and_resume(self, samplers: int) -> None:
        """A checkpoint of this boundary (as text, as on disk), and a new attempt from it with other samplers."""
        next_seq = list(self.queue.next_seq)
        for unit in self.ledger.running:
            next_seq[unit.stream] = min(next_seq[unit.stream], unit.seq)
        waiting = self.queue.waiting()
        ledger = Ledger.from_state(json.loads(json.dumps(self.ledger.to_state())))
        self.samplers = min(samplers, self.streams)
        self.requeued |= bool(self.learning)
        self.learning, self.started = [], self.version
        self.build(ledger)
        self.queue.restore(next_seq, waiting)
        self.pool.snapshots = [position or None for position in self.positions]

    @rule()
    def settle(self) -> None:
        """Left alone, the run always comes to its next update: nothing is ever stuck."""
        before = self.version
        for _ in range(20 * (self.streams + self.k + 1)):
            for slot in self.pool.idle():
                self.order(slot)
            self.take()
            if self.learning:
                self.update()
                break
            assert self.working, "no batch, and nobody is making one"
            self.finish(0)
        assert self.version == before + 1

    # ---- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def numbers_add_up(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert self.ledger.staleness_max <= self.k
        assert self.ledger.counts["consumed"] == self.version * self.streams
        assert self.ledger.env_steps == self.version * self.streams * STEPS
        if self.ordered:
            assert self.ledger.counts["evicted"] == 0

    @invariant()
    def nothing_is_used_twice(self) -> None:
        if hasattr(self, "ledger"):
            used = [unit for units in self.history for unit in units]
            assert len(used) == len(set(used))

    @invariant()
    def every_stream_has_one_place(self) -> None:
        if not hasattr(self, "ledger"):
            return
        slots = self.pool.slots
        assert sorted(stream for slot in slots for stream in slot.streams) == list(range(self.streams))
        assert sum(len(slot.making) for slot in slots) == len(self.ledger.running)
        assert {unit.stream: slot.index for slot in slots for unit in slot.making} == self.pool.running
        others = any(slot.state == "hosting" and slot.isolated < 0 for slot in slots)
        assert all(slot.streams == [slot.isolated] for slot in slots if slot.isolated >= 0 and others)
        assert self.pool.size <= self.samplers + MAX_EXTRA

    @invariant()
    def nobody_is_too_far_ahead(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ahead = [0] * self.streams
        for unit in [*self.ledger.running, *(waiting.meta.unit for waiting in self.queue._waiting.values())]:
            ahead[unit.stream] += 1
        # a batch that was being learned at a kill waits again, beyond what admission allows
        assert max(ahead) <= self.k + 1 + self.requeued


Flow.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestFlow = Flow.TestCase


def losing(streams: int) -> tuple[Ledger, Callable[[int], None]]:
    """A pool of one sampler, and a function that loses it while it makes only some of what it could."""
    ledger = Ledger()
    pool = Pool(streams, 1, Queue(streams, 0, True, ledger), 0, True)
    slot = pool.slots[0]

    def lose(most: int) -> None:
        slot.ready = True
        requests = pool.orders(slot, 0)[:most]
        pool.started(slot, requests)
        pool.lost(slot, requests, "out of memory")

    return ledger, lose


def test_a_sampler_that_is_lost_again_and_again_ends_the_run() -> None:
    ledger, lose = losing(streams=1)
    for _ in range(MAX_LOSSES):
        lose(0)  # while it does nothing: no stream is to blame
    with pytest.raises(ResourceError, match="lost 4 times in a row"):
        lose(0)
    assert ledger.counts["cut"] == 0


def test_a_stream_that_ends_its_sampler_whenever_it_is_alone_is_named() -> None:
    ledger, lose = losing(streams=2)
    lose(2)  # both were made: either may have been it; from here on each is made alone
    for _ in range(MAX_BLAMED - 1):
        lose(2)
    with pytest.raises(Quarantined, match="stream 0 ended its sampler 3 times in a row"):
        lose(2)
    assert ledger.counts["cut"] == 2 + MAX_BLAMED


def test_streams_are_spread_evenly() -> None:
    pool = Pool(8, 3, Queue(8, 0, True, Ledger()), 0, True)
    assert [slot.streams for slot in pool.slots] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_too_old_fragments_are_evicted_and_their_stream_goes_on() -> None:
    ledger = Ledger()
    queue = Queue(2, 1, False, ledger)
    for seq in range(3):  # stream 0 alone fills batch after batch, while stream 1 takes its time
        queue.start(Unit(seq, 0))
    queue.start(Unit(0, 1))
    for seq in range(2):
        queue.put(FragmentMeta(Unit(seq, 0), 0, STEPS, []), None)
    assert queue.pop(0, 0) is not None
    queue.consumed(0)
    queue.put(FragmentMeta(Unit(0, 1), 0, STEPS, []), None)
    assert queue.pop(2, 1) is None
    assert ledger.counts["evicted"] == 1
    assert queue.admit(1, 2) == Unit(1, 1)
    ledger.check()
