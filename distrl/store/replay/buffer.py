"""Replay of the transitions of many environments, each observation stored once.

Fragments are appended to a ring of rows (steps). The successor of a row is the next step of its environment, a *final
row* (the true final observation of a truncated step, in place of one transition), or the environment's newest
observation, stored behind the ring. So next observations and n-step sums are exact everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from gymnasium import Space

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, ResourceError
from distrl.store.replay.checkpoint import load_replay, save_replay
from distrl.store.replay.insert import insert_fragment
from distrl.store.replay.layout import (
    Column,
    Layout,
    index_bytes,
    make_layout,
    require_memory,
    segment_rows_for,
    total_bytes,
)
from distrl.store.replay.priorities import PrioritySettings, checked_priorities, importance_weights
from distrl.store.replay.rows import ReplayRows
from distrl.store.replay.sample import sequences_at, transitions_at
from distrl.store.replay.segments import SegmentRing, mapped_rows


class Replay:
    """Replay buffer with uniform or prioritized sampling.

    Args:
        observation_space: As policies receive it: stacked where frames are stacked.
        capacity: Resident rows: transitions and final rows.
        num_envs: Environments of the run, over all streams.
        prioritized: Priority settings; None samples uniformly.
        frame_stack: `env.frame_stack`; only the newest frame of each observation is stored.
        extra_columns: Further columns, e.g. `("logp",)` or `(Column("params", (6,)),)`.
        memory_map: Store segments as files in `folder` instead of memory.
        masked: Store action masks.
        segment_rows: Rows of a segment; None chooses.

    Raises:
        ConfigError: A number below 1, or `memory_map` without a folder.
        ResourceError: It does not fit into memory (or onto the disk).
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        capacity: int,
        num_envs: int,
        n_step: int = 1,
        prioritized: PrioritySettings | None = None,
        frame_stack: int = 1,
        extra_columns: Sequence[Column | str] = (),
        folder: str | Path | None = None,
        memory_map: bool = False,
        masked: bool = False,
        segment_rows: int | None = None,
    ):
        numbers = {"capacity": capacity, "num_envs": num_envs, "n_step": n_step, "frame_stack": frame_stack}
        for name, value in numbers.items():
            if value < 1:
                raise ConfigError(f"replay: {name} is {value}, expected 1 or more.", f"Set {name} to 1 or more.")
        layout = make_layout(observation_space, action_space, frame_stack, extra_columns, masked)
        self.n_step = n_step
        segment_rows = segment_rows or segment_rows_for(layout, capacity)
        if memory_map:
            if folder is None:
                raise ConfigError("replay: memory_map needs a folder for its files.", "Give a folder.")
            segment_rows = mapped_rows(segment_rows)
        mapped = Path(folder or ".") if memory_map else None
        self.nbytes = total_bytes(layout, capacity, segment_rows, num_envs, prioritized is not None)
        _require_space(self.nbytes, layout, segment_rows, prioritized is not None, mapped)
        ring = SegmentRing(layout.leaves(), capacity, segment_rows, num_envs, mapped)
        self.rows = ReplayRows(layout, ring, capacity, num_envs, prioritized)

    def __len__(self) -> int:
        return self.rows.transitions

    def ledger(self) -> dict[str, int]:
        """Count transitions; inserted = resident + evicted, always."""
        rows = self.rows
        return {"inserted": rows.inserted, "resident": rows.transitions, "evicted": rows.evicted}

    def insert(self, rollout: Columns, stream: int, sequence: int | None = None) -> int:
        """Append a fragment (T, B), evicting the oldest rows; returns the number of transitions.

        Observations are raw. `sequence` is the fragment's number in its stream: steps missing after a jump are not
        bridged. Without it, a gap is noticed only at an unexpected `first`.

        Raises:
            ConfigError: Too many rows or environments, another width, or observations that are no stack of frames.
        """
        return insert_fragment(self.rows, rollout, stream, sequence)

    def sample(self, batch_size: int, rng: np.random.Generator, gamma: float, beta: float | None = None) -> Columns:
        """Draw transitions with replacement; `beta` overrides the importance exponent.

        Returns:
            obs, action, reward (N,): n-step sums, discount (N,): gamma^k (1 - terminated) with k steps summed,
                next_obs, weight (N,) (1 when uniform), index and generation (N,), the extra columns, `probability` (N,)
                where prioritized, and mask, next_mask with masks. `next_obs` is the true final observation after
                truncation; after termination (discount 0) it may be of the next episode.

        Raises:
            ResourceError: There is nothing to sample.
        """
        generation, slots = np.divmod(self.draw(batch_size, rng), self.rows.ring.rows)
        columns = {**transitions_at(self.rows, slots, self.n_step, gamma), **self._weights(slots, beta)}
        return Columns(**columns, index=slots, generation=generation)

    def sample_sequences(
        self, batch_size: int, steps: int, rng: np.random.Generator, beta: float | None = None
    ) -> Columns:
        """Draw columns (T, N, ...) of `sequences_at`, begun as drawn by `sample`.

        Weight, index and generation (N,) are those of the first steps.
        """
        generation, slots = np.divmod(self.draw(batch_size, rng), self.rows.ring.rows)
        weights = self._weights(slots, beta)
        return sequences_at(self.rows, slots, steps).with_(**weights, index=slots, generation=generation)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw row numbers (count,) with replacement, by mass where prioritized, else uniformly."""
        if self.mass == 0:
            raise ResourceError("replay: there is no transition to sample yet.", "Raise learning_starts above 0.")
        rows = self.rows
        tail, head, ring_rows = rows.tail, rows.head, rows.ring.rows
        if rows.tree is not None:
            slots = rows.tree.draw(count, rng)
            return tail + (slots - tail) % ring_rows
        drawn = rng.integers(tail, head, count)
        if rows.unsampled:
            bad = np.flatnonzero(rows.unsampleable(drawn % ring_rows))
            while len(bad):
                drawn[bad] = rng.integers(tail, head, len(bad))
                bad = bad[rows.unsampleable(drawn[bad] % ring_rows)]
        return drawn

    @property
    def mass(self) -> float:
        """Sum of masses, or the number of transitions where uniform; draws are proportional to it."""
        return float(self.rows.transitions) if self.rows.tree is None else self.rows.tree.total

    def _weights(self, slots: np.ndarray, beta: float | None) -> dict[str, np.ndarray]:
        rows = self.rows
        if rows.tree is None or rows.priorities is None:
            return {"weight": np.ones(len(slots), np.float32)}
        probability = rows.tree.mass.take(slots) / rows.tree.total
        beta = rows.priorities.beta if beta is None else beta
        return {"weight": importance_weights(probability, rows.transitions, beta), "probability": probability}

    def update_priorities(self, index: np.ndarray, generation: np.ndarray, priority: np.ndarray) -> int:
        """Set priorities (N,) of sampled transitions; returns the number still resident.

        Of duplicates the last counts. Raises PriorityError for a negative or non-finite priority.
        """
        priority = checked_priorities(priority)
        rows = self.rows
        if rows.tree is None or rows.priorities is None:
            return 0
        resident = generation * rows.ring.rows + index >= rows.tail
        if rows.frame_stack > 1:
            resident &= ~rows.broken[index]
        if not resident.all():
            index, priority = index[resident], priority[resident]
        if len(index):
            rows.raise_max_priority(float(priority.max()))
            rows.tree.set(index, rows.priorities.mass(priority))
        return len(index)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint, with hard links to complete segments that were written before."""
        save_replay(self.rows, folder)

    def saved_at(self, folder: str | Path) -> None:
        """Record that the files of the last `save` now lie in `folder`, for later hard links."""
        files = self.rows.ring.files
        for segment, (path, checksum) in list(files.items()):
            moved = Path(folder) / path.name
            if moved.is_file():
                files[segment] = moved, checksum

    def load(self, folder: str | Path) -> None:
        """Load a checkpoint into an empty replay; the same generators then give the same draws."""
        load_replay(self.rows, folder)


def _require_space(nbytes: int, layout: Layout, segment_rows: int, prioritized: bool, folder: Path | None) -> None:
    """Refuse a replay that does not fit into memory, or onto the disk of `folder`."""
    index = index_bytes(layout.frame_stack, prioritized)
    row = layout.segment_bytes
    rows = nbytes // (row + index)
    capacity = rows - rows % segment_rows
    free = psutil.virtual_memory().available
    if folder is None:
        require_memory(nbytes, free, capacity, row + index)
        return
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    require_memory(rows * index, free, capacity, index)
    require_memory(rows * row, shutil.disk_usage(existing).free, capacity, row, f"the disk of {folder}")
