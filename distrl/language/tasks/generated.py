"""Tasks whose items are drawn from a generator, with held-out items told apart by a hash of their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.seeds import generator, seed_for
from distrl.language.tasks.base import SPLITS, Item, Prompt, Task

#: One content in so many is held out.
HELD_OUT_ONE_IN = 8
MOST_TRIES = 2000


class DrawnTask(Task):
    """An endless task. A subclass writes `draw`, `prompt_of`, `verify` and `demonstration`.

    Contents that a hash marks are only ever asked in the split "eval", all others only in "train". With
    `holds_out = False` both splits ask the same few questions.
    """

    holds_out: bool = True

    def __init__(self, seed: int = 0):
        self.seed = seed

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """The content of a question, in plain Python values."""
        raise NotImplementedError

    def complete(self, content: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The facts of an item: its content, and what else its prompt needs."""
        return content

    def prompt_of(self, facts: Mapping[str, Any]) -> Prompt:
        """The question."""
        raise NotImplementedError

    def identity(self, content: dict[str, Any]) -> Any:
        """What must not be the same in a training and a held-out question."""
        return content

    def item(self, index: int, split: str = "train") -> Item:
        """See `Task.item`.

        Raises:
            ConfigError: Another split than "train" and "eval", or no content of that split is found.
        """
        if split not in SPLITS:
            raise ConfigError(f"a task has the splits train and eval, not {split!r}.")
        rng = generator(self.seed, type(self).__name__, split, index)
        facts = self.complete(self.draw_for(split, rng), rng)
        return Item(index, split, self.prompt_of(facts), facts)

    def draw_for(self, split: str, rng: np.random.Generator) -> dict[str, Any]:
        """Content that belongs to a split."""
        for _ in range(MOST_TRIES):
            content = self.draw(rng)
            if not self.holds_out or self.is_held_out(content) == (split == "eval"):
                return content
        raise ConfigError(
            f"{type(self).__name__} has too few different questions to hold some out: none for {split!r}.",
            "Make the task larger.",
        )

    def is_held_out(self, content: dict[str, Any]) -> bool:
        """True where the content belongs to the split "eval". Another seed does not move it."""
        return seed_for(0, type(self).__name__, repr(self.identity(content))) % HELD_OUT_ONE_IN == 0


def share_placed(answer: str | list[str], right: str | list[str]) -> float:
    """Share of the places that hold what they should; what is too much counts as wrong places.

    >>> share_placed("1235", "1234")
    0.75
    >>> share_placed("12344", "1234")
    0.8
    """
    longest = max(len(answer), len(right))
    return sum(a == b for a, b in zip(answer, right, strict=False)) / longest if longest else 1.0
