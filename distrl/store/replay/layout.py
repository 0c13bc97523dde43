"""Layout of a replay row: columns of the spaces' leaves, single frames of stacks, sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from distrl.base.columns import Tree, tree_leaves
from distrl.base.errors import ConfigError, ResourceError

#: Bits of the `flags` column. A row with OBS_ONLY holds no transition and is never sampled: a final observation, a
#: reset step, or an older frame of a stack.
OBS_ONLY, TERMINATED, TRUNCATED, FIRST = 1, 2, 4, 8


@dataclass(frozen=True)
class Leaf:
    """One array of a row.

    `name` is the tree's name and its keys, joined by dots; `shape` and `dtype` are as stored (one frame, floats as
    float32). `frames` are joined along `axis`; None is a new first axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    frames: int = 1
    axis: int | None = None

    @property
    def nbytes(self) -> int:
        """Size of one element in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def frame(self, array: np.ndarray, k: int, lead: int) -> np.ndarray:
        """Return frame k (0 oldest, -1 newest) of stacks with `lead` leading dimensions, as a view."""
        if self.frames == 1:
            return array
        k %= self.frames
        index: list[slice | int] = [slice(None)] * lead
        if self.axis is None:
            index.append(k)
        else:
            size = self.shape[self.axis]
            index += [slice(None)] * self.axis + [slice(k * size, (k + 1) * size)]
        return array[tuple(index)]

    def join(self, frames: np.ndarray) -> np.ndarray:
        """Join frames (N, F, ...) to stacks (N, ...)."""
        if self.axis is None:
            return frames
        moved = np.moveaxis(frames, 1, 1 + self.axis)  # the frames' axis right before the axis they are joined along
        shape = list(self.shape)
        shape[self.axis] *= self.frames
        return moved.reshape(len(frames), *shape)


@dataclass(frozen=True)
class Column:
    """Extra column, filled from the rollout column (T, B, *shape) of the same name."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Layout:
    """Columns of a replay row: trees of `Leaf`, and extra columns by name."""

    obs: Tree
    action: Tree
    mask: Tree | None
    extra: dict[str, Leaf]
    frame_stack: int

    def leaves(self) -> list[Leaf]:
        """List all columns, `reward` and `flags` included, in the order of the segment file."""
        mask = [] if self.mask is None else tree_leaves(self.mask)
        fixed = [Leaf("reward", (), np.dtype(np.float32)), Leaf("flags", (), np.dtype(np.uint8))]
        return [*tree_leaves(self.obs), *tree_leaves(self.action), *mask, *self.extra.values(), *fixed]

    @property
    def segment_bytes(self) -> int:
        """Size of one row in a segment, in bytes."""
        return sum(leaf.nbytes for leaf in self.leaves())


def make_layout(
    observation_space: Space,
    action_space: Space,
    frame_stack: int = 1,
    extra_columns: Sequence[Column | str] = (),
    masked: bool = False,
) -> Layout:
    """Make the row layout for these spaces."""
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


def _map_space(name: str, space: Space, leaf: Callable[[str, Space], Leaf]) -> Tree:
    if isinstance(space, Dict):
        return {key: _map_space(f"{name}.{key}", child, leaf) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_map_space(f"{name}.{i}", child, leaf) for i, child in enumerate(space.spaces))
    return leaf(name, space)


def _plain_leaf(name: str, space: Space) -> Leaf:
    if isinstance(space, Discrete):
        return Leaf(name, (), np.dtype(np.int64))
    dtype = np.dtype(space.dtype)
    return Leaf(name, tuple(space.shape or ()), np.dtype(np.float32) if dtype.kind == "f" else dtype)


def _mask_leaf(name: str, space: Space) -> Leaf:
    if isinstance(space, Discrete):
        return Leaf(name, (int(space.n),), np.dtype(bool))
    if isinstance(space, MultiDiscrete):
        return Leaf(name, (int(space.nvec.sum()),), np.dtype(bool))
    raise ConfigError(f"replay: actions of {space} have no masks.", "Only Discrete and MultiDiscrete actions do.")


def _observation_leaf(name: str, space: Space, frames: int) -> Leaf:
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
    """Find the frame stack wrapper's axis: 2 for color images, 0 for channels first, else new."""
    if len(shape) != 3 or shape[0] == frames:
        return None
    if shape[2] % frames == 0 and shape[2] // frames in (1, 3, 4):
        return 2
    return 0


def bytes_per_transition(
    observation_space: Space,
    action_space: Space,
    *,
    frame_stack: int = 1,
    extra_columns: Sequence[Column | str] = (),
    masked: bool = False,
    prioritized: bool = False,
) -> int:
    """Compute the bytes of one transition, index and priority tree included.

    >>> bytes_per_transition(Box(0, 255, (84, 84, 4), np.uint8), Discrete(6), frame_stack=4, prioritized=True)
    7111
    """
    layout = make_layout(observation_space, action_space, frame_stack, extra_columns, masked)
    return layout.segment_bytes + index_bytes(frame_stack, prioritized)


def index_bytes(frame_stack: int, prioritized: bool) -> int:
    """Compute the bytes per row outside segments: successor, slot number, mass and sums."""
    return 16 + (9 if frame_stack > 1 else 0) + (17 if prioritized else 0)


def total_bytes(layout: Layout, capacity: int, segment_rows: int, num_envs: int, prioritized: bool) -> int:
    """Compute the bytes of a replay: capacity, one more segment, and the newest observations."""
    rows = (-(-capacity // segment_rows) + 1) * segment_rows + num_envs
    return rows * (layout.segment_bytes + index_bytes(layout.frame_stack, prioritized))


def segment_rows_for(layout: Layout, capacity: int) -> int:
    """Choose the rows of a segment: a 64th of the capacity, but at least 1 MiB."""
    return max(1, -(-capacity // 64), min(capacity, 2**20 // layout.segment_bytes))


def require_memory(needed: int, available: int, capacity: int, each: int, where: str = "memory") -> None:
    """Raise ResourceError, with the capacity that would fit, where a replay does not."""
    if needed > available:
        fits = max(0, int(0.9 * available) // each)
        raise ResourceError(
            f"replay: {capacity:,} transitions of {each:,} bytes need {needed / 2**30:.2f} GiB, and {where} has "
            f"{available / 2**30:.2f} GiB free.",
            f"Set the replay's capacity to {fits:,} or less, or memory-map it on a larger disk.",
        )
