"""Task `reasoning_gym`: every generator of the package reasoning-gym.

task: {name: reasoning_gym, kwargs: {name: spell_backward, config: {max_word_len: 5}}}
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from distrl.base.errors import ConfigError, EnvError, unknown
from distrl.base.registry import register
from distrl.language.sandbox.time_limit import call_within
from distrl.language.tasks.base import Item, Task

#: Items of one generator for training, followed by the held-out ones.
TRAIN_ITEMS, EVAL_ITEMS = 900_000, 100_000
#: Items cached between generation and verification.
CACHED_ITEMS = 1024


@register.task("reasoning_gym")
class ReasoningGymTask(Task):
    """Puzzles of reasoning-gym, verified by its scoring.

    Parts: success (the score is 1), and the score (partial credit).
    Held-out items are further draws; generators of few different questions repeat some. Some scorers evaluate
    expressions of the answer in this process.

    Args:
        name: Generator, such as spell_backward.
        config: Its arguments.
        seed: Seed of the draws.
        tag: Read the answer between <tag> and </tag>; the last such piece counts.
        instruction: Sentence after each question.
        chat: Give the question as a user's turn; false: as raw text.
        item_seconds: Time limit of making the generator or one item, wall time.

    Raises:
        ConfigError: The package is missing, the generator is unknown, or it refuses its arguments.
    """

    components = ("success", "score")
    size: int
    eval_size: int

    def __init__(
        self,
        name: str,
        config: Mapping[str, object] | None = None,
        seed: int = 0,
        tag: str | None = None,
        instruction: str = "",
        chat: bool = True,
        item_seconds: float = 20.0,
    ):
        self.name, self.instruction, self.is_chat, self.item_seconds = name, instruction, chat, item_seconds
        self.tag = tag
        self.size, self.eval_size = TRAIN_ITEMS, EVAL_ITEMS
        self.dataset = self._make(dict(config or {}), seed)
        self._entry = functools.lru_cache(maxsize=CACHED_ITEMS)(self._generate)
        try:
            self._entry(0)
        except EnvError as error:
            raise ConfigError(error.problem, "Check task.kwargs.config, or raise task.kwargs.item_seconds.") from None

    def item(self, index: int, split: str = "train") -> Item:
        """Make item `index` of a split; raise EnvError if the generator raises or hangs."""
        sizes = {"train": self.size, "eval": self.eval_size}
        if not 0 <= index < sizes.get(split, 0):
            raise IndexError(f"no item {index} of {split!r}; there are {sizes}")
        number = index if split == "train" else self.size + index
        entry = self._entry(number)
        question = f"{entry['question']}\n\n{self.instruction}" if self.instruction else str(entry["question"])
        answer = entry.get("answer")
        shown = answer if isinstance(answer, str) and answer.strip() else None
        prompt = ({"role": "user", "content": question},) if self.is_chat else question
        return Item(index, split, prompt, {"number": number, "answer": shown})

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        if self.tag is not None:
            word = re.escape(self.tag)
            pieces = re.findall(rf"<{word}>(.*?)</{word}>", answer, re.DOTALL)
            if not pieces:
                return {"success": 0.0, "score": 0.0}
            answer = pieces[-1]
        score = float(self.dataset.score_answer(answer.strip(), self._entry(item.facts["number"])))
        return {"success": float(score >= 1.0), "score": score}

    def demonstration(self, item: Item) -> str | None:
        answer = item.facts["answer"]
        return answer if answer is None or self.tag is None else f"<{self.tag}>{answer}</{self.tag}>"

    def _make(self, config: dict[str, object], seed: int) -> Any:
        try:
            from reasoning_gym.factory import DATASETS
        except ModuleNotFoundError:
            raise ConfigError("reasoning_gym tasks need reasoning-gym.", "pip install 'distrl[llm]'") from None
        if self.name not in DATASETS:
            raise ConfigError(unknown("generator", self.name, DATASETS))
        kind, config_kind = DATASETS[self.name]
        fields = {field.name for field in dataclasses.fields(config_kind)} - {"seed", "size"}
        for word in config:
            if word not in fields:
                raise ConfigError(f"generator {self.name!r}: {unknown('argument', word, fields)}")

        def build(size: int | None) -> Any:
            made = config_kind(**config, seed=seed, **({} if size is None else {"size": size}))
            return call_within(self.item_seconds, lambda: kind(config=made))

        try:
            try:
                return build(TRAIN_ITEMS + EVAL_ITEMS)
            except (ValueError, AssertionError):  # a generator of few items
                dataset = build(None)
        except Exception as error:
            raise ConfigError(
                f"generator {self.name!r} refuses its arguments: {type(error).__name__}: {str(error)[:200]}.",
                f"It has {', '.join(sorted(fields))}.",
            ) from None
        self.eval_size = len(dataset) // 10
        self.size = len(dataset) - self.eval_size
        return dataset

    def _generate(self, number: int) -> dict[str, Any]:
        try:
            return call_within(self.item_seconds, lambda: self.dataset[number])
        except Exception as error:
            what = f"{type(error).__name__}: {str(error)[:200]}"
            raise EnvError(
                f"reasoning-gym's {self.name!r} made no item {number}: {what}.", "Change task.kwargs.config."
            ) from None
