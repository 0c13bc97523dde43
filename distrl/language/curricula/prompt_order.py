"""Order of a task's items in each stream, a pure function of weights and names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from distrl.base.seeds import generator, seed_for
from distrl.experience.fragment import Unit
from distrl.language.curricula.base import Curriculum
from distrl.language.tasks.base import Item, Task


class PromptLines:
    """Items of all streams: `lines` prompt lines in each, `items_per_line` per fragment.

    With a curriculum the items of all streams' fragments of one number are drawn together, so none comes twice in an
    ordered batch while there are enough. Without, a task of known size is asked in passes: within a pass every item
    comes once, over all streams together, in an order of its own. An endless task is asked an item that has hardly been
    asked before.

    Args:
        lines: Prompt lines of each stream.
        items_per_line: Items of one line in a fragment.
        curriculum: Draws the items, if there is one; its state comes with the weights.
    """

    def __init__(
        self, task: Task, streams: int, lines: int, items_per_line: int, seed: int, curriculum: Curriculum | None = None
    ):
        self.task = task
        self.streams = streams
        self.per_fragment = lines * items_per_line
        self.seed = seed
        self.curriculum = curriculum
        self._order = lru_cache(maxsize=2)(self._new_order)

    def items(self, unit: Unit, extras: Mapping[str, np.ndarray] | None = None) -> list[Item]:
        """The items of a fragment.

        Args:
            extras: Arrays published with the weights: with a curriculum, its state.
        """
        if self.curriculum is not None:
            self.curriculum.load_extras(extras or {})
            rng = generator(self.seed, "curriculum", unit.seq)
            drawn = self.curriculum.sample(rng, self.streams * self.per_fragment)
            mine = drawn[unit.stream * self.per_fragment : (unit.stream + 1) * self.per_fragment]
            return [self.task.item(int(number)) for number in mine]
        first = (unit.seq * self.streams + unit.stream) * self.per_fragment
        return [self.task.item(self.number(first + place)) for place in range(self.per_fragment)]

    def number(self, place: int) -> int:
        """Return the item at a position of the run's sequence, without a curriculum."""
        size = self.task.size
        if size is None:
            return seed_for(self.seed, "item", place)
        return int(self._order(place // size)[place % size])

    def _new_order(self, epoch: int) -> np.ndarray:
        assert self.task.size is not None
        return generator(self.seed, "items", epoch).permutation(self.task.size)
