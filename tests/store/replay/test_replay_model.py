"""The replay against a slow reference: lists of steps, one per environment, that forget nothing."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distrl.base.columns import tree_leaves
from distrl.store.replay.buffer import Replay
from distrl.store.replay.priorities import PrioritySettings
from tests.support.replay_worlds import Step, World, observation, space

GAMMA = 0.5  # sums of small integers times powers of it are exact in float32
ACTIONS = 5


@dataclass
class Known:
    """A step that was inserted: its row, its place in its line, and whether the step after it was inserted next."""

    row: int
    line: tuple[int, int]
    position: int
    step: Step
    cut: bool = False


class Model(RuleBasedStateMachine):
    """Insert, sample, update, evict, save and load."""

    @initialize(
        kind=st.sampled_from(["box", "box", "box", "image", "channels", "dict"]),
        frames=st.sampled_from([1, 1, 1, 2, 3, 4]),
        burns=st.sampled_from([False, False, True]),
        n_step=st.integers(1, 4),
        streams=st.integers(1, 3),
        width=st.integers(1, 2),
        capacity=st.integers(26, 45),
        segment_rows=st.sampled_from([1, 2, 3, 7, 40]),
        extra=st.booleans(),
        alpha=st.sampled_from([None, 0.0, 0.6, 1.0]),
        seed=st.integers(0, 2**31),
    )
    def begin(
        self,
        kind: str,
        frames: int,
        burns: bool,
        n_step: int,
        streams: int,
        width: int,
        capacity: int,
        segment_rows: int,
        extra: bool,
        alpha: float | None,
        seed: int,
    ) -> None:
        if kind in ("image", "channels") and frames == 1:
            frames = 2
        burns = burns and frames == 1  # as env.frame_stack does not go with back ends that burn steps
        self.rng = np.random.default_rng(seed)
        self.kind, self.frames, self.n = kind, frames, n_step
        self.worlds = [World(i, width, kind, frames, burns, self.rng) for i in range(streams)]
        self.settings = None if alpha is None else PrioritySettings(alpha=alpha, eps=0.5)
        self.folder = Path(tempfile.mkdtemp(prefix="replay-"))
        self.saves = 0
        self.make = lambda: Replay(
            space(kind, frames),
            Discrete(ACTIONS),
            capacity,
            streams * width,
            n_step,
            self.settings,
            frames,
            ("logp",) if extra else (),
            segment_rows=segment_rows,
        )
        self.replay = self.make()
        self.priority: dict[int, float] = {}
        self.max_priority = 1.0
        self.known: dict[int, Known] = {}
        self.lines: dict[tuple[int, int], list[Known]] = {(i, b): [] for i in range(streams) for b in range(width)}
        self.sequence = [0] * streams
        self.batches: list[Any] = []

    # ---- what may happen ---------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 99), steps=st.sampled_from([1, 1, 1, 2, 4]), p_end=st.sampled_from([0.0, 0.25]))
    def insert(self, which: int, steps: int, p_end: float) -> None:
        world = self.worlds[which % len(self.worlds)]
        rollout, table = world.fragment(steps, p_end)
        inserted = self.replay.insert(rollout, world.stream, self.sequence[world.stream])
        self.sequence[world.stream] += 1
        row = self.replay.rows.head - steps * world.width - len(rollout.final_index)
        for made in table:
            for b, step in enumerate(made):
                line = self.lines[world.stream, b]
                known = Known(row, (world.stream, b), len(line), step)
                line.append(known)
                self.known[row] = known
                self.priority[row] = self.max_priority
                row += 1
        assert inserted == sum(not step.burnt for made in table for step in made)

    @rule(which=st.integers(0, 99))
    def lose(self, which: int) -> None:
        """A fragment never arrives: what was before it and what comes after must not be joined."""
        world = self.worlds[which % len(self.worlds)]
        world.skip()
        self.sequence[world.stream] += 1
        for b in range(world.width):
            if self.lines[world.stream, b]:
                self.lines[world.stream, b][-1].cut = True

    @precondition(lambda self: len(self.replay))
    @rule(seed=st.integers(0, 2**31))
    def sample(self, seed: int) -> None:
        batch = self.replay.sample(8, np.random.default_rng(seed), GAMMA, beta=0.5)
        for i in range(8):
            self.check(batch, i)
        self.batches.append(batch)
        if self.settings is None:
            assert (batch.weight == 1).all()
            return
        mass = {row: (self.priority[row] + 0.5) ** self.settings.alpha for row in self.sampleable()}
        drawn = np.array([mass[self.row(batch, i)] for i in range(8)]) / sum(mass.values())
        np.testing.assert_allclose(batch.probability, drawn, rtol=1e-12)
        weight = (len(mass) * drawn) ** -0.5
        np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-6)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), seed=st.integers(0, 2**31))
    def update(self, which: int, seed: int) -> None:
        """Late updates: of any batch so far, evicted transitions included."""
        batch = self.batches[which % len(self.batches)]
        priority = np.random.default_rng(seed).random(8) * 3
        rows = [self.row(batch, i) for i in range(8)]
        here = self.sampleable()
        found = self.replay.update_priorities(batch.index, batch.generation, priority)
        if self.settings is None:
            assert found == 0
            return
        assert found == sum(row in here for row in rows)
        for row, value in zip(rows, priority.tolist(), strict=True):
            if row in here:
                self.priority[row] = value
                self.max_priority = max(self.max_priority, value)

    @rule(seed=st.integers(0, 2**31), rarely=st.integers(0, 4))
    def checkpoint(self, seed: int, rarely: int) -> None:
        """Save, load into another replay, go on there; both draw the same."""
        if rarely:  # it takes a hundred times as long as anything else here
            return
        self.saves += 1
        folder = self.folder / str(self.saves)
        before = {path: path.read_bytes() for path in self.folder.glob("*/*")}
        self.replay.save(folder)
        loaded = self.make()
        loaded.load(folder)
        assert loaded.ledger() == self.replay.ledger()
        if len(loaded):
            one, other = (replay.sample(16, np.random.default_rng(seed), GAMMA) for replay in (self.replay, loaded))
            for left, right in zip(tree_leaves(one), tree_leaves(other), strict=True):
                np.testing.assert_array_equal(left, right)
        assert before == {path: path.read_bytes() for path in before}  # what is saved stays as it was
        self.replay = loaded

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def sampleable(self) -> set[int]:
        rows = np.arange(self.replay.rows.tail, self.replay.rows.head)
        return {int(row) for row in rows[~self.replay.rows.unsampleable(rows % self.replay.rows.ring.rows)]}

    @precondition(lambda self: len(self.replay))
    @rule(seed=st.integers(0, 2**31), steps=st.integers(1, 5))
    def sample_sequences(self, seed: int, steps: int) -> None:
        batch = self.replay.sample_sequences(4, steps, np.random.default_rng(seed))
        for i in range(4):
            path = self.path(self.row(batch, i), steps)
            assert batch.length[i] == len(path)
            assert batch.valid[:, i].tolist() == [t < len(path) for t in range(steps)]
            for t, known in enumerate(path):
                step = known.step
                assert_obs(batch.obs, (t, i), self.kind, step.history)
                found = (batch.reward[t, i], batch.terminated[t, i], batch.truncated[t, i], batch.first[t, i])
                assert found == (step.reward, step.terminated, step.truncated, step.first)
            if not path[-1].step.terminated:
                assert_obs(batch.last_obs, (i,), self.kind, path[-1].step.next_history)

    # ---- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_balances(self) -> None:
        if not hasattr(self, "replay"):
            return
        ledger = self.replay.ledger()
        assert ledger["inserted"] == ledger["resident"] + ledger["evicted"]
        assert ledger["inserted"] == sum(not known.step.burnt for known in self.known.values())

    @invariant()
    def the_newest_rows_are_resident(self) -> None:
        if not hasattr(self, "replay"):
            return
        replay = self.replay
        assert replay.rows.tail == max(0, replay.rows.head - replay.rows.capacity)
        sampleable = self.sampleable()
        resident = {row for row in self.known if row >= replay.rows.tail and not self.known[row].step.burnt}
        assert len(sampleable) == len(replay)
        assert sampleable <= resident
        for row in resident - sampleable:
            assert self.needs_evicted(self.known[row])
        if replay.rows.tree is not None:
            assert set(np.flatnonzero(replay.rows.tree.mass).tolist()) == {
                row % replay.rows.ring.rows for row in sampleable
            }

    @invariant()
    def stacks_are_made_of_resident_frames(self) -> None:
        if not hasattr(self, "replay") or self.frames == 1:
            return
        replay = self.replay
        slots = np.array(sorted(self.sampleable()), np.int64) % replay.rows.ring.rows
        for _ in range(self.frames - 1):
            slots = replay.rows.prev_slot[slots]
            assert ((slots - replay.rows.tail) % replay.rows.ring.rows < replay.rows.head - replay.rows.tail).all()

    def needs_evicted(self, known: Known) -> bool:
        """Whether a step's stack reaches back behind the oldest resident row, or over a loss."""
        line = self.lines[known.line]
        for back in range(1, self.frames):
            if line[known.position - back + 1].step.first or known.position < back:
                return known.position < back
            before = line[known.position - back]
            if before.row < self.replay.rows.tail or before.cut:
                return True
        return False

    # ---- the reference -----------------------------------------------------------------------------------------------

    def row(self, batch: Any, i: int) -> int:
        return int(batch.generation[i] * self.replay.rows.ring.rows + batch.index[i])

    def path(self, row: int, steps: int) -> list[Known]:
        """The steps that a sum or a sequence from `row` takes."""
        line = self.lines[self.known[row].line]
        path = [self.known[row]]
        while len(path) < steps:
            newest = path[-1]
            step = newest.step
            if step.terminated or step.truncated or newest.cut or newest.position + 1 == len(line):
                break
            path.append(line[newest.position + 1])
        return path

    def check(self, batch: Any, i: int) -> None:
        path = self.path(self.row(batch, i), self.n)
        step, newest = path[0].step, path[-1].step
        assert_obs(batch.obs, (i,), self.kind, step.history)
        assert batch.action[i] == step.action
        assert "logp" not in batch or batch.logp[i] == -step.reward
        assert batch.reward[i] == sum(GAMMA**k * known.step.reward for k, known in enumerate(path))
        assert batch.discount[i] == (0 if newest.terminated else GAMMA ** len(path))
        if not newest.terminated:
            assert_obs(batch.next_obs, (i,), self.kind, newest.next_history)


def assert_obs(tree: Any, at: tuple[int, ...], kind: str, history: list[float]) -> None:
    for found, expected in zip(tree_leaves(tree), tree_leaves(observation(kind, history)), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found[at], expected)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
