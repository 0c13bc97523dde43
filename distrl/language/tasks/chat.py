"""Short chat tasks that small instruction-tuned models half know: two examples, then the question.

Every prompt is user, assistant, user, assistant, user, without a system turn. The examples are drawn from the training
questions, anew for each item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.tasks.base import Item, Message
from distrl.language.tasks.generated import DrawnTask, share_placed

_WORDS = """
    apple arm baby bag ball band bank bath bear bed bell bird boat body bone book boot bowl box boy bread brick bridge
    bus cake camp car card cat chair child city clay clock cloud coat coin cook corn cow cup dance desk dog door dress
    drum duck dust ear earth egg eye face farm feet field fire fish flag floor flower fly food foot fork fox friend
    frog fruit game garden gate girl glass gold grape grass green hair hand hat head heart hill home horse house ice
    island jar jump key king kite knee lake lamp land leaf leg lemon letter light lion lip map milk mind money moon
    mouse mouth music nail name neck nest night nose ocean orange paper park path pen piano picture pig plane plant
    plate pocket queen rain red ring river road rock roof room rope rose sail salt sand school sea seed shell ship
    shirt shoe sky sleep smile snow soap sock song spoon spring star stone street sugar summer sun table tail tea
    tiger time tower town toy train tree truck voice wall watch water wave wheel wind window winter wolf wood world
"""
WORDS = tuple(_WORDS.split())

EXAMPLES = 2


class ChatTask(DrawnTask):
    """A subclass writes `draw`, `question` and `answer`.

    Parts: success, and the share of words in their places.
    """

    parts = ("success", "placed")

    def question(self, facts: Mapping[str, Any]) -> str:
        """What the user says."""
        raise NotImplementedError

    def answer(self, facts: Mapping[str, Any]) -> str:
        """What the assistant should say: words with single spaces between them."""
        raise NotImplementedError

    def complete(self, content: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**content, "examples": [self.draw_for("train", rng) for _ in range(EXAMPLES)]}

    def prompt_of(self, facts: Mapping[str, Any]) -> tuple[Message, ...]:
        turns: list[Message] = []
        for content in facts["examples"]:
            turns.append({"role": "user", "content": self.question(content)})
            turns.append({"role": "assistant", "content": self.answer(content)})
        return (*turns, {"role": "user", "content": self.question(facts)})

    def verify(self, item: Item, answer: str) -> dict[str, float]:
        right = self.answer(item.facts)
        success = answer.strip() == right
        return {"success": float(success), "placed": share_placed(answer.split(), right.split())}

    def demonstration(self, item: Item) -> str:
        return self.answer(item.facts)


class _WordTask(ChatTask):
    def __init__(self, count: int, seed: int = 0):
        super().__init__(seed)
        if not 1 <= count <= len(WORDS):
            raise ConfigError(f"count = {count} is not within 1..{len(WORDS)}.", "Set env.kwargs.count: 4.")
        self.count = count

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        return {"words": [WORDS[index] for index in rng.choice(len(WORDS), self.count, replace=False)]}


@register.task("copy_words")
class CopyWords(_WordTask):
    """Repeat some words: "Copy: river lamp moon fox" wants "river lamp moon fox".

    Args:
        count: Words in a question.
        seed: Names the draws.
    """

    def __init__(self, count: int = 4, seed: int = 0):
        super().__init__(count, seed)

    def question(self, facts: Mapping[str, Any]) -> str:
        return "Copy: " + " ".join(facts["words"])

    def answer(self, facts: Mapping[str, Any]) -> str:
        return " ".join(facts["words"])


@register.task("reverse_words")
class ReverseWords(_WordTask):
    """Say some words backwards: "Reverse: river lamp moon" wants "moon lamp river".

    Args:
        count: Words in a question.
        seed: Names the draws.
    """

    def __init__(self, count: int = 3, seed: int = 0):
        super().__init__(count, seed)

    def question(self, facts: Mapping[str, Any]) -> str:
        return "Reverse: " + " ".join(facts["words"])

    def answer(self, facts: Mapping[str, Any]) -> str:
        return " ".join(reversed(facts["words"]))


class _NumberTask(ChatTask):
    def __init__(self, count: int, low: int, high: int, seed: int = 0):
        super().__init__(seed)
        if not 0 <= low < high or high - low + 1 < count:
            raise ConfigError(f"{count} different numbers from {low} to {high} do not exist.", "Widen low..high.")
        self.count, self.low, self.high = count, low, high

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        drawn = rng.choice(self.high - self.low + 1, self.count, replace=False)
        return {"numbers": [int(number) + self.low for number in drawn]}

    def identity(self, content: dict[str, Any]) -> list[int]:
        return sorted(content["numbers"])


@register.task("sort_numbers")
class SortNumbers(_NumberTask):
    """Sort different numbers upwards: "Sort: 42 7 19" wants "7 19 42".

    Args:
        count: Numbers in a question.
        low: Smallest number.
        high: Largest number.
        seed: Names the draws.
    """

    def __init__(self, count: int = 3, low: int = 1, high: int = 99, seed: int = 0):
        super().__init__(count, low, high, seed)

    def question(self, facts: Mapping[str, Any]) -> str:
        return "Sort: " + " ".join(map(str, facts["numbers"]))

    def answer(self, facts: Mapping[str, Any]) -> str:
        return " ".join(map(str, sorted(facts["numbers"])))


@register.task("larger_number")
class LargerNumber(_NumberTask):
    """Say the larger of two numbers: "Which is larger: 42 or 19?" wants "42".

    Args:
        low: Smallest number.
        high: Largest number.
        seed: Names the draws.
    """

    def __init__(self, low: int = 1, high: int = 99, seed: int = 0):
        super().__init__(2, low, high, seed)

    def question(self, facts: Mapping[str, Any]) -> str:
        first, second = facts["numbers"]
        return f"Which is larger: {first} or {second}?"

    def answer(self, facts: Mapping[str, Any]) -> str:
        return str(max(facts["numbers"]))


@register.task("next_number")
class NextNumber(_NumberTask):
    """Count on: "What comes after 42?" wants "43".

    Args:
        low: Smallest number.
        high: Largest number.
        seed: Names the draws.
    """

    def __init__(self, low: int = 1, high: int = 998, seed: int = 0):
        super().__init__(1, low, high, seed)

    def question(self, facts: Mapping[str, Any]) -> str:
        return f"What comes after {facts['numbers'][0]}?"

    def answer(self, facts: Mapping[str, Any]) -> str:
        return str(facts["numbers"][0] + 1)
