"""Text tasks and engines that misbehave, and a task whose items differ."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from distrl.language.engines.transformers import TransformersEngine
from distrl.language.tasks.base import Item
from distrl.language.tasks.tiny import SortDigits


class Faulty(SortDigits):
    """Its verifier raises for every third item, and hangs for every third; not for the first ones, which are tried
    before a run begins."""

    verify_seconds = 0.1

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        if item.index > 10 and item.index % 3 == 0:
            raise ValueError("no such answer")
        if item.index > 10 and item.index % 3 == 1:
            time.sleep(30)
        return super().verify(item, answer)


class EasyAndOpen(SortDigits):
    """Even items: whatever is said is right. Odd ones: one answer in two is, by its letters."""

    components = ("success",)

    def __init__(self, size: int):
        super().__init__(count=3)
        self.size = size

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        even = hashlib.sha256(f"{item.index} {answer}".encode()).digest()[0] % 2 == 0
        return {"success": float(item.index % 2 == 0 or even)}

    def demonstration(self, item: Item) -> str | None:
        return None


class HangsOnce(SortDigits):
    """Making an item hangs, once in the life of the file `marker`; not for the first ones, which are tried before."""

    def __init__(self, marker: str):
        super().__init__(count=3)
        self.marker = Path(marker)

    def item(self, index: int, split: str = "train") -> Item:
        if index > 10 and not self.marker.exists():
            self.marker.touch()
            time.sleep(3600)
        return super().item(index, split)


class FailsOnce(TransformersEngine):
    """Dies in the middle of its second batch; the next engine of the process does not."""

    left = 1

    def generate(self, *args: Any, **options: Any) -> list[Any]:
        said = super().generate(*args, **options)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2 and FailsOnce.left:
            FailsOnce.left -= 1
            raise MemoryError("no room for 64 rows\nand more lines")
        return said


class AlwaysFails(TransformersEngine):
    """Answers nothing."""

    def generate(self, *args: Any, **options: Any) -> list[Any]:
        raise MemoryError("no room for 64 rows\nand more lines")


class SlowTokens(TransformersEngine):
    """Takes 20 ms more for every token, so that weights arrive in the middle of answers."""

    def generate(self, *args: Any, poll: Any = None, **options: Any) -> list[Any]:
        def slowly() -> Any:
            time.sleep(0.02)
            return None if poll is None else poll()

        return super().generate(*args, poll=slowly, **options)


class Drains(TransformersEngine):
    """Cannot take weights in the middle of a batch."""

    def generate(self, prompts: Any, repeats: int, uniforms: Any, options: Any) -> list[Any]:  # type: ignore[override]
        return super().generate(prompts, repeats, uniforms, options)


class LongLater(SortDigits):
    """Its prompts are short as long as they are tried, and then too long."""

    def item(self, index: int, split: str = "train") -> Item:
        item = super().item(index, split)
        return item if index < 10 else replace(item, prompt="1" * 399 + ">")


class Infinite(SortDigits):
    """The reward of later items is infinite."""

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        found = super().verify(item, answer)
        return found if item.index < 10 else {**found, "placed": float("inf")}
