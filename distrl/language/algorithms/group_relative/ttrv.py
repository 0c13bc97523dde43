"""Learning without labels: what a prompt's answers agree on is taken for right."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.chain.component import component


class TTRVConfig(LanguageAlgorithmConfig):
    """TTRV: an answer's reward is its frequency in its group, less the group's entropy."""

    group_size: int = Field(32, ge=2)
    """Answers to each prompt, whose frequencies are the reward. Usual: 32."""
    label_free: ComponentConfig = "ttrv"
    """The reward: `{name: ttrv, alpha: 0.75, entropy_mode: batch}`, or `majority`: 1 for the most frequent answer."""
    advantage: ComponentConfig = "batch_normalized"
    """The entropy is the same for a prompt's answers, so advantages that center groups would cancel it."""


@register.algorithm("ttrv", paper="TTRV: Test-Time Reinforcement Learning, 2025", entries=[119])
class TTRV(LanguageAlgorithm):
    """Rewards from agreement alone. The verifier's results appear in the curves only.

    It sharpens what the model believes: where the most frequent answer is wrong, it learns the wrong one.
    """

    Config = TTRVConfig

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        self.label_free = component("reward", self.schedules.label_free)

    def add_columns(self, batch: Columns) -> Columns:
        """The verifier's reward is replaced: nothing after this knows it."""
        reward = self.label_free(batch)
        return batch.with_(reward=reward, value=reward, components=reward[:, None])
