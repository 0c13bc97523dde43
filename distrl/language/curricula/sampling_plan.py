"""How often a sampler answers each prompt of a fragment, and at which temperature: a pure function of names and extras.

A plan is made by the algorithm (`LanguageAlgorithm.draws`) and asked by every sampler. What it must know of the run so
far comes with the weights as extras (`language/models/weights.py`), so a fragment depends on weights and names alone,
whoever makes it and however often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Draws(NamedTuple):
    """Answers to one prompt, which are one group.

    Attributes:
        prompt: Its place in the fragment.
        answers: How many.
        heat: Their temperature over the run's own.
    """

    prompt: int
    answers: int
    heat: float = 1.0


class DrawPlan(Protocol):
    """What a sampler asks."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[Draws]:
        """The groups of a fragment, in order; at heat 1 every prompt has one.

        Args:
            prompts: Tokens of its prompts.
            extras: What came with the weights.
            rng: Of this fragment.
        """


@dataclass(frozen=True)
class EqualDraws:
    """`count` answers to every prompt."""

    count: int

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[Draws]:
        return [Draws(prompt, self.count) for prompt in range(len(prompts))]
