"""Sampling plans: number and temperature of the samples of each prompt of a fragment.

The algorithm makes the plan (`LanguageAlgorithm.sampling_plan`), every sampler calls it. State of the run comes with
the weights as extras, so a fragment depends on weights and names alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class PromptSamples(NamedTuple):
    """Samples of one prompt, which form one group."""

    prompt: int
    answers: int
    temperature_scale: float = 1.0


class SamplingPlan(Protocol):
    """Function from the prompts of a fragment to the samples of each."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[PromptSamples]:
        """Return the groups of a fragment, in order; every prompt has one at temperature scale 1."""


@dataclass(frozen=True)
class EqualSamples:
    """`count` answers to every prompt."""

    count: int

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[PromptSamples]:
        return [PromptSamples(prompt, self.count) for prompt in range(len(prompts))]
