"""Rows of a replay: columns, resident range, eviction, writing into slots."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distrl.base.columns import Columns, Tree, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.store.replay.layout import FIRST, OBS_ONLY, Layout, Leaf
from distrl.store.replay.priorities import PrioritySettings
from distrl.store.replay.segments import SegmentRing
from distrl.store.replay.sum_tree import SumTree


@dataclass
class StreamState:
    """Newest step of a stream's environments."""

    width: int
    last_obs_rows: np.ndarray  # slots (B,) of the newest observations, behind the ring
    nothing: bytes  # B zero bytes, to compare with
    last_obs: np.ndarray | None = None  # view of these rows where observations are single arrays
    last: int = -1  # row of the newest step, that of environment b is `last + b`; -1 before the first
    ended: bytes = b""  # the newest step ended an episode: (B,) bool
    sequence: int | None = None  # number of the next fragment, where the caller counts them
    history: list[int] = field(default_factory=list)  # first rows of the time steps that a stack of frames reaches


class ReplayRows:
    """Rows of a replay with the primitives of insertion and sampling.

    Rows tail..head are resident, `unsampled` of them without a transition; `inserted` and `evicted` count transitions.
    """

    def __init__(
        self, layout: Layout, ring: SegmentRing, capacity: int, num_envs: int, priorities: PrioritySettings | None
    ):
        self.layout, self.ring, self.capacity, self.num_envs = layout, ring, capacity, num_envs
        self.priorities = priorities
        self.tree = None if priorities is None else SumTree(ring.rows)  # masses of slots
        self.frame_stack = layout.frame_stack
        self.next_slot = np.zeros(ring.rows + num_envs, np.int64)  # successors: slots, or behind the ring
        self.numbers = np.arange(ring.rows)  # to copy runs of slots from: half the time of making them
        stacked = ring.rows + num_envs if layout.frame_stack > 1 else 0
        self.prev_slot = np.zeros(stacked, np.int64)  # predecessors; an episode's first row precedes itself
        self.broken = np.zeros(stacked, bool)  # steps whose older frames have been evicted
        self.tail = self.head = self.unsampled = self.inserted = self.evicted = 0
        self.new_mass, self.max_priority = 1.0, 0.0  # of a new transition
        self.raise_max_priority(1.0)
        self.streams: dict[int, StreamState] = {}
        self.stacks_checked = False
        self.envs_used = 0
        arrays = ring.arrays
        self.obs = tree_map(lambda leaf: arrays[leaf.name], self.layout.obs)
        self.action = tree_map(lambda leaf: arrays[leaf.name], self.layout.action)
        self.mask = None if self.layout.mask is None else tree_map(lambda leaf: arrays[leaf.name], self.layout.mask)
        self.reward, self.flags = arrays["reward"], arrays["flags"]
        self.extra = {name: arrays[name] for name in self.layout.extra}
        if self.mask is not None:  # an observation without a mask allows every action
            for leaf in tree_leaves(self.mask):
                leaf[self.ring.rows :] = True
        self.flags[self.ring.rows :] = OBS_ONLY
        self.obs_array = self.obs if isinstance(self.obs, np.ndarray) and self.frame_stack == 1 else None
        self.action_array = self.action if isinstance(self.action, np.ndarray) else None
        arrays_only = self.obs_array is not None and self.action_array is not None
        self.plain = arrays_only and self.mask is None and not self.extra  # nothing but single arrays

    @property
    def transitions(self) -> int:
        """Number of transitions that can be sampled now."""
        return self.head - self.tail - self.unsampled

    def raise_max_priority(self, priority: float) -> None:
        """Raise the priority of new transitions: the greatest priority ever given, 1 at first."""
        if self.priorities is not None and priority > self.max_priority:
            self.max_priority = priority
            self.new_mass = float(self.priorities.mass(np.array(priority)))

    def open_stream(self, stream: int, width: int) -> StreamState:
        """Register a stream of `width` environments."""
        if stream in self.streams:
            raise ConfigError(
                f"replay: stream {stream} had {self.streams[stream].width} environments, now {width}.",
                "A stream's number of environments cannot change.",
            )
        if self.envs_used + width > self.num_envs:
            raise ConfigError(
                f"replay: stream {stream} brings {width} environments; {self.envs_used} of {self.num_envs} are here.",
                "Make the replay with num_envs = environments of all streams.",
            )
        state = self.stream_state(width, self.ring.rows + self.envs_used)
        self.envs_used += width
        self.streams[stream] = state
        return state

    def stream_state(self, width: int, begin: int) -> StreamState:
        """Make the state of a stream whose newest observations begin at slot `begin`."""
        state = StreamState(width, np.arange(begin, begin + width), bytes(width), ended=bytes([1]) * width)
        if self.obs_array is not None:
            state.last_obs = self.obs_array[begin : begin + width]
        return state

    def reserve(self, count: int) -> int:
        """Free `count` rows at the head, evicting the oldest; returns the number of the first."""
        start = self.head
        end = start + count
        if end - self.tail > self.capacity:
            self.evict(end - self.capacity)
        if end > self.ring.ready:
            self.ring.begin(end)
        self.head = end
        return start

    def slots(self, start: int, count: int) -> np.ndarray:
        """Slots (count,) of rows start, start + 1, ..."""
        return np.arange(start, start + count) % self.ring.rows

    def evict(self, tail: int) -> None:
        """Evict rows below `tail`."""
        gone = tail - self.tail
        if self.tree is None and self.frame_stack == 1 and not self.unsampled:
            self.tail = tail
            self.evicted += gone
            return
        unsampled = 0
        if self.unsampled or self.frame_stack > 1:
            slots = self.slots(self.tail, gone)
            unsampled = int(np.count_nonzero(self.unsampleable(slots)))
            if self.frame_stack > 1:
                self._break_stacks(slots)
        if self.tree is not None:
            self.set_mass(self.tail, gone, 0.0)
        self.tail = tail
        self.unsampled -= unsampled
        self.evicted += gone - unsampled

    def set_mass(self, start: int, count: int, mass: float) -> None:
        """Set the mass of `count` consecutive rows, fewer than the ring has."""
        assert self.tree is not None
        slot = start % self.ring.rows
        end = slot + count
        self.tree.set_range(slot, min(end, self.ring.rows), mass)
        self.tree.set_range(0, max(0, end - self.ring.rows), mass)

    def unsampleable(self, slots: np.ndarray) -> np.ndarray:
        """Mark the slots (N,) without a transition, or with one whose frame stack is incomplete."""
        obs_only = (self.flags[slots] & OBS_ONLY) != 0
        return obs_only | self.broken[slots] if self.frame_stack > 1 else obs_only

    def _break_stacks(self, slots: np.ndarray) -> None:
        """Evict the transitions whose frame stack reaches into evicted slots."""
        current = slots
        for _ in range(self.frame_stack - 1):
            following = self.next_slot[current]
            inside = following < self.ring.rows
            stacked = (self.prev_slot[following] == current) & ((self.flags[following] & FIRST) == 0)
            current = following[inside & stacked]
            lost = current[~self.unsampleable(current) & ~np.isin(current, slots)]
            self.broken[lost] = True
            if self.tree is not None:
                self.tree.set(lost, np.zeros(len(lost)))
            self.unsampled += len(lost)
            self.evicted += len(lost)

    def write(self, slot: int, count: int, rollout: Columns) -> None:
        """Copy the columns of a fragment into `count` consecutive slots."""
        end, data = slot + count, rollout._data  # plain look-ups: see `insert`
        if self.obs_array is not None:
            obs = data["obs"]
            self.obs_array[slot:end] = obs.reshape(count, *obs.shape[2:])
        else:
            self._write_tree(self.layout.obs, self.obs, rollout.obs, slot, end)
        if self.action_array is not None:
            action = data["action"]
            self.action_array[slot:end] = action.reshape(count, *action.shape[2:])
        else:
            self._write_tree(self.layout.action, self.action, rollout.action, slot, end)
        self.reward[slot:end] = data["reward"].reshape(count)
        if self.mask is not None:
            self._write_tree(self.layout.mask, self.mask, rollout.mask, slot, end)
        for name, column in self.extra.items():
            value = rollout[name]
            column[slot:end] = value.reshape(count, *value.shape[2:])

    @staticmethod
    def _write_tree(layout: Tree, store: Tree, tree: Tree, slot: int, end: int) -> None:
        def copy(leaf: Leaf, column: np.ndarray, value: np.ndarray) -> None:
            newest = leaf.frame(value, -1, 2)
            column[slot:end] = newest.reshape(end - slot, *newest.shape[2:])

        tree_map(copy, layout, store, tree)

    def write_wrapped(self, slot: int, rollout: Columns) -> None:
        """Write a fragment that crosses the end of the ring."""
        count = rollout.reward.size
        flat = rollout.only("obs", "action", "reward", "mask", *self.extra).map(
            lambda leaf: leaf.reshape(1, count, *leaf.shape[2:])
        )
        until = self.ring.rows - slot
        self.write(slot, until, flat[:, :until])
        self.write(0, count - until, flat[:, until:])

    def write_obs(self, slots: np.ndarray, obs: Tree, mask: Tree | None = None, frame: int = -1) -> None:
        """Write one frame of observations (N, ...), and masks if given, to slots (N,)."""
        _put(self.layout.obs, self.obs, slots, obs, frame)
        if self.mask is not None and mask is not None:
            _put(self.layout.mask, self.mask, slots, mask, -1)

    def append_obs_rows(self, count: int) -> np.ndarray:
        """Append rows without a transition; returns their slots (count,)."""
        slots = self.slots(self.reserve(count), count)
        self.flags[slots] = OBS_ONLY
        self.next_slot[slots] = slots
        if self.frame_stack > 1:
            self.prev_slot[slots] = slots
            self.broken[slots] = False
        if self.mask is not None:
            for leaf in tree_leaves(self.mask):
                leaf[slots] = True
        self.unsampled += count
        return slots


def _put(layout: Tree, store: Tree, slots: np.ndarray, tree: Tree, frame: int) -> None:
    def put(leaf: Leaf, column: np.ndarray, value: np.ndarray) -> None:
        column[slots] = leaf.frame(np.asarray(value), frame, 1)

    tree_map(put, layout, store, tree)
