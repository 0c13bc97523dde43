"""The rows of a replay: columns, what is resident, making room, writing into slots. See `store.replay.buffer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.store.replay.layout import FIRST, GHOST, Layout, Leaf
from distrl.store.replay.segments import SegmentRing
from distrl.store.replay.sum_tree import SumTree


@dataclass
class StreamPlace:
    """Where a stream's environments stand.

    Attributes:
        width: Environments.
        pending: Slots (B,) of their pending rows.
        nothing: B zeros.
        showing: View of the pending rows, where observations are single arrays.
        last: Row number of their newest step; environment b's is `last + b`. -1 before the first.
        ended: The newest step ended an episode: (B,) bool, as bytes.
        sequence: Number of the next fragment, where the caller counts them.
        history: Row numbers where the newest time steps begin, as far back as a stack of frames reaches.
    """

    width: int
    pending: np.ndarray
    nothing: bytes
    showing: Any = None
    last: int = -1
    ended: bytes = b""
    sequence: int | None = None
    history: list[int] = field(default_factory=list)


class ReplayRows:
    """The rows of a replay and what it takes to append some.

    Args:
        layout: What a row holds.
        ring: Where rows are.
        capacity: Rows that stay.
        lines: Environments that may insert.
        tree: Masses of slots; None for uniform sampling.

    Attributes:
        next_slot: What follows each slot (rows + lines,): a slot, or a pending one behind the ring.
        prev_slot: What precedes it, where frames are stacked; an episode's first row precedes itself.
        broken: Steps whose older frames have been evicted.
        tail, head: Rows tail..head are resident.
        ghosts: Resident rows that cannot be sampled.
        inserted, evicted: Transitions, over the whole life.
        new_mass: Mass of a new transition.
    """

    def __init__(self, layout: Layout, ring: SegmentRing, capacity: int, lines: int, tree: SumTree | None):
        self.layout, self.ring, self.capacity, self.lines, self.tree = layout, ring, capacity, lines, tree
        self.frame_stack = layout.frame_stack
        self.next_slot = np.zeros(ring.rows + lines, np.int64)
        self.numbers = np.arange(ring.rows)  # to copy runs of slots from: half the time of making them
        stacked = ring.rows + lines if layout.frame_stack > 1 else 0
        self.prev_slot = np.zeros(stacked, np.int64)
        self.broken = np.zeros(stacked, bool)
        self.tail = self.head = self.ghosts = self.inserted = self.evicted = 0
        self.new_mass = 1.0
        self.streams: dict[int, StreamPlace] = {}
        self.stacks_seen = False
        self.lines_used = 0
        self._bind()

    def _bind(self) -> None:
        """Look arrays up once."""
        arrays = self.ring.arrays
        self.obs = tree_map(lambda leaf: arrays[leaf.name], self.layout.obs)
        self.action = tree_map(lambda leaf: arrays[leaf.name], self.layout.action)
        self.mask = None if self.layout.mask is None else tree_map(lambda leaf: arrays[leaf.name], self.layout.mask)
        self.reward, self.flags = arrays["reward"], arrays["flags"]
        self.extra = {name: arrays[name] for name in self.layout.extra}
        if self.mask is not None:  # what nobody told a mask for allows everything
            for leaf in tree_leaves(self.mask):
                leaf[self.ring.rows :] = True
        self.flags[self.ring.rows :] = GHOST
        self.obs_array = self.obs if isinstance(self.obs, np.ndarray) and self.frame_stack == 1 else None
        self.action_array = self.action if isinstance(self.action, np.ndarray) else None
        arrays_only = self.obs_array is not None and self.action_array is not None
        self.plain = arrays_only and self.mask is None and not self.extra

    @property
    def transitions(self) -> int:
        """Transitions that can be sampled now."""
        return self.head - self.tail - self.ghosts

    def __len__(self) -> int:
        return self.transitions

    def ledger(self) -> dict[str, int]:
        """Transitions inserted = resident + evicted, always."""
        return {"inserted": self.inserted, "resident": self.transitions, "evicted": self.evicted}

    def _too_small(self, demand: int) -> ConfigError:
        return ConfigError(
            f"replay: a fragment needs up to {demand} rows at once, and the capacity is {self.capacity}.",
            "Raise the replay's capacity, or shorten rollout_steps.",
        )

    def _open_stream(self, stream: int, width: int) -> StreamPlace:
        if stream in self.streams:
            raise ConfigError(
                f"replay: stream {stream} had {self.streams[stream].width} environments, now {width}.",
                "A stream's number of environments cannot change.",
            )
        if self.lines_used + width > self.lines:
            raise ConfigError(
                f"replay: stream {stream} brings {width} environments; {self.lines_used} of {self.lines} are here.",
                "Make the replay with lines = environments of all streams.",
            )
        place = self.make_place(width, self.ring.rows + self.lines_used)
        self.lines_used += width
        self.streams[stream] = place
        return place

    def make_place(self, width: int, begin: int) -> StreamPlace:
        """The place of a stream of `width` environments whose pending rows begin at slot `begin`."""
        place = StreamPlace(width, np.arange(begin, begin + width), bytes(width), ended=bytes([1]) * width)
        if self.obs_array is not None:
            place.showing = self.obs_array[begin : begin + width]
        return place

    def _reserve(self, count: int) -> int:
        """Make room for `count` rows; returns the number of the first."""
        start = self.head
        end = start + count
        if end - self.tail > self.capacity:
            self._evict(end - self.capacity)
        if end > self.ring.ready:
            self.ring.begin(end)
        self.head = end
        return start

    def slots(self, start: int, count: int) -> np.ndarray:
        """Slots (count,) of rows start, start + 1, ..."""
        return np.arange(start, start + count) % self.ring.rows

    def _evict(self, tail: int) -> None:
        """Forget rows below `tail`."""
        gone = tail - self.tail
        if self.tree is None and self.frame_stack == 1 and not self.ghosts:
            self.tail = tail
            self.evicted += gone
            return
        ghosts = 0
        if self.ghosts or self.frame_stack > 1:
            slots = self.slots(self.tail, gone)
            ghosts = int(np.count_nonzero(self.unsampleable(slots)))
            if self.frame_stack > 1:
                self._break_stacks(slots, tail)
        if self.tree is not None:
            self._set_mass(self.tail, gone, 0.0)
        self.tail = tail
        self.ghosts -= ghosts
        self.evicted += gone - ghosts

    def _set_mass(self, start: int, count: int, mass: float) -> None:
        """Give `count` rows, fewer than the ring has, the same mass."""
        assert self.tree is not None
        slot = start % self.ring.rows
        end = slot + count
        self.tree.set_range(slot, min(end, self.ring.rows), mass)
        self.tree.set_range(0, max(0, end - self.ring.rows), mass)

    def unsampleable(self, slots: np.ndarray) -> np.ndarray:
        """Which slots (N,) hold no transition, or one whose stack is incomplete."""
        ghost = (self.flags[slots] & GHOST) != 0
        return ghost | self.broken[slots] if self.frame_stack > 1 else ghost

    def _break_stacks(self, slots: np.ndarray, tail: int) -> None:
        """Rows whose stack reaches into evicted slots cannot be sampled any more: they count as evicted."""
        current = slots
        for _ in range(self.frame_stack - 1):
            following = self.next_slot[current]
            inside = following < self.ring.rows
            current = following[
                inside & (self.prev_slot[following] == current) & ((self.flags[following] & FIRST) == 0)
            ]
            lost = current[~self.unsampleable(current) & ~np.isin(current, slots)]
            self.broken[lost] = True
            if self.tree is not None:
                self.tree.set(lost, np.zeros(len(lost)))
            self.ghosts += len(lost)
            self.evicted += len(lost)

    def _write_plain(self, slot: int, steps: int, count: int, data: dict[str, Any]) -> None:
        """Like `_write` where observations and actions are single arrays and nothing else is kept."""
        end = slot + count
        obs, action, reward = data["obs"], data["action"], data["reward"]
        if steps == 1:
            obs, action, reward = obs[0], action[0], reward[0]
        else:
            obs, action = obs.reshape(count, *obs.shape[2:]), action.reshape(count, *action.shape[2:])
            reward = reward.reshape(count)
        self.obs[slot:end] = obs
        self.action[slot:end] = action
        self.reward[slot:end] = reward

    def _write(self, slot: int, count: int, rollout: Columns) -> None:
        """Copy the columns of a fragment into `count` slots in a row."""
        end = slot + count
        if self.obs_array is not None:
            obs = rollout.obs
            self.obs_array[slot:end] = obs.reshape(count, *obs.shape[2:])
        else:
            self._each(self.layout.obs, self.obs, rollout.obs, slot, end)
        if self.action_array is not None:
            action = rollout.action
            self.action_array[slot:end] = action.reshape(count, *action.shape[2:])
        else:
            self._each(self.layout.action, self.action, rollout.action, slot, end)
        self.reward[slot:end] = rollout.reward.reshape(count)
        if self.mask is not None:
            self._each(self.layout.mask, self.mask, rollout.mask, slot, end)
        for name, column in self.extra.items():
            value = rollout[name]
            column[slot:end] = value.reshape(count, *value.shape[2:])

    @staticmethod
    def _each(layout: Any, store: Any, tree: Any, slot: int, end: int) -> None:
        def copy(leaf: Leaf, column: np.ndarray, value: np.ndarray) -> None:
            newest = leaf.frame(value, -1, 2)
            column[slot:end] = newest.reshape(end - slot, *newest.shape[2:])

        tree_map(copy, layout, store, tree)

    def _write_wrapped(self, slot: int, rollout: Columns) -> None:
        """The same where the ring ends within the fragment: two runs of rows."""
        count = rollout.reward.size
        flat = rollout.only("obs", "action", "reward", "mask", *self.extra).map(
            lambda leaf: leaf.reshape(1, count, *leaf.shape[2:])
        )
        until = self.ring.rows - slot
        self._write(slot, until, flat[:, :until])
        self._write(0, count - until, flat[:, until:])

    @staticmethod
    def _put(layout: Any, store: Any, slots: np.ndarray, tree: Any, frame: int = -1) -> None:
        """Write rows (N, ...) of a tree, one frame of each, to slots (N,)."""
        tree_map(
            lambda leaf, column, value: column.__setitem__(slots, leaf.frame(np.asarray(value), frame, 1)),
            layout,
            store,
            tree,
        )

    def _append_ghosts(self, count: int) -> np.ndarray:
        """Slots (count,) of new rows that are no transitions."""
        slots = self.slots(self._reserve(count), count)
        self.flags[slots] = GHOST
        self.next_slot[slots] = slots
        if self.frame_stack > 1:
            self.prev_slot[slots] = slots
            self.broken[slots] = False
        if self.mask is not None:
            for leaf in tree_leaves(self.mask):
                leaf[slots] = True
        self.ghosts += count
        return slots
