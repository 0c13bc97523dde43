"""First items of a task, for learners with a state per prompt."""

from __future__ import annotations

from distrl.base.errors import ConfigError
from distrl.language.tasks.base import Item, Task


class TaskSubset(Task):
    """The first `size` training items of a task, with all of its held-out items.

    Raises:
        ConfigError: The task has fewer.
    """

    def __init__(self, task: Task, size: int):
        if task.size is not None and size > task.size:
            raise ConfigError(
                f"algorithm.prompts is {size}, but task {type(task).__name__} has {task.size} training prompts.",
                f"Set algorithm.prompts={task.size} or less.",
            )
        self.task, self.size = task, size
        self.components, self.eval_size, self.verify_seconds = task.components, task.eval_size, task.verify_seconds
        self.alphabet = task.alphabet  # type: ignore[misc]

    def item(self, index: int, split: str = "train") -> Item:
        if split == "train" and not 0 <= index < (self.size or 0):
            raise IndexError(f"no training item {index} of {self.size}")
        return self.task.item(index, split)

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        return self.task.verify(item, answer)

    def demonstration(self, item: Item) -> str | None:
        return self.task.demonstration(item)

    def distinct(self, answer: str) -> str | None:
        return self.task.distinct(answer)
