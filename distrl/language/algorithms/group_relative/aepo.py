"""AEPO: some answers are replaced by correct ones sampled at another temperature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.advantages.token import virtual_temperature
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.curricula.replacement import replace_rows, replacement_count, select_regenerated
from distrl.language.curricula.sampling_plan import PromptSamples, SamplingPlan

#: Name of the temperature among the extras that travel with weights.
TEMPERATURE_SCALE = "aepo.temperature_scale"


class AEPOConfig(LanguageAlgorithmConfig):
    """AEPO: entropy held at a target by correct answers sampled at another temperature."""

    target_entropy: float = Field(0.5, ge=0)
    """Mean entropy of a token's distribution that is held, in nats. Usual: 0.25 to 1."""
    hot: float = Field(1.2, gt=1)
    """Temperature of the other answers while entropy is at or below the target, over the run's own."""
    cold: float = Field(0.8, gt=0, lt=1)
    """The same while it is above."""
    redrawn: float = Field(0.25, gt=0, le=1)
    """Share of the prompts that are answered once more at the other temperature. Usual: 0.25."""
    replaced: float = Field(0.06, ge=0, le=1)
    """Share of a batch's answers that give way to right ones of them; half of it to cool down. 0: GRPO. Usual: 0.06."""


@dataclass(frozen=True)
class RepeatedSamples:
    """Every prompt `count` times; a share of them again at the temperature scale of the extras."""

    count: int
    share: float

    def __call__(
        self, prompts: Sequence[Sequence[int]], extras: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> list[PromptSamples]:
        usual = [PromptSamples(prompt, self.count) for prompt in range(len(prompts))]
        if TEMPERATURE_SCALE not in extras:
            return usual
        again = rng.permutation(len(prompts))[: max(1, round(self.share * len(prompts)))]
        return usual + [
            PromptSamples(int(prompt), self.count, float(extras[TEMPERATURE_SCALE])) for prompt in sorted(again)
        ]


@register.algorithm("aepo", paper="Arbitrary Entropy Policy Optimization, 2025", entries=[215])
class AEPO(LanguageAlgorithm):
    """GRPO with entropy control by correct answers of a higher or lower temperature.

    Redrawn answers count as samples of the policy, so its log-probabilities are computed at the run's temperature.
    """

    Config = AEPOConfig
    measures_entropy = True

    last_entropy: float | None = None  # of the last update; before the first nothing is redrawn
    extra_state = ("last_entropy",)
    _redrawn: Columns | None = None  # of the present batch, prepared
    _replaced = 0

    @classmethod
    def sampling_plan(cls, config: Any) -> SamplingPlan:
        return RepeatedSamples(config.group_size, config.redrawn)

    def extras(self) -> dict[str, np.ndarray]:
        if self.last_entropy is None or not self.config.replaced:
            return super().extras()
        config = self.config
        scale = virtual_temperature(self.last_entropy, config.target_entropy, config.hot, config.cold)
        return {**super().extras(), TEMPERATURE_SCALE: np.array(scale)}

    def prepare(self, batch: Columns) -> Columns:
        """The answers at the run's own temperature; the others are kept aside."""
        self._redrawn = None
        if "temperature_scale" not in batch:
            return super().prepare(batch)
        others = batch.temperature_scale != 1.0
        redrawn, batch = batch[others], batch[~others]
        if len(redrawn.group):
            logp = self.scored(redrawn)  # as if they had been drawn at the run's temperature
            self._redrawn = super().prepare(redrawn.with_(logp=logp)).with_(old_logp=logp)
        return super().prepare(batch)

    def text_minibatches(self, batch: Columns, rng: np.random.Generator) -> Iterator[Columns]:
        """Minibatches of the batch with some answers replaced."""
        yield from super().text_minibatches(self.replace(batch, rng), rng)

    def replace(self, batch: Columns, rng: np.random.Generator) -> Columns:
        """Replace random rows of the batch by the first correct redrawn ones, with advantage 1."""
        self._replaced = 0
        if self._redrawn is None or self.last_entropy is None:
            return batch
        most = round(self.config.replaced * len(batch.group))
        count = replacement_count(self.last_entropy, self.config.target_entropy, most)
        chosen = select_regenerated(self._redrawn.advantage, count)
        places = torch.from_numpy(rng.permutation(len(batch.group))).to(chosen.device)
        self._replaced = len(chosen)
        return replace_rows(batch, self._redrawn, chosen, places)

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        self.last_entropy = metrics["policy/entropy"]
        self._redrawn = None
        return {"text/replaced": self._replaced / len(batch.group)}
