"""How fragments get into a replay: links between rows, ghosts, gaps, stacked frames. See `store.replay.buffer`."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.store.replay.layout import FIRST, GHOST, TERMINATED, TRUNCATED, Leaf
from distrl.store.replay.rows import ReplayRows, StreamPlace


class ReplayInserts(ReplayRows):
    """Rows that fragments can be appended to."""

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
