"""Tasks with randomly generated items; a hash of their content decides which are held out."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.seeds import generator, seed_for
from distrl.language.tasks.base import SPLITS, Facts, Item, Prompt, Task

#: One of this many contents is held out.
HELD_OUT_ONE_IN = 8
MAX_TRIES = 2000
#: Plain Python values.
Content: TypeAlias = dict[str, Any]


class GeneratedTask(Task):
    """Unlimited task; subclasses define `draw`, `prompt_of`, `verify` and `demonstration`.

    A hash of the content assigns each question to "train" or "eval". With `holds_out = False` both splits share the
    same questions.
    """

    holds_out: bool = True

    def __init__(self, seed: int = 0):
        self.seed = seed

    def draw(self, rng: np.random.Generator) -> Content:
        """Draw the content of a question, in plain Python values."""
        raise NotImplementedError

    def complete(self, content: Content, rng: np.random.Generator) -> Content:
        """Add to the content whatever else the prompt needs."""
        return content

    def prompt_of(self, facts: Facts) -> Prompt:
        """Write the prompt."""
        raise NotImplementedError

    def identity(self, content: Content) -> object:
        """Return the value that training and held-out questions must not share."""
        return content

    def item(self, index: int, split: str = "train") -> Item:
        """Make item `index` of a split; raise ConfigError if no content of that split is found."""
        if split not in SPLITS:
            raise ConfigError(f"a task has the splits train and eval, not {split!r}.")
        rng = generator(self.seed, type(self).__name__, split, index)
        facts = self.complete(self.draw_for(split, rng), rng)
        return Item(index, split, self.prompt_of(facts), facts)

    def draw_for(self, split: str, rng: np.random.Generator) -> Content:
        """Draw content of a split."""
        for _ in range(MAX_TRIES):
            content = self.draw(rng)
            if not self.holds_out or self.is_held_out(content) == (split == "eval"):
                return content
        raise ConfigError(
            f"{type(self).__name__} has too few different questions to hold some out: none for {split!r}.",
            "Make the task larger.",
        )

    def is_held_out(self, content: Content) -> bool:
        """Return True for content of the split "eval", whatever the seed."""
        return seed_for(0, type(self).__name__, repr(self.identity(content))) % HELD_OUT_ONE_IN == 0


def share_placed(answer: str | list[str], right: str | list[str]) -> float:
    """Compute the share of correct places; surplus places count as wrong.

    >>> share_placed("1235", "1234")
    0.75
    >>> share_placed("12344", "1234")
    0.8
    """
    longest = max(len(answer), len(right))
    return sum(a == b for a, b in zip(answer, right, strict=False)) / longest if longest else 1.0
