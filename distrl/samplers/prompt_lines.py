"""Which items of a task a stream asks, as a pure function of names."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from distrl.base.seeds import generator, seed_for
from distrl.experience.fragment import Unit


class PromptLines:
    """The items of all streams: `lines` prompt lines in each, `items_per_line` items of a line in one fragment.

    A task of known size is asked in passes: within a pass every item comes once, over all streams together, in an order
    of its own. An endless task is asked an item that has hardly been asked before.

    Args:
        task: Gives items.
        streams: Streams of the run.
        lines: Prompt lines of each stream.
        items_per_line: Items of one line in a fragment.
        seed: The run's seed.
    """

    def __init__(self, task: Any, streams: int, lines: int, items_per_line: int, seed: int):
        self.task = task
        self.streams = streams
        self.per_fragment = lines * items_per_line
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._new_order)

    def items(self, unit: Unit) -> list[Any]:
        """The items of a fragment."""
        first = (unit.seq * self.streams + unit.stream) * self.per_fragment
        return [self.task.item(self.number(first + place)) for place in range(self.per_fragment)]

    def number(self, place: int) -> int:
        """Which item comes at a place of the run's sequence of items."""
        size = self.task.size
        if size is None:
            return seed_for(self.seed, "item", place)
        return int(self._order(place // size)[place % size])

    def _new_order(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "items", epoch).permutation(self.task.size)
