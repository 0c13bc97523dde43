"""Tiny tasks for character-level models, learned in a minute on one core."""

from __future__ import annotations

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.base.seeds import generator
from distrl.language.tasks.base import Facts, Item
from distrl.language.tasks.generated import Content, GeneratedTask, share_placed

DIGITS = "0123456789"


@register.task("sort_digits")
class SortDigits(GeneratedTask):
    """Sorting `count` digits: "314159>" -> "113459".

    Parts: success, and the share of correct places. From 4 digits on, held-out questions differ from training ones in
    their digits, not only in their order.
    """

    components = ("success", "placed")
    alphabet = DIGITS + ">"

    def __init__(self, count: int = 6, seed: int = 0):
        super().__init__(seed)
        if count < 2:
            raise ConfigError(f"sort_digits sorts 2 digits or more, not {count}.", "Set task.kwargs.count: 6.")
        self.count = count

    def draw(self, rng: np.random.Generator) -> Content:
        return {"digits": "".join(DIGITS[digit] for digit in rng.integers(10, size=self.count))}

    def identity(self, content: Content) -> str:
        return content["digits"] if self.count < 4 else _sorted(content["digits"])

    def prompt_of(self, facts: Facts) -> str:
        return facts["digits"] + ">"

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        right = _sorted(item.facts["digits"])
        return {"success": float(answer == right), "placed": share_placed(answer, right)}

    def demonstration(self, item: Item) -> str:
        return _sorted(item.facts["digits"])


@register.task("pairs")
class Pairs(GeneratedTask):
    """Two digits with a given sum from low to high: "09>" -> "45", "18", "90", ...

    Parts: success, and form (two digits). Both splits share the few questions: the task measures the number of
    different correct answers that a model gives.
    """

    components = ("success", "form")
    alphabet = DIGITS + ">"
    holds_out = False

    def __init__(self, low: int = 1, high: int = 17, seed: int = 0):
        super().__init__(seed)
        if not 0 <= low <= high <= 18:
            raise ConfigError(f"two digits sum to 0..18; low = {low} and high = {high} do not fit.")
        self.low, self.high = low, high

    def draw(self, rng: np.random.Generator) -> Content:
        return {"sum": int(rng.integers(self.low, self.high + 1))}

    def prompt_of(self, facts: Facts) -> str:
        return f"{facts['sum']:02d}>"

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        formed = len(answer) == 2 and all(character in DIGITS for character in answer)
        right = formed and int(answer[0]) + int(answer[1]) == item.facts["sum"]
        return {"success": float(right), "form": float(formed)}

    def demonstration(self, item: Item) -> str:
        """Draw one of the correct answers uniformly."""
        total = item.facts["sum"]
        rng = generator(self.seed, "demonstration", item.split, item.index)
        first = int(rng.integers(max(0, total - 9), min(9, total) + 1))
        return f"{first}{total - first}"


def _sorted(digits: str) -> str:
    return "".join(sorted(digits))
