"""Reuse of the buffers of published weights: fresh memory costs more than the copy."""

from __future__ import annotations

import weakref
from collections.abc import Hashable

import numpy as np


class ReusedBytes:
    """Byte arrays of one layout, taken again after an array and all views of it are gone."""

    def __init__(self) -> None:
        self.layout: Hashable = None
        self.spare: list[np.ndarray] = []

    def take(self, layout: Hashable, size: int) -> np.ndarray:
        """Return `size` writable bytes: zeros, or those of a former array of the same layout."""
        if layout != self.layout:
            self.layout, self.spare = layout, []
        memory = self.spare.pop() if self.spare else np.zeros(size, np.uint8)
        # views of `taken` keep `taken`, not what lies below: numpy looks through arrays, not through a memoryview
        taken = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(taken, self.spare.append, memory).atexit = False
        return taken
