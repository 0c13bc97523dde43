"""How fragments get into a replay: rows, links between them, ghosts, eviction. See `store.replay`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.store.replay_layout import FIRST, GHOST, TERMINATED, TRUNCATED, Layout, Leaf
from distrl.store.segments import SegmentRing
from distrl.store.sum_tree import SumTree


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

    # ---- inserting ---------------------------------------------------------------------------------------------------

    def insert(self, rollout: Columns, stream: int, sequence: int | None = None) -> int:
        """Append a fragment (T, B), any T >= 1; the oldest rows make room.

        Args:
            rollout: Columns as docs/architecture.md says; observations raw.
            stream: Whose fragment. A stream's fragments are inserted in order.
            sequence: Its number within the stream. Where it is not the one after the last, steps were lost in between
                and are not bridged. Without it, a gap shows only at an unexpected `first`.

        Returns:
            The transitions inserted (burnt steps are none).

        Raises:
            ConfigError: More rows than the capacity, more environments than `lines`, a stream of another width, or
                observations that are no stack of frames.
        """
        data = rollout._data  # plain look-ups: fragments of one step come by the thousand per second
        first, terminated, truncated = data["first"], data["terminated"], data["truncated"]
        steps, width = first.shape
        valid = data.get("valid")
        place = self.streams.get(stream)
        if place is None or place.width != width:
            place = self._open_stream(stream, width)
        nothing = place.nothing
        if (
            steps == 1
            and place.ended is nothing
            and self.plain
            and valid is None
            and sequence == place.sequence
            and truncated.tobytes() == terminated.tobytes() == first.tobytes() == nothing
            and self._append_step(place, data, width)
        ):
            return width
        count, rows, finals = steps * width, self.ring.rows, len(data["final_index"])
        demand = count + finals + (self.frame_stack + 1) * width
        if demand > self.capacity:  # nothing that one call appends may push out something else of the same call
            raise self._too_small(demand)
        begins = first.tobytes()
        if (
            self.frame_stack > 1
            or sequence != place.sequence
            or place.last < self.tail
            or not begins.startswith(place.ended)
        ):
            self._join(place, rollout, sequence, self.head + demand - self.capacity)
        start = self._reserve(count)
        slot = start % rows
        if slot + count > rows:
            self._write_wrapped(slot, rollout)
        elif self.plain:
            self._write_plain(slot, steps, count, data)
        else:
            self._write(slot, count, rollout)
        self._link(place, start, slot, steps, data)
        self.inserted += count
        if self.tree is not None:
            self._set_mass(start, count, self.new_mass)
        if valid is not None or 1 in begins or 1 in terminated.tobytes() or 1 in truncated.tobytes():
            self._flag(start, rollout)
            place.ended = (terminated[-1] | truncated[-1]).tobytes()
        else:
            place.ended = place.nothing
        if finals:
            self._append_finals(start, rollout)
        if self.frame_stack > 1:
            self._remember(place, start, steps)
        if sequence is not None:
            place.sequence = sequence + 1
        return count if valid is None else int(np.count_nonzero(valid))

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

    # ---- writing -----------------------------------------------------------------------------------------------------

    def _append_step(self, place: StreamPlace, data: dict[str, Any], width: int) -> bool:
        """One step of environments that all go on: the common case, written out because it is short of time.

        Returns:
            False where something is special after all, and nothing was done.
        """
        start, last, rows = self.head, place.last, self.ring.rows
        head, slot, before = start + width, start % rows, last % rows
        end, tail = slot + width, head - self.capacity
        if end > rows or before + width > rows or head > self.ring.ready or last < tail or last < self.tail:
            return False
        if tail > self.tail:
            self._evict(tail)
        self.obs[slot:end] = data["obs"]
        self.action[slot:end] = data["action"]
        self.reward[slot:end] = data["reward"]
        place.showing[...] = data["last_obs"]
        links = self.next_slot
        links[before : before + width] = self.numbers[slot:end]
        links[slot:end] = place.pending
        if self.tree is not None:
            self.tree.set_range(slot, end, self.new_mass)
        self.head, place.last = head, start
        self.inserted += width
        if place.sequence is not None:
            place.sequence += 1
        return True

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

    def _link(self, place: StreamPlace, start: int, slot: int, steps: int, data: dict[str, Any]) -> None:
        """Tell what follows and what precedes the rows of a fragment, and keep what its environments showed last."""
        width, rows, pending, last, links = place.width, self.ring.rows, place.pending, place.last, self.next_slot
        count = steps * width
        newest, end = slot + count - width, slot + count
        before = last % rows
        whole = end <= rows and before + width <= rows
        if last >= self.tail:
            if whole and 1 not in place.ended:
                links[before : before + width] = self.numbers[slot : slot + width]
            else:
                old = self.slots(last, width)
                waiting = links[old] == pending  # a truncated step has its ghost already
                links[old[waiting]] = self.slots(start, width)[waiting]
        if whole:
            if steps > 1:
                links[slot:newest] = self.numbers[slot + width : end]
            links[newest:end] = pending
        else:
            slots = self.slots(start, count)
            links[slots[: count - width]] = slots[width:]
            links[slots[count - width :]] = pending
        if self.frame_stack > 1:
            self._link_back(place, start, count, data["first"])
        place.last = start + count - width
        if self.plain:
            place.showing[...] = data["last_obs"]
        else:
            self._put(self.layout.obs, self.obs, pending, data["last_obs"])
        if self.mask is not None and "last_mask" in data:
            self._put(self.layout.mask, self.mask, pending, data["last_mask"])

    @staticmethod
    def _put(layout: Any, store: Any, slots: np.ndarray, tree: Any, frame: int = -1) -> None:
        """Write rows (N, ...) of a tree, one frame of each, to slots (N,)."""
        tree_map(
            lambda leaf, column, value: column.__setitem__(slots, leaf.frame(np.asarray(value), frame, 1)),
            layout,
            store,
            tree,
        )

    def _flag(self, start: int, rollout: Columns) -> None:
        """Write the flags of a fragment; burnt steps are ghosts."""
        flags = rollout.terminated * np.uint8(TERMINATED)
        flags |= rollout.truncated * np.uint8(TRUNCATED)
        flags |= rollout.first * np.uint8(FIRST)
        valid = rollout.get("valid")
        if valid is not None:
            flags |= ~valid * np.uint8(GHOST)
            burnt = np.flatnonzero(~valid)
            self.ghosts += len(burnt)
            self.inserted -= len(burnt)
            if self.tree is not None:
                self.tree.set((start + burnt) % self.ring.rows, np.zeros(len(burnt)))
        self.flags[self.slots(start, flags.size)] = flags.reshape(-1)

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

    def _append_finals(self, start: int, rollout: Columns) -> None:
        """True final observations of truncated steps, each a ghost behind its step."""
        index = rollout.final_index
        ghosts = self._append_ghosts(len(index))
        steps = (start + index[:, 0] * rollout.reward.shape[1] + index[:, 1]) % self.ring.rows
        self._put(self.layout.obs, self.obs, ghosts, rollout.final_obs)
        if self.mask is not None and "final_mask" in rollout:
            self._put(self.layout.mask, self.mask, ghosts, rollout.final_mask)
        self.next_slot[steps] = ghosts
        if self.frame_stack > 1:
            self.prev_slot[ghosts] = steps

    # ---- where a fragment does not simply go on ----------------------------------------------------------------------

    def _join(self, place: StreamPlace, rollout: Columns, sequence: int | None, tail: int) -> None:
        """Look at how a fragment continues its stream; where steps are missing, close what was open.

        Args:
            tail: Rows below it may be evicted before the fragment is in.
        """
        first = rollout.first[0]
        if self.frame_stack > 1 and not self.stacks_seen:
            self._check_stacks(first, rollout)
        ended = np.frombuffer(place.ended, bool)
        valid = rollout.get("valid")
        gap = first != ended
        if valid is not None:
            gap &= valid[0]  # a burnt step begins nothing
        if place.last >= self.tail:
            newest = self.flags[self.slots(place.last, place.width)]
            gap &= ~(first & ((newest & GHOST) != 0))  # after a burnt step an episode begins
        if sequence is not None and place.sequence is not None and sequence != place.sequence:
            gap |= ~first | ~ended
        if gap.any():
            self._close(place, gap & ~ended)
            place.ended = (ended | gap).tobytes()
        if self.frame_stack > 1 and (gap.any() or not place.history or place.history[0] < tail):
            self._add_history(place, np.flatnonzero(~first), rollout)  # `history` is one list for the whole stream

    def _close(self, place: StreamPlace, which: np.ndarray) -> None:
        """The newest steps of these environments (B,) have no successor: keep what they led to as ghosts."""
        if place.last < self.tail or not which.any():
            return
        chosen = np.flatnonzero(which)
        ghosts = self._append_ghosts(len(chosen))
        steps = (place.last + chosen) % self.ring.rows
        for leaf in [*tree_leaves(self.obs), *(tree_leaves(self.mask) if self.mask is not None else [])]:
            leaf[ghosts] = leaf[place.pending[chosen]]
        self.next_slot[steps] = ghosts
        if self.frame_stack > 1:
            self.prev_slot[ghosts] = steps

    # ---- stacked frames ----------------------------------------------------------------------------------------------

    def _add_history(self, place: StreamPlace, which: np.ndarray, rollout: Columns) -> None:
        """Older frames of observations whose previous steps are not here, as ghosts that precede them."""
        if not len(which):
            return
        place.history = []
        shown = tree_map(lambda leaf: leaf[0][which], rollout.obs)
        older: Any = None
        for frame in range(self.frame_stack - 1):
            place.history.append(self.head)
            ghosts = self._append_ghosts(len(which))
            self._put(self.layout.obs, self.obs, ghosts, shown, frame)
            if older is not None:
                self.next_slot[older] = ghosts
                self.prev_slot[ghosts] = older
            older = ghosts
        self.prev_slot[place.pending[which]] = older  # `_link_back` takes it from here

    def _check_stacks(self, first: np.ndarray, rollout: Columns) -> None:
        """Once: an episode's first stack is one frame repeated, if we know rightly where frames are joined."""
        if not first.any():
            return

        def check(leaf: Leaf, value: np.ndarray) -> None:
            shown = value[0][first]
            newest = leaf.frame(shown, -1, 1)
            if any(not np.array_equal(leaf.frame(shown, k, 1), newest, equal_nan=True) for k in range(leaf.frames)):
                raise ConfigError(
                    f"replay: {leaf.name} begins an episode with a stack that is not {leaf.frames} times one frame of "
                    f"shape {leaf.shape}.",
                    "Stack frames with env.frame_stack, or set it to 1 and stack them yourself.",
                )

        tree_map(check, self.layout.obs, rollout.obs)
        self.stacks_seen = True

    def _link_back(self, place: StreamPlace, start: int, count: int, first: np.ndarray) -> None:
        """Tell which row precedes each row of a fragment; an episode's first row precedes itself."""
        slots = self.slots(start, count)
        previous = np.concatenate([self.prev_slot[place.pending], slots[: count - place.width]])
        begins = first.reshape(-1)
        self.prev_slot[slots] = np.where(begins, slots, previous)
        self.broken[slots] = False
        opened = previous[: place.width]
        linked = ~begins[: place.width] & (self.next_slot[opened] == opened)  # the last ghost of an added history
        self.next_slot[opened[linked]] = slots[: place.width][linked]
        self.prev_slot[place.pending] = slots[count - place.width :]

    def _remember(self, place: StreamPlace, start: int, steps: int) -> None:
        """Keep where the rows begin that the next observations' stacks may reach back to."""
        rows = [start + t * place.width for t in range(max(0, steps - self.frame_stack + 1), steps)]
        place.history = [*place.history, *rows][-(self.frame_stack - 1) :]
