"""Text tasks that misbehave, and one whose items differ."""

from __future__ import annotations

import hashlib
import time

from distrl.envs.text_task import Item
from distrl.envs.tiny_tasks import SortDigits


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

    parts = ("success",)

    def __init__(self, size: int):
        super().__init__(count=3)
        self.size = size

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        even = hashlib.sha256(f"{item.index} {answer}".encode()).digest()[0] % 2 == 0
        return {"success": float(item.index % 2 == 0 or even)}

    def demonstration(self, item: Item) -> str | None:
        return None
