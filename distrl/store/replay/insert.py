"""Insertion of fragments: successors, final observations, gaps, stacked frames."""

from __future__ import annotations

import numpy as np

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.store.replay.layout import FIRST, OBS_ONLY, TERMINATED, TRUNCATED, Leaf
from distrl.store.replay.rows import ReplayRows, StreamState


def insert_fragment(replay: ReplayRows, rollout: Columns, stream: int, sequence: int | None = None) -> int:
    """Append a fragment (T, B); see `Replay.insert`."""
    data = rollout._data  # plain look-ups: fragments of one step come by the thousand per second
    first, terminated, truncated = data["first"], data["terminated"], data["truncated"]
    steps, width = first.shape
    valid = data.get("valid")
    state = replay.streams.get(stream)
    if state is None or state.width != width:
        state = replay.open_stream(stream, width)
    nothing = state.nothing
    if (
        steps == 1
        and state.ended is nothing
        and replay.plain
        and valid is None
        and sequence == state.sequence
        and truncated.tobytes() == terminated.tobytes() == first.tobytes() == nothing
        and _append_step(replay, state, data, width)
    ):
        return width
    count, rows, finals = steps * width, replay.ring.rows, len(data["final_index"])
    demand = count + finals + (replay.frame_stack + 1) * width
    if demand > replay.capacity:  # rows of one call must not evict each other
        raise ConfigError(
            f"replay: a fragment needs up to {demand} rows at once, and the capacity is {replay.capacity}.",
            "Raise the replay's capacity, or shorten rollout_steps.",
        )
    begins = first.tobytes()
    gap = sequence != state.sequence or state.last < replay.tail or not begins.startswith(state.ended)
    if gap or replay.frame_stack > 1:
        _join_stream(replay, state, rollout, sequence, replay.head + demand - replay.capacity)
    start = replay.reserve(count)
    slot = start % rows
    if slot + count > rows:
        replay.write_wrapped(slot, rollout)
    else:
        replay.write(slot, count, rollout)
    _set_successors(replay, state, start, slot, steps, data)
    replay.inserted += count
    if replay.tree is not None:
        replay.set_mass(start, count, replay.new_mass)
    if valid is not None or 1 in begins or 1 in terminated.tobytes() or 1 in truncated.tobytes():
        _write_flags(replay, start, rollout)
        state.ended = (terminated[-1] | truncated[-1]).tobytes()
    else:
        state.ended = state.nothing
    if finals:
        _append_finals(replay, start, rollout)
    if replay.frame_stack > 1:
        _extend_history(replay, state, start, steps)
    if sequence is not None:
        state.sequence = sequence + 1
    return count if valid is None else int(np.count_nonzero(valid))


def _append_step(replay: ReplayRows, state: StreamState, data: dict[str, np.ndarray], width: int) -> bool:
    """Append one step in mid-episode, the common case; False, unchanged, in other cases."""
    start, last, rows = replay.head, state.last, replay.ring.rows
    head, slot, before = start + width, start % rows, last % rows
    end, tail = slot + width, head - replay.capacity
    if end > rows or before + width > rows or head > replay.ring.ready or last < tail or last < replay.tail:
        return False
    if tail > replay.tail:
        replay.evict(tail)
    replay.obs[slot:end] = data["obs"]
    replay.action[slot:end] = data["action"]
    replay.reward[slot:end] = data["reward"]
    state.last_obs[...] = data["last_obs"]  # type: ignore[index]
    next_slot = replay.next_slot
    next_slot[before : before + width] = replay.numbers[slot:end]
    next_slot[slot:end] = state.last_obs_rows
    if replay.tree is not None:
        replay.tree.set_range(slot, end, replay.new_mass)
    replay.head, state.last = head, start
    replay.inserted += width
    if state.sequence is not None:
        state.sequence += 1
    return True


def _set_successors(
    replay: ReplayRows, state: StreamState, start: int, slot: int, steps: int, data: dict[str, np.ndarray]
) -> None:
    """Set successors and predecessors of a fragment's rows, and store the newest observations."""
    width, rows, last_obs_rows, last = state.width, replay.ring.rows, state.last_obs_rows, state.last
    next_slot = replay.next_slot
    count = steps * width
    newest, end = slot + count - width, slot + count
    before = last % rows
    whole = end <= rows and before + width <= rows
    if last >= replay.tail:
        if whole and 1 not in state.ended:
            next_slot[before : before + width] = replay.numbers[slot : slot + width]
        else:
            old = replay.slots(last, width)
            waiting = next_slot[old] == last_obs_rows  # a truncated step has its final row already
            next_slot[old[waiting]] = replay.slots(start, width)[waiting]
    if whole:
        if steps > 1:
            next_slot[slot:newest] = replay.numbers[slot + width : end]
        next_slot[newest:end] = last_obs_rows
    else:
        slots = replay.slots(start, count)
        next_slot[slots[: count - width]] = slots[width:]
        next_slot[slots[count - width :]] = last_obs_rows
    if replay.frame_stack > 1:
        _set_predecessors(replay, state, start, count, data["first"])
    state.last = start + count - width
    if replay.plain:
        state.last_obs[...] = data["last_obs"]  # type: ignore[index]
    else:
        replay.write_obs(last_obs_rows, data["last_obs"], data.get("last_mask"))


def _write_flags(replay: ReplayRows, start: int, rollout: Columns) -> None:
    """Write the flags of a fragment; reset steps hold no transition."""
    flags = rollout.terminated * np.uint8(TERMINATED)
    flags |= rollout.truncated * np.uint8(TRUNCATED)
    flags |= rollout.first * np.uint8(FIRST)
    valid = rollout.get("valid")
    if valid is not None:
        flags |= ~valid * np.uint8(OBS_ONLY)
        reset_steps = np.flatnonzero(~valid)
        replay.unsampled += len(reset_steps)
        replay.inserted -= len(reset_steps)
        if replay.tree is not None:
            replay.tree.set((start + reset_steps) % replay.ring.rows, np.zeros(len(reset_steps)))
    replay.flags[replay.slots(start, flags.size)] = flags.reshape(-1)


def _append_finals(replay: ReplayRows, start: int, rollout: Columns) -> None:
    """Append the final observations of truncated steps as rows without a transition."""
    index = rollout.final_index
    final_rows = replay.append_obs_rows(len(index))
    steps = (start + index[:, 0] * rollout.reward.shape[1] + index[:, 1]) % replay.ring.rows
    replay.write_obs(final_rows, rollout.final_obs, rollout.get("final_mask"))
    replay.next_slot[steps] = final_rows
    if replay.frame_stack > 1:
        replay.prev_slot[final_rows] = steps


def _join_stream(replay: ReplayRows, state: StreamState, rollout: Columns, sequence: int | None, tail: int) -> None:
    """Connect a fragment to its stream; where steps are missing, close the open episodes.

    Rows below `tail` may be evicted before the fragment is in.
    """
    first = rollout.first[0]
    if replay.frame_stack > 1 and not replay.stacks_checked:
        _check_stacks(replay, first, rollout)
    ended = np.frombuffer(state.ended, bool)
    valid = rollout.get("valid")
    gap = first != ended
    if valid is not None:
        gap &= valid[0]  # a reset step begins no episode
    if state.last >= replay.tail:
        newest = replay.flags[replay.slots(state.last, state.width)]
        gap &= ~(first & ((newest & OBS_ONLY) != 0))  # after a reset step an episode begins
    if sequence is not None and state.sequence is not None and sequence != state.sequence:
        gap |= ~first | ~ended
    if gap.any():
        _close(replay, state, gap & ~ended)
        state.ended = (ended | gap).tobytes()
    if replay.frame_stack > 1 and (gap.any() or not state.history or state.history[0] < tail):
        _add_history(replay, state, np.flatnonzero(~first), rollout)  # `history` is one list for the whole stream


def _close(replay: ReplayRows, state: StreamState, which: np.ndarray) -> None:
    """Append final rows for the environments (B,) whose newest step has no successor."""
    if state.last < replay.tail or not which.any():
        return
    chosen = np.flatnonzero(which)
    final_rows = replay.append_obs_rows(len(chosen))
    steps = (state.last + chosen) % replay.ring.rows
    for leaf in [*tree_leaves(replay.obs), *(tree_leaves(replay.mask) if replay.mask is not None else [])]:
        leaf[final_rows] = leaf[state.last_obs_rows[chosen]]
    replay.next_slot[steps] = final_rows
    if replay.frame_stack > 1:
        replay.prev_slot[final_rows] = steps


def _add_history(replay: ReplayRows, state: StreamState, which: np.ndarray, rollout: Columns) -> None:
    """Append the older frames of observations whose previous steps are not resident."""
    if not len(which):
        return
    state.history = []
    stacks = tree_map(lambda leaf: leaf[0][which], rollout.obs)
    older = np.empty(0, np.int64)
    for frame in range(replay.frame_stack - 1):
        state.history.append(replay.head)
        frame_rows = replay.append_obs_rows(len(which))
        replay.write_obs(frame_rows, stacks, frame=frame)
        if len(older):
            replay.next_slot[older] = frame_rows
            replay.prev_slot[frame_rows] = older
        older = frame_rows
    replay.prev_slot[state.last_obs_rows[which]] = older  # read by `_set_predecessors`


def _check_stacks(replay: ReplayRows, first: np.ndarray, rollout: Columns) -> None:
    """Check once that an episode's first stack repeats one frame."""
    if not first.any():
        return

    def check(leaf: Leaf, value: np.ndarray) -> None:
        stack = value[0][first]
        newest = leaf.frame(stack, -1, 1)
        if any(not np.array_equal(leaf.frame(stack, k, 1), newest, equal_nan=True) for k in range(leaf.frames)):
            raise ConfigError(
                f"replay: {leaf.name} begins an episode with a stack that is not {leaf.frames} times one frame of "
                f"shape {leaf.shape}.",
                "Stack frames with env.frame_stack, or set it to 1 and stack them yourself.",
            )

    tree_map(check, replay.layout.obs, rollout.obs)
    replay.stacks_checked = True


def _set_predecessors(replay: ReplayRows, state: StreamState, start: int, count: int, first: np.ndarray) -> None:
    """Set the predecessor of each row of a fragment; an episode's first row precedes itself."""
    slots = replay.slots(start, count)
    previous = np.concatenate([replay.prev_slot[state.last_obs_rows], slots[: count - state.width]])
    begins = first.reshape(-1)
    replay.prev_slot[slots] = np.where(begins, slots, previous)
    replay.broken[slots] = False
    opened = previous[: state.width]
    # the last frame row of an added history is its own successor until here
    linked = ~begins[: state.width] & (replay.next_slot[opened] == opened)
    replay.next_slot[opened[linked]] = slots[: state.width][linked]
    replay.prev_slot[state.last_obs_rows] = slots[count - state.width :]


def _extend_history(replay: ReplayRows, state: StreamState, start: int, steps: int) -> None:
    """Record where the rows begin that the stacks of the next observations reach back to."""
    rows = [start + t * state.width for t in range(max(0, steps - replay.frame_stack + 1), steps)]
    state.history = [*state.history, *rows][-(replay.frame_stack - 1) :]
