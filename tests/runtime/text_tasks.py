"""Text tasks that misbehave."""

from __future__ import annotations

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
