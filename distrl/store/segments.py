"""Fixed-size append-only segments: the memory of a replay, and its files.

Rows are numbered for ever: row i lies in segment i // segment_rows, at slot i % rows of a ring. A segment is written
from its first row to its last and then never again, so a checkpoint may hard-link its file; when the ring comes round,
the slots get a new segment and a new file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distrl.store.replay_layout import Leaf


class SegmentRing:
    """A ring of segments in memory.

    Args:
        leaves: Columns of a row.
        capacity: Newest rows that stay readable.
        segment_rows: Rows of a segment.
        extra_rows: Rows behind the ring that belong to no segment.

    Attributes:
        rows: Slots of the ring: a whole number of segments, at least one more than the capacity needs, so that every
            segment with a readable row is whole.
        arrays: Column by name, (rows + extra_rows, ...). Slots of a new segment begin with zero `flags`.
    """

    def __init__(self, leaves: Sequence[Leaf], capacity: int, segment_rows: int, extra_rows: int):
        self.leaves = list(leaves)
        self.segment_rows = segment_rows
        self.segments = -(-capacity // segment_rows) + 1
        self.rows = self.segments * segment_rows
        self.extra_rows = extra_rows
        self.ready = 0  # rows below it lie in segments that have been begun
        self.arrays = self._allocate()

    def _allocate(self) -> dict[str, np.ndarray]:
        return {leaf.name: np.zeros((self.rows + self.extra_rows, *leaf.shape), leaf.dtype) for leaf in self.leaves}

    def begin(self, end: int) -> None:
        """Begin every segment that rows below `end` lie in. What its slots held is gone."""
        while self.ready < end:
            self._begin_segment(self.ready // self.segment_rows)
            self.ready += self.segment_rows

    def _begin_segment(self, segment: int) -> None:
        start = segment * self.segment_rows % self.rows
        self.arrays["flags"][start : start + self.segment_rows] = 0
