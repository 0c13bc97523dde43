"""What one replay row holds: leaves of spaces as columns, single frames of stacked observations, bytes in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from distrl.base.columns import tree_leaves, tree_map
from distrl.base.errors import ConfigError, ResourceError

#: Bits of the `flags` column. A ghost is a row that is no transition: a final observation, a burnt step, or a frame
#: that an older stack needs. It is never sampled.
GHOST, TERMINATED, TRUNCATED, FIRST = 1, 2, 4, 8


@dataclass(frozen=True)
class Leaf:
    """One array of a row.

    Attributes:
        name: Column name: the tree's name, then its keys, joined by dots.
        shape: Of one stored element (one frame where frames are stacked).
        dtype: As stored. Floats of observations are float32: policies never see more.
        frames: How many frames the environment shows at once.
        axis: Where frames are joined: None for a new first axis, else the axis of the single frame.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    frames: int = 1
    axis: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def frame(self, array: np.ndarray, k: int, lead: int) -> np.ndarray:
        """Frame k (0 the oldest, -1 the newest) of stacked observations (lead dimensions, ...), as a view."""
        if self.frames == 1:
            return array
        k %= self.frames
        before: tuple[Any, ...] = (slice(None),) * lead
        if self.axis is None:
            return array[(*before, k)]
        size = self.shape[self.axis]
        return array[(*before, *(slice(None),) * self.axis, slice(k * size, (k + 1) * size))]

    def join(self, frames: np.ndarray) -> np.ndarray:
        """Stacks (N, ...) as the environment shows them, from their frames (N, F, ...)."""
        if self.axis is None:
            return frames
        moved = np.moveaxis(frames, 1, 1 + self.axis)  # the frames' axis right before the axis they are joined along
        shape = list(self.shape)
        shape[self.axis] *= self.frames
        return moved.reshape(len(frames), *shape)


@dataclass(frozen=True)
class Column:
    """A column beside those that every replay has, e.g. `Column("logp")`, `Column("params", (6,))`.

    It is filled from the rollout column of the same name, (T, B, *shape).
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Layout:
    """Trees of leaves: everything that a replay's row holds in its segment.

    Attributes:
        obs, action: Trees of `Leaf`.
        mask: Tree of `Leaf`, or None where actions are not masked.
        extra: Columns by name.
        frame_stack: Frames per observation.
    """

    obs: Any
    action: Any
    mask: Any
    extra: dict[str, Leaf]
    frame_stack: int

    def leaves(self) -> list[Leaf]:
        """All columns of a row, in the order of its segment file; `reward` and `flags` included."""
        mask = [] if self.mask is None else tree_leaves(self.mask)
        fixed = [Leaf("reward", (), np.dtype(np.float32)), Leaf("flags", (), np.dtype(np.uint8))]
        return [*tree_leaves(self.obs), *tree_leaves(self.action), *mask, *self.extra.values(), *fixed]

    @property
    def segment_bytes(self) -> int:
        """Bytes of one row in a segment."""
        return sum(leaf.nbytes for leaf in self.leaves())


def make_layout(
    observation_space: Space[Any],
    action_space: Space[Any],
    frame_stack: int = 1,
    extra_columns: Sequence[Column | str] = (),
    masked: bool = False,
) -> Layout:
    """The row for these spaces.

    Raises:
        ConfigError: A stack that the observation space cannot be, an extra column whose name is taken, or masks for
            actions that have none.
    """
    extra = {}
    for column in extra_columns:
        column = Column(column) if isinstance(column, str) else column
        if column.name in ("obs", "action", "reward", "flags", "mask") or "." in column.name or column.name in extra:
            raise ConfigError(f"replay: an extra column cannot be called {column.name!r}.", "Choose another name.")
        extra[column.name] = Leaf(column.name, tuple(column.shape), np.dtype(column.dtype))
    obs = _map_space("obs", observation_space, lambda name, space: _observation_leaf(name, space, frame_stack))
    action = _map_space("action", action_space, _plain_leaf)
    mask = _map_space("mask", action_space, _mask_leaf) if masked else None
    return Layout(obs, action, mask, extra, frame_stack)


def _map_space(name: str, space: Space[Any], leaf: Any) -> Any:
    if isinstance(space, Dict):
        return {key: _map_space(f"{name}.{key}", child, leaf) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_map_space(f"{name}.{i}", child, leaf) for i, child in enumerate(space.spaces))
    return leaf(name, space)


def _plain_leaf(name: str, space: Space[Any]) -> Leaf:
    if isinstance(space, Discrete):
        return Leaf(name, (), np.dtype(np.int64))
    dtype = np.dtype(space.dtype)
    return Leaf(name, tuple(space.shape or ()), np.dtype(np.float32) if dtype.kind == "f" else dtype)


def _mask_leaf(name: str, space: Space[Any]) -> Leaf:
    if isinstance(space, Discrete):
        return Leaf(name, (int(space.n),), np.dtype(bool))
    if isinstance(space, MultiDiscrete):
        return Leaf(name, (int(space.nvec.sum()),), np.dtype(bool))
    raise ConfigError(f"replay: actions of {space} have no masks.", "Only Discrete and MultiDiscrete actions do.")


def _observation_leaf(name: str, space: Space[Any], frames: int) -> Leaf:
    leaf = _plain_leaf(name, space)
    if frames == 1:
        return leaf
    if not isinstance(space, Box) or not leaf.shape:
        raise ConfigError(f"replay: {name} is {space}, not a stack of {frames} frames.", "Set env.frame_stack to 1.")
    axis = _joined_along(leaf.shape, frames)
    if axis is None:
        if leaf.shape[0] != frames:
            raise ConfigError(
                f"replay: {name} has shape {leaf.shape}, which is not a stack of {frames} frames.",
                "Give the stacked observation space and the env.frame_stack that made it.",
            )
        return Leaf(name, leaf.shape[1:], leaf.dtype, frames, None)
    shape = tuple(size // frames if i == axis else size for i, size in enumerate(leaf.shape))
    return Leaf(name, shape, leaf.dtype, frames, axis)


def _joined_along(shape: tuple[int, ...], frames: int) -> int | None:
    """Undo the frame stack wrapper's choice: last axis of color images, first of channel-first ones, else a new one."""
    if len(shape) != 3 or shape[0] == frames:
        return None
    if shape[2] % frames == 0 and shape[2] // frames in (1, 3, 4):
        return 2
    return 0


def bytes_per_transition(
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    frame_stack: int = 1,
    extra_columns: Sequence[Column | str] = (),
    masked: bool = False,
    prioritized: bool = False,
) -> int:
    """Bytes that one transition takes, its places in the index and in the priority tree included.

    >>> bytes_per_transition(Box(0, 255, (84, 84, 4), np.uint8), Discrete(6), frame_stack=4, prioritized=True)
    7111
    """
    layout = make_layout(observation_space, action_space, frame_stack, extra_columns, masked)
    return layout.segment_bytes + index_bytes(frame_stack, prioritized)


def index_bytes(frame_stack: int, prioritized: bool) -> int:
    """Bytes per row that stay in memory: links, numbers of slots (8 each); for priorities the mass and its sum."""
    return 16 + (9 if frame_stack > 1 else 0) + (17 if prioritized else 0)


def total_bytes(layout: Layout, capacity: int, segment_rows: int, lines: int, prioritized: bool) -> int:
    """Bytes of a whole replay: its capacity, one segment more, and the environments' pending rows."""
    rows = (-(-capacity // segment_rows) + 1) * segment_rows + lines
    return rows * (layout.segment_bytes + index_bytes(layout.frame_stack, prioritized))


def segment_rows_for(layout: Layout, capacity: int) -> int:
    """Rows of a segment: a 64th of the capacity, but at least a MiB, so that a checkpoint has neither few nor many."""
    return max(1, -(-capacity // 64), min(capacity, 2**20 // layout.segment_bytes))


def require_memory(needed: int, available: int, capacity: int, each: int, where: str = "memory") -> None:
    """Refuse a replay that cannot fit.

    Raises:
        ResourceError: With the numbers, and the capacity that would fit.
    """
    if needed > available:
        fits = max(0, int(0.9 * available) // each)
        raise ResourceError(
            f"replay: {capacity:,} transitions of {each:,} bytes need {needed / 2**30:.2f} GiB, and {where} has "
            f"{available / 2**30:.2f} GiB free.",
            f"Set the replay's capacity to {fits:,} or less, or memory-map it on a larger disk.",
        )


def read_tree(layout: Any, tree: Any, pick: Any) -> Any:
    """Apply `pick(leaf, array)` to a layout tree and a tree of arrays of the same shape."""
    return tree_map(pick, layout, tree)
