"""Knapsack RL: sampling budget allocated to prompts by expected learning value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from distrl.base.columns import Columns, Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.chain.groups import Groups
from distrl.language.curricula.budgets import knapsack_budget
from distrl.language.curricula.sampling_plan import PromptSamples, SamplingPlan

#: Names of the table's arrays among the extras that travel with weights.
KEYS, RATES = "knapsack.keys", "knapsack.rates"


def prompt_key(tokens: Sequence[int]) -> int:
    """Return a number above 0 for a prompt, a function of its tokens."""
    digest = hashlib.blake2b(np.asarray(tokens, np.int32).tobytes(), digest_size=7).digest()
    return int.from_bytes(digest, "little") + 1


class SuccessTable:
    """Success rates by prompt, in a hash table of fixed size; collisions overwrite.

    Attributes:
        keys: (S,) int64 prompts, 0 where there is none.
    """

    def __init__(self, size: int):
        self.keys, self.rates = np.zeros(size, np.int64), np.zeros(size)

    def rate(self, key: int) -> float | None:
        """Success rate of a prompt, None where it is not known."""
        place = key % len(self.keys)
        return float(self.rates[place]) if self.keys[place] == key else None

    def record(self, key: int, success: float, decay: float) -> None:
        """Update a success rate: decay * old + (1 - decay) * new, or the new one if none is known."""
        old = self.rate(key)
        place = key % len(self.keys)
        self.keys[place] = key
        self.rates[place] = success if old is None else decay * old + (1.0 - decay) * success

    def extras(self) -> dict[str, np.ndarray]:
        return {KEYS: self.keys.copy(), RATES: self.rates.copy()}

    def load(self, extras: Mapping[str, np.ndarray]) -> None:
        """The inverse of `extras`."""
        self.keys = np.array(extras[KEYS], np.int64)
        self.rates = np.array(extras[RATES], np.float64)


class KnapsackConfig(LanguageAlgorithmConfig):
    """Knapsack RL: `group_size` is the mean number of answers; hard prompts get more."""

    least: int = Field(2, ge=2)
    """Answers that every prompt gets. Usual: 2."""
    most: int = Field(128, ge=2)
    """Answers that a prompt gets at most. Usual: 4 to 8 times group_size."""
    confidence: float = Field(0.9, gt=0, lt=1)
    """Of seeing both a right and a wrong answer; what is beyond goes to prompts that were never solved."""
    rate_decay: float = Field(0.5, ge=0, lt=1)
    """Weight of a prompt's old success rate at an update. 0: the newest alone."""
    table_size: int = Field(4096, ge=1)
    """Prompts whose success rates are kept; they travel with the weights, 16 bytes each. More than the task's items is
    enough."""


@dataclass(frozen=True)
class KnapsackSamples:
    """A fragment's prompts share its answers by what they are expected to teach. The sum is always the same, so every
    fragment costs about as much; fewer streams make larger knapsacks.
    """

    count: int
    least: int
    most: int
    confidence: float

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[PromptSamples]:
        table = SuccessTable(1)
        if KEYS in extras:
            table.load(extras)
        rates = [table.rate(prompt_key(prompt)) for prompt in prompts]
        total = self.count * len(prompts)
        budget = knapsack_budget(rates, total, low=self.least, high=self.most, confidence=self.confidence)
        return [PromptSamples(prompt, answers) for prompt, answers in enumerate(budget)]


@register.algorithm("knapsack", paper="Knapsack RL: Optimizing Budget Allocation, 2025", entries=[96])
class Knapsack(LanguageAlgorithm):
    """GRPO with group sizes allocated by the prompts' last success rates."""

    Config = KnapsackConfig

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        self.table = SuccessTable(self.config.table_size)

    @classmethod
    def sampling_plan(cls, config: Any) -> SamplingPlan:
        if not config.least <= config.group_size <= config.most:
            raise ConfigError(
                f"algorithm.group_size {config.group_size} is the mean of numbers between algorithm.least"
                f" {config.least} and algorithm.most {config.most}.",
                "Change one of them.",
            )
        return KnapsackSamples(config.group_size, config.least, config.most, config.confidence)

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        """Remember what every prompt's answers have shown."""
        groups = Groups(batch.group)
        success = groups.mean(batch.correct.double()).tolist()
        for row, rate in zip(groups.first_rows().tolist(), success, strict=True):
            begin = int(batch.mask[row].int().argmax())  # the answer's first token
            self.table.record(prompt_key(batch.tokens[row, :begin].tolist()), rate, self.config.rate_decay)
        count = groups.count.double()
        return {"text/group_size_max": float(count.max()), "text/group_size_std": float(count.std(correction=0))}

    def extras(self) -> dict[str, np.ndarray]:
        return {**super().extras(), **self.table.extras()}

    def state(self) -> dict[str, Tree]:
        return {**super().state(), "table": self.table.extras()}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        super().load_state(state)
        self.table.load(state["table"])
