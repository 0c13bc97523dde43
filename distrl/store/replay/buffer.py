"""The replay: transitions of many environments, each observation stored once.

Fragments are appended to one ring of rows. A row is a step: its observation, action, reward and flags. What follows a
row is a link: to the next step of its environment, to a *ghost* row (the true final observation of a truncated step),
or to the *pending* row of its environment, which lies behind the ring and holds what the environment showed last. So
the next observation is exact everywhere, fragment edges and truncations included, and n-step sums walk links.

A ghost takes the place of one transition, so memory is fixed by the capacity.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gymnasium import Space

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, ResourceError
from distrl.store.replay import layout as rows_of
from distrl.store.replay.checkpoint import load_replay, save_replay
from distrl.store.replay.insert import ReplayInserts
from distrl.store.replay.layout import Column
from distrl.store.replay.priorities import PrioritySettings, checked_priorities, importance_weights
from distrl.store.replay.sample import sequences_at, transitions_at
from distrl.store.replay.segments import SegmentRing, mapped_rows
from distrl.store.replay.sum_tree import SumTree


class Replay(ReplayInserts):
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
        segment_rows: Rows of a segment; None chooses.

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
        segment_rows: int | None = None,
    ):
        for name, value in (("capacity", capacity), ("lines", lines), ("n_step", n_step), ("frame_stack", frame_stack)):
            if value < 1:
                raise ConfigError(f"replay: {name} is {value}, expected 1 or more.", f"Set {name} to 1 or more.")
        layout = rows_of.make_layout(observation_space, action_space, frame_stack, extra_columns, masked)
        self.n_step, self.settings = n_step, prioritized
        segment_rows = segment_rows or rows_of.segment_rows_for(layout, capacity)
        if memory_map:
            if folder is None:
                raise ConfigError("replay: memory_map needs a folder for its files.", "Give a folder.")
            segment_rows = mapped_rows(segment_rows)
        self.nbytes = rows_of.total_bytes(layout, capacity, segment_rows, lines, prioritized is not None)
        self._require_room(layout, segment_rows, Path(folder or ".") if memory_map else None)
        ring = SegmentRing(layout.leaves(), capacity, segment_rows, lines, Path(folder or ".") if memory_map else None)
        super().__init__(layout, ring, capacity, lines, None if prioritized is None else SumTree(ring.rows))
        self.max_priority = 0.0
        self.raise_max_priority(1.0)

    def _require_room(self, layout: rows_of.Layout, segment_rows: int, folder: Path | None) -> None:
        index = rows_of.index_bytes(layout.frame_stack, self.settings is not None)
        rows = self.nbytes // (layout.segment_bytes + index)
        capacity = rows - rows % segment_rows
        free = psutil.virtual_memory().available
        if folder is None:
            rows_of.require_memory(self.nbytes, free, capacity, layout.segment_bytes + index)
            return
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        rows_of.require_memory(rows * index, free, capacity, index)
        disk = shutil.disk_usage(existing).free
        rows_of.require_memory(
            rows * layout.segment_bytes, disk, capacity, layout.segment_bytes, f"the disk of {folder}"
        )

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, rng: np.random.Generator, gamma: float, beta: float | None = None) -> Columns:
        """Draw transitions with replacement.

        Args:
            batch_size: N.
            rng: Where the draws come from; the same replay and generator give the same batch.
            gamma: Discount of the n-step sums.
            beta: Exponent of the importance weights in place of the settings' own.

        Returns:
            obs tree (N, ...), action, reward (N,) float32: n-step sums, discount (N,) float32: gamma^k (1 - terminated)
            with k steps summed, next_obs tree (N, ...), weight (N,) float32 (1 when uniform), index (N,) and generation
            (N,) int64, the extra columns, and where prioritized `probability` (N,) float64, with which each was drawn.
            `next_obs` is the true final observation where an episode was truncated. Where it terminated (discount 0) it
            is the first observation of the next episode, or the true final one from back ends that burn the step of a
            reset. With masks: mask, next_mask; where nobody told one, all is allowed.

        Raises:
            ResourceError: There is nothing to sample.
        """
        rows = self.draw(batch_size, rng)
        generation, slots = np.divmod(rows, self.ring.rows)
        return Columns(
            **transitions_at(self, slots, gamma),
            **self._weights(slots, beta),
            index=slots,
            generation=generation,
        )

    def sample_sequences(
        self, batch_size: int, steps: int, rng: np.random.Generator, beta: float | None = None
    ) -> Columns:
        """Draw sequences of up to `steps` steps of one episode; each begins at a transition drawn like in `sample`.

        Returns:
            Columns (T, N, ...) as `replay_sample.sequences_at` says, with weight, index and generation (N,) of the
            first steps.
        """
        generation, slots = np.divmod(self.draw(batch_size, rng), self.ring.rows)
        weights = self._weights(slots, beta)
        return sequences_at(self, slots, steps).with_(**weights, index=slots, generation=generation)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Row numbers (count,) of transitions, with replacement: by mass where prioritized, else uniformly."""
        if self.mass == 0:
            raise ResourceError("replay: there is no transition to sample yet.", "Raise learning_starts above 0.")
        if self.tree is not None:
            slots = self.tree.draw(count, rng)
            return self.tail + (slots - self.tail) % self.ring.rows
        rows = rng.integers(self.tail, self.head, count)
        if self.ghosts:
            bad = np.flatnonzero(self.unsampleable(rows % self.ring.rows))
            while len(bad):
                rows[bad] = rng.integers(self.tail, self.head, len(bad))
                bad = bad[self.unsampleable(rows[bad] % self.ring.rows)]
        return rows

    @property
    def mass(self) -> float:
        """What draws are proportional to: the sum of masses, or the number of transitions where uniform."""
        return float(self.transitions) if self.tree is None else self.tree.total

    def _weights(self, slots: np.ndarray, beta: float | None) -> dict[str, np.ndarray]:
        if self.tree is None or self.settings is None:
            return {"weight": np.ones(len(slots), np.float32)}
        probability = self.tree.mass.take(slots) / self.tree.total
        beta = self.settings.beta if beta is None else beta
        return {"weight": importance_weights(probability, self.transitions, beta), "probability": probability}

    # ---- priorities --------------------------------------------------------------------------------------------------

    def update_priorities(self, index: np.ndarray, generation: np.ndarray, priority: np.ndarray) -> int:
        """Give sampled transitions new priorities; those evicted meanwhile are ignored.

        Args:
            index, generation: As sampled (N,).
            priority: (N,), at least 0, e.g. absolute temporal-difference errors. Of a transition that comes twice the
                last one counts.

        Returns:
            How many were still there.

        Raises:
            PriorityError: A priority is negative, infinite or not a number; nothing was changed.
        """
        priority = checked_priorities(priority)
        if self.tree is None or self.settings is None:
            return 0
        rows = generation * self.ring.rows + index
        here = rows >= self.tail
        if self.frame_stack > 1:
            here &= ~self.broken[index]
        if not here.all():
            index, priority = index[here], priority[here]
        if len(index):
            self.raise_max_priority(float(priority.max()))
            self.tree.set(index, self.settings.mass(priority))
        return len(index)

    def raise_max_priority(self, priority: float) -> None:
        """New transitions get the greatest priority that was ever given, 1 at first."""
        if self.settings is not None and priority > self.max_priority:
            self.max_priority = priority
            self.new_mass = float(self.settings.mass(np.array(priority)))

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write everything into a folder; segments that are whole already are hard links.

        Raises:
            ResourceError: The disk is full.
        """
        save_replay(self, folder)

    def saved_at(self, folder: str | Path) -> None:
        """What `save` wrote has been moved to `folder`, with whatever it was moved in: later saves link from there."""
        for segment, (path, checksum) in list(self.ring.files.items()):
            moved = Path(folder) / path.name
            if moved.is_file():
                self.ring.files[segment] = moved, checksum

    def load(self, folder: str | Path) -> None:
        """Continue, in an empty replay, from what `save` wrote: the same draws from the same generators.

        Raises:
            CheckpointError: A file is missing or damaged, or it was another replay's.
        """
        load_replay(self, folder)
