"""Short chat tasks for small instruction-tuned models: two examples, then the question.

Every prompt is user, assistant, user, assistant, user, without a system turn. The examples of each item are drawn from
the training questions.
"""

from __future__ import annotations

import numpy as np

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.tasks.base import Facts, Item, Message
from distrl.language.tasks.generated import Content, GeneratedTask, share_placed

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


class ChatTask(GeneratedTask):
    """Base class; subclasses define `draw`, `question` and `answer`.

    Parts: success, and the share of words in their places.
    """

    components = ("success", "placed")

    def question(self, facts: Facts) -> str:
        """Write the user's turn."""
        raise NotImplementedError

    def answer(self, facts: Facts) -> str:
        """Write the correct answer: words separated by single spaces."""
        raise NotImplementedError

    def complete(self, content: Content, rng: np.random.Generator) -> Content:
        return {**content, "examples": [self.draw_for("train", rng) for _ in range(EXAMPLES)]}

    def prompt_of(self, facts: Facts) -> tuple[Message, ...]:
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
            raise ConfigError(f"count = {count} is not within 1..{len(WORDS)}.", "Set task.kwargs.count: 4.")
        self.count = count

    def draw(self, rng: np.random.Generator) -> Content:
        return {"words": [WORDS[index] for index in rng.choice(len(WORDS), self.count, replace=False)]}


@register.task("copy_words")
class CopyWords(_WordTask):
    """Copying `count` words: "Copy: river lamp moon fox" -> "river lamp moon fox"."""

    def __init__(self, count: int = 4, seed: int = 0):
        super().__init__(count, seed)

    def question(self, facts: Facts) -> str:
        return "Copy: " + " ".join(facts["words"])

    def answer(self, facts: Facts) -> str:
        return " ".join(facts["words"])


@register.task("reverse_words")
class ReverseWords(_WordTask):
    """Reversing `count` words: "Reverse: river lamp moon" -> "moon lamp river"."""

    def __init__(self, count: int = 3, seed: int = 0):
        super().__init__(count, seed)

    def question(self, facts: Facts) -> str:
        return "Reverse: " + " ".join(facts["words"])

    def answer(self, facts: Facts) -> str:
        return " ".join(reversed(facts["words"]))


class _NumberTask(ChatTask):
    def __init__(self, count: int, low: int, high: int, seed: int = 0):
        super().__init__(seed)
        if not 0 <= low < high or high - low + 1 < count:
            raise ConfigError(f"{count} different numbers from {low} to {high} do not exist.", "Widen low..high.")
        self.count, self.low, self.high = count, low, high

    def draw(self, rng: np.random.Generator) -> Content:
        drawn = rng.choice(self.high - self.low + 1, self.count, replace=False)
        return {"numbers": [int(number) + self.low for number in drawn]}

    def identity(self, content: Content) -> list[int]:
        return sorted(content["numbers"])


@register.task("sort_numbers")
class SortNumbers(_NumberTask):
    """Sorting `count` different numbers from low to high: "Sort: 42 7 19" -> "7 19 42"."""

    def __init__(self, count: int = 3, low: int = 1, high: int = 99, seed: int = 0):
        super().__init__(count, low, high, seed)

    def question(self, facts: Facts) -> str:
        return "Sort: " + " ".join(map(str, facts["numbers"]))

    def answer(self, facts: Facts) -> str:
        return " ".join(map(str, sorted(facts["numbers"])))


@register.task("larger_number")
class LargerNumber(_NumberTask):
    """The larger of two numbers: "Which is larger: 42 or 19?" -> "42"."""

    def __init__(self, low: int = 1, high: int = 99, seed: int = 0):
        super().__init__(2, low, high, seed)

    def question(self, facts: Facts) -> str:
        first, second = facts["numbers"]
        return f"Which is larger: {first} or {second}?"

    def answer(self, facts: Facts) -> str:
        return str(max(facts["numbers"]))


@register.task("next_number")
class NextNumber(_NumberTask):
    """The successor of a number: "What comes after 42?" -> "43"."""

    def __init__(self, low: int = 1, high: int = 998, seed: int = 0):
        super().__init__(1, low, high, seed)

    def question(self, facts: Facts) -> str:
        return f"What comes after {facts['numbers'][0]}?"

    def answer(self, facts: Facts) -> str:
        return str(facts["numbers"][0] + 1)
