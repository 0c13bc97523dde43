"""Reverse digits: "314>" wants "413". A task gives items and verifies answers."""

from __future__ import annotations

from distrl.base.registry import register
from distrl.base.seeds import generator
from distrl.language.tasks.base import Item, Task


@register.task("reverse_digits")
class ReverseDigits(Task):
    """Reverse digits. Parts: success, and the share of digits in their place.

    Args:
        count: Digits of a question.
    """

    components = ("success", "placed")
    alphabet = "0123456789>"  # for character-level models; omit it for natural text

    def __init__(self, count: int = 3):
        self.count = count

    def item(self, index: int, split: str = "train") -> Item:
        # A pure function of index and split: samplers, evaluation and resumed runs must get the same item.
        digits = generator(0, "reverse_digits", split, index).integers(10, size=self.count)
        text = "".join(map(str, digits))
        return Item(index, split, text + ">", {"answer": text[::-1]})

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        right = item.facts["answer"]
        placed = sum(a == b for a, b in zip(answer, right, strict=False)) / len(right)
        return {"success": float(answer == right), "placed": placed if len(answer) == len(right) else 0.0}

    def demonstration(self, item: Item) -> str:
        return item.facts["answer"]  # optional: for warm starts and supervised algorithms
