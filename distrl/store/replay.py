"""The replay: transitions of many environments, each observation stored once.

Fragments are appended to one ring of rows. A row is a step: its observation, action, reward and flags. What follows a
row is a link: to the next step of its environment, to a *ghost* row (the true final observation of a truncated step),
or to the *pending* row of its environment, which lies behind the ring and holds what the environment showed last. So
the next observation is exact everywhere, fragment edges and truncations included, and n-step sums walk links.

A ghost takes the place of one transition, so memory is fixed by the capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gymnasium import Space

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import ConfigError, ResourceError
from distrl.store import replay_layout as rows_of
from distrl.store.replay_layout import FIRST, GHOST, TERMINATED, TRUNCATED, Column, Leaf
from distrl.store.replay_priorities import PrioritySettings
from distrl.store.replay_sample import sequences_at, transitions_at
from distrl.store.segments import SegmentRing


@dataclass
class _Stream:
    """Where a stream's environments stand.

    Attributes:
        width: Environments.
        pending: Slots (B,) of their pending rows.
        last: Row number of their newest step; environment b's is `last + b`. -1 before the first.
        ended: The newest step ended an episode: (B,) bool, as bytes.
        sequence: Number of the next fragment, where the caller counts them.
        oldest: Row numbers of the newest steps that a stack of frames reaches back to.
    """

    width: int
    pending: np.ndarray
    last: int = -1
    ended: bytes = b""
    sequence: int | None = None
    history: list[int] = field(default_factory=list)


class Replay:
    """A replay buffer.

    Args:
        observation_space: As the policy's environment shows it: stacked where frames are stacked.
        action_space: Of one environment.
        capacity: Rows that stay: transitions and ghosts.
        lines: Environments that may insert: all of the run, over all streams.
        n_step: n of the n-step sums.
        prioritized: How priorities become probabilities; None samples uniformly.
        frame_stack: `env.frame_stack`; only the newest frame of each observation is stored.
        extra_columns: Further rollout columns to keep, e.g. `("logp",)` or `(Column("params", (6,)),)`.
        folder: Where segment files live, for `memory_map`.
        memory_map: Keep segments in files instead of memory.
        masked: Keep action masks.

    Raises:
        ConfigError: Numbers that cannot be.
        ResourceError: It does not fit into memory (or onto the disk).
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        capacity: int,
        lines: int,
        n_step: int = 1,
        prioritized: PrioritySettings | None = None,
        frame_stack: int = 1,
        extra_columns: Sequence[Column | str] = (),
        folder: str | Path | None = None,
        memory_map: bool = False,
        masked: bool = False,
    ):
        for name, value in (("capacity", capacity), ("lines", lines), ("n_step", n_step), ("frame_stack", frame_stack)):
            if value < 1:
                raise ConfigError(f"replay: {name} is {value}, expected 1 or more.", f"Set {name} to 1 or more.")
        self.layout = rows_of.make_layout(observation_space, action_space, frame_stack, extra_columns, masked)
        self.capacity, self.lines, self.n_step, self.frame_stack = capacity, lines, n_step, frame_stack
        self.settings = prioritized
        self.nbytes = self._require_room()
        self.ring = SegmentRing(self.layout.leaves(), capacity, rows_of.segment_rows_for(self.layout, capacity), lines)
        self.next_slot = np.zeros(self.ring.rows + lines, np.int64)
        stacked = self.ring.rows + lines if frame_stack > 1 else 0
        self.prev_slot = np.zeros(stacked, np.int64)
        self.broken = np.zeros(stacked, bool)  # steps whose older frames have been evicted
        self.tail = self.head = 0  # rows tail..head are resident
        self.ghosts = 0  # resident rows that cannot be sampled
        self.inserted = self.evicted = 0  # transitions, over the whole life
        self._streams: dict[int, _Stream] = {}
        self._lines_used = 0
        self._bind()

    def _require_room(self) -> int:
        each = self.layout.segment_bytes + rows_of.index_bytes(self.frame_stack, self.settings is not None)
        spare = rows_of.segment_rows_for(self.layout, self.capacity) * 2 + self.lines
        needed = each * (self.capacity + spare)
        rows_of.require_memory(needed, psutil.virtual_memory().available, self.capacity, each)
        return needed

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
        reward, first = rollout.reward, rollout.first
        steps, width = reward.shape
        count = steps * width
        place = self._streams.get(stream)
        if place is None or place.width != width:
            place = self._open_stream(stream, width)
        demand = count + len(rollout.final_index) + (self.frame_stack + 1) * width
        if demand > self.capacity:  # nothing that one call appends may push out something else of the same call
            raise self._too_small(demand)
        starts = first.tobytes() if steps == 1 else first[0].tobytes()
        if starts != place.ended or sequence != place.sequence or place.last < self.tail or self.frame_stack > 1:
            self._join(place, rollout, sequence, self.head + demand - self.capacity)
        start = self._reserve(count)
        slot = start % self.ring.rows
        if slot + count > self.ring.rows:
            self._write_wrapped(slot, rollout)
        else:
            self._write(slot, count, rollout)
        self._link(place, start, slot, steps, rollout)
        self.inserted += count
        terminated, truncated = rollout.terminated, rollout.truncated
        valid = rollout.get("valid")
        if valid is not None or 1 in first.tobytes() or 1 in terminated.tobytes() or 1 in truncated.tobytes():
            self._flag(start, rollout)
            place.ended = (terminated[-1] | truncated[-1]).tobytes()
        else:
            place.ended = bytes(width)
        if len(rollout.final_index):
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

    def _open_stream(self, stream: int, width: int) -> _Stream:
        if stream in self._streams:
            raise ConfigError(
                f"replay: stream {stream} had {self._streams[stream].width} environments, now {width}.",
                "A stream's number of environments cannot change.",
            )
        if self._lines_used + width > self.lines:
            raise ConfigError(
                f"replay: stream {stream} brings {width} environments; {self._lines_used} of {self.lines} are here.",
                "Make the replay with lines = environments of all streams.",
            )
        begin = self.ring.rows + self._lines_used
        self._lines_used += width
        self._streams[stream] = place = _Stream(width, np.arange(begin, begin + width), ended=bytes([1]) * width)
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

    def _slots(self, start: int, count: int) -> np.ndarray:
        """Slots (count,) of rows start, start + 1, ..."""
        return np.arange(start, start + count) % self.ring.rows

    def _evict(self, tail: int) -> None:
        """Forget rows below `tail`."""
        gone = tail - self.tail
        ghosts = 0
        if self.ghosts or self.frame_stack > 1:
            slots = self._slots(self.tail, gone)
            ghosts = int(np.count_nonzero(self._unsampleable(slots)))
            if self.frame_stack > 1:
                self._break_stacks(slots, tail)
        self.tail = tail
        self.ghosts -= ghosts
        self.evicted += gone - ghosts

    def _unsampleable(self, slots: np.ndarray) -> np.ndarray:
        ghost = (self.flags[slots] & GHOST) != 0
        return ghost | self.broken[slots] if self.frame_stack > 1 else ghost

    def _break_stacks(self, slots: np.ndarray, tail: int) -> None:
        """Rows whose stack reaches into evicted slots cannot be sampled any more: they count as evicted."""
        current = slots
        for _ in range(self.frame_stack - 1):
            current = self.next_slot[current]
            current = current[(current < self.ring.rows) & ((self.flags[current] & FIRST) == 0)]
            lost = current[~self._unsampleable(current) & ~np.isin(current, slots)]
            self.broken[lost] = True
            self.ghosts += len(lost)
            self.evicted += len(lost)

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, rng: np.random.Generator, gamma: float) -> Columns:
        """Draw transitions with replacement.

        Args:
            batch_size: N.
            rng: Where the draws come from; the same replay and generator give the same batch.
            gamma: Discount of the n-step sums.

        Returns:
            obs tree (N, ...), action, reward (N,) float32: n-step sums, discount (N,) float32: gamma^k (1 - terminated)
            with k steps summed, next_obs tree (N, ...), weight (N,) float32, index (N,) and generation (N,) int64, and
            the extra columns. `next_obs` is the true final observation where an episode was truncated; where it
            terminated (discount 0) it is some observation.

        Raises:
            ResourceError: There is nothing to sample.
        """
        generation, slots = np.divmod(self.draw(batch_size, rng), self.ring.rows)
        return Columns(
            **transitions_at(self, slots, gamma),
            weight=np.ones(batch_size, np.float32),
            index=slots,
            generation=generation,
        )

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Row numbers (count,) of transitions, uniformly."""
        if self.transitions == 0:
            raise ResourceError("replay: there is no transition to sample yet.", "Raise learning_starts above 0.")
        rows = rng.integers(self.tail, self.head, count)
        if self.ghosts:
            bad = np.flatnonzero(self._unsampleable(rows % self.ring.rows))
            while len(bad):
                rows[bad] = rng.integers(self.tail, self.head, len(bad))
                bad = bad[self._unsampleable(rows[bad] % self.ring.rows)]
        return rows

    def sample_sequences(self, batch_size: int, steps: int, rng: np.random.Generator) -> Columns:
        """Draw sequences of up to `steps` steps of one episode; each begins at a transition drawn like in `sample`.

        Returns:
            Columns (T, N, ...) as `replay_sample.sequences_at` says, with weight, index and generation (N,) of the
            first steps.
        """
        generation, slots = np.divmod(self.draw(batch_size, rng), self.ring.rows)
        return sequences_at(self, slots, steps).with_(
            weight=np.ones(batch_size, np.float32), index=slots, generation=generation
        )

    # ---- writing -----------------------------------------------------------------------------------------------------

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

    def _link(self, place: _Stream, start: int, slot: int, steps: int, rollout: Columns) -> None:
        """Tell what follows and what precedes the rows of a fragment, and keep what its environments showed last."""
        width, rows, pending = place.width, self.ring.rows, place.pending
        count = steps * width
        links = self.next_slot
        last = place.last
        if last >= self.tail:
            before = last % rows
            if before + width <= rows and slot + width <= rows and 1 not in place.ended:
                links[before : before + width] = np.arange(slot, slot + width)
            else:
                old = self._slots(last, width)
                waiting = links[old] == pending  # a truncated step has its ghost already
                links[old[waiting]] = self._slots(start, width)[waiting]
        newest = slot + count - width
        if newest + width <= rows and slot + count <= rows:
            if steps > 1:
                links[slot:newest] = np.arange(slot + width, slot + count)
            links[newest : newest + width] = pending
        else:
            slots = self._slots(start, count)
            links[slots[: count - width]] = slots[width:]
            links[slots[count - width :]] = pending
        if self.frame_stack > 1:
            self._link_back(place, start, count, rollout.first)
        place.last = start + count - width
        first_pending = pending[0]
        if self.obs_array is not None:
            self.obs_array[first_pending : first_pending + width] = rollout.last_obs
        else:
            self._put(self.layout.obs, self.obs, pending, rollout.last_obs)
        if self.mask is not None and "last_mask" in rollout:
            self._put(self.layout.mask, self.mask, pending, rollout.last_mask)

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
            burnt = valid.size - int(np.count_nonzero(valid))
            self.ghosts += burnt
            self.inserted -= burnt
        self.flags[self._slots(start, flags.size)] = flags.reshape(-1)

    def _append_ghosts(self, count: int) -> np.ndarray:
        """Slots (count,) of new rows that are no transitions."""
        slots = self._slots(self._reserve(count), count)
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

    def _join(self, place: _Stream, rollout: Columns, sequence: int | None, tail: int) -> None:
        """Look at how a fragment continues its stream; where steps are missing, close what was open.

        Args:
            tail: Rows below it may be evicted before the fragment is in.
        """
        first = rollout.first[0]
        ended = np.frombuffer(place.ended, bool)
        valid = rollout.get("valid")
        gap = first != ended
        if valid is not None:
            gap &= valid[0]  # a burnt step begins nothing
        if place.last >= self.tail:
            newest = self.flags[self._slots(place.last, place.width)]
            gap &= ~(first & ((newest & GHOST) != 0))  # after a burnt step an episode begins
        lost = sequence is not None and place.sequence is not None and sequence != place.sequence
        if lost or (self.frame_stack > 1 and (not place.history or place.history[0] < tail)):
            gap |= ~first | ~ended
        if not gap.any():
            return
        if self.frame_stack > 1:  # `history` is one list for all environments of the stream
            gap |= ~first | ~ended
        self._close(place, gap & ~ended)
        place.ended = (ended | gap).tobytes()
        if self.frame_stack > 1:
            self._add_history(place, np.flatnonzero(gap & ~first), rollout)

    def _close(self, place: _Stream, which: np.ndarray) -> None:
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

    def _add_history(self, place: _Stream, which: np.ndarray, rollout: Columns) -> None:
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

    def _link_back(self, place: _Stream, start: int, count: int, first: np.ndarray) -> None:
        """Tell which row precedes each row of a fragment; an episode's first row precedes itself."""
        slots = self._slots(start, count)
        previous = np.concatenate([self.prev_slot[place.pending], slots[: count - place.width]])
        begins = first.reshape(-1)
        self.prev_slot[slots] = np.where(begins, slots, previous)
        self.broken[slots] = False
        opened = previous[: place.width]
        linked = ~begins[: place.width] & (self.next_slot[opened] == opened)  # the last ghost of an added history
        self.next_slot[opened[linked]] = slots[: place.width][linked]
        self.prev_slot[place.pending] = slots[count - place.width :]

    def _remember(self, place: _Stream, start: int, steps: int) -> None:
        """Keep where the rows begin that the next observations' stacks may reach back to."""
        rows = [start + t * place.width for t in range(max(0, steps - self.frame_stack + 1), steps)]
        place.history = [*place.history, *rows][-(self.frame_stack - 1) :]
